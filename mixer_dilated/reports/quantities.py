"""What a step costs, quantity by quantity, and what tables, plots and sentences call it."""

from typing import NamedTuple


class Quantity(NamedTuple):
    """What a quantity is called, and the label of its axis, with the unit and its factor."""

    noun: str
    axis: str
    scale: float


QUANTITIES = {
    'num_tokens': Quantity('tokens', 'tokens an image', 1.0),
    'flops_per_image': Quantity('FLOPs', 'MFLOPs an image, forward', 1e-6),
    'step_seconds': Quantity('step time', 'milliseconds a training step', 1e3),
    'memory_bytes': Quantity('memory', 'MiB of temporary buffers', 2.0**-20),
}
