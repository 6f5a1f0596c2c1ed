"""How many processor cores there are for this process: `num_cores`."""

import os


def num_cores() -> int:
    """Cores that this process may use, as a scheduler or `taskset` has it."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
