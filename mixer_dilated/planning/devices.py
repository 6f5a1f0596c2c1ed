"""From the word of --devices to devices and their number: 'v5e:4x4', 'h100:16', 'cpu:8', 'this'."""

import dataclasses
import math

from mixer_dilated.errors import UserError
from mixer_dilated.planning.hardware import HARDWARE, Hardware
from mixer_dilated.planning.links import SharedMemory

EXAMPLES = 'v5e:4x4, h100:16, cpu:8 or this'


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices of one kind.

    Attributes:
      asked: the word that asked for them.
      kind: a row of the table `HARDWARE`; 'cpu' for equal parts of this machine's CPU, 'this' for
        the first device that JAX finds here.
      shape: how many there are along each dimension of their network.
      count: how many in all.
    """

    asked: str
    kind: str
    shape: tuple[int, ...]
    count: int

    @property
    def measured(self) -> bool:
        """Whether they are of this machine."""
        return self.kind in ('cpu', 'this')


def parse_devices(word: str) -> Devices:
    """Reads one word of --devices.

    Raises:
      UserError: no such device, or no such number of them.
    """
    kind, colon, size = word.strip().lower().partition(':')
    if kind == 'this' and not colon:
        return Devices(word, kind, (1,), 1)
    if kind not in (*HARDWARE, 'cpu'):
        raise UserError(
            f'--devices={word}: no such device; known are {", ".join(HARDWARE)}, cpu and this, for '
            f'example {EXAMPLES}'
        )
    links = HARDWARE[kind].links if kind in HARDWARE else SharedMemory(1.0)
    try:
        shape = links.shape(size)
    except ValueError as error:
        raise UserError(
            f'--devices={word}: no such number of {kind}; allowed: {error}; for example {EXAMPLES}'
        ) from None
    return Devices(word, kind, shape, math.prod(shape))


def part_of(machine: Hardware, devices: int) -> Hardware:
    """One of several equal devices that a machine's CPU is taken for."""
    return dataclasses.replace(
        machine,
        peak_flops={dtype: peak / devices for dtype, peak in machine.peak_flops.items()},
        memory_bytes=machine.memory_bytes / devices,
        memory_bandwidth=machine.memory_bandwidth / devices,
        elementwise_bandwidth=machine.elementwise_bandwidth / devices,
    )
