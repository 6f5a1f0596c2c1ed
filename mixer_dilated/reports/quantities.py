"""What a step costs, quantity by quantity, and what tables, plots and sentences call it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A quantity of the resolution study.

    Attributes:
      noun: what it is called.
      axis: label of an axis, with the unit it is drawn in.
      scale: factor from the unit of `resolution.jsonl` to that of the axis.
    """

    noun: str
    axis: str
    scale: float


QUANTITIES = {
    'num_tokens': Quantity('tokens', 'tokens an image', 1.0),
    'flops_per_image': Quantity('FLOPs', 'MFLOPs an image, forward', 1e-6),
    'step_seconds': Quantity('step time', 'milliseconds a training step', 1e3),
    'memory_bytes': Quantity('memory', 'MiB of temporary buffers', 2.0**-20),
}
