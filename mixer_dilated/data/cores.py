"""How many processor cores there are for this process: `num_cores`."""

import contextlib
import os
import pathlib

QUOTA = pathlib.Path('/sys/fs/cgroup/cpu.max')  # of a container: microseconds, of a period


def num_cores() -> int:
    """Cores that this process may use, as a scheduler, `taskset` or a container's quota has it."""
    if hasattr(os, 'sched_getaffinity'):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # none, or 'max'
        quota, period = map(int, QUOTA.read_text().split())
        cores = min(cores, max(1, -(-quota // period)))
    return cores
