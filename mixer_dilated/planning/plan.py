"""What a config asks of devices, and how long a step takes at their best: `Plan`, `plan_of`."""

import dataclasses

from mixer_dilated.planning.collectives import Collective, collectives_of
from mixer_dilated.planning.devices import Devices, part_of
from mixer_dilated.planning.hardware import HARDWARE, Hardware
from mixer_dilated.planning.links import axis_dimensions
from mixer_dilated.planning.memory import memory_bytes
from mixer_dilated.planning.shapes import Shapes
from mixer_dilated.planning.share import Share, share_of
from mixer_dilated.planning.this_machine import this_machine
from mixer_dilated.planning.work import Work, work_of
from mixer_dilated.training.setup import Setup

IN_FLIGHT = 2  # batches that steps train on or wait for


@dataclasses.dataclass(frozen=True)
class Plan:
    """A task on devices; every number is of one device and one step.

    Attributes:
      setup: what is trained.
      shapes: of its network and state.
      devices: which, and how many.
      hardware: what one of them can do.
      share: what it does of a step.
      memory: bytes that it needs, by what they are for (see `memory_bytes`).
      streamed: batches of images on it; 0 if the training set is there as a whole.
      work: what it computes.
      exchanges: (what it exchanges, seconds of that), by axis of the mesh and kind.
      seconds: of its work: 'products', 'elementwise', 'update'.
    """

    setup: Setup
    shapes: Shapes
    devices: Devices
    hardware: Hardware
    share: Share
    memory: dict[str, int]
    streamed: int
    work: Work
    exchanges: tuple[tuple[Collective, float], ...]
    seconds: dict[str, float]

    @property
    def total_bytes(self) -> int:
        """Memory that it needs in all."""
        return sum(self.memory.values())

    @property
    def usable_bytes(self) -> float:
        """Memory that a program may take of it."""
        return self.hardware.memory_bytes * self.hardware.usable

    @property
    def fits(self) -> bool:
        """Whether there is as much as it needs."""
        return self.total_bytes <= self.usable_bytes

    @property
    def computing(self) -> float:
        """Seconds of its own work."""
        return sum(self.seconds.values())

    def exchanging(self, axis: str) -> float:
        """Seconds of what it exchanges along an axis of the mesh."""
        return sum(seconds for each, seconds in self.exchanges if each.axis == axis)

    @property
    def step(self) -> float:
        """Seconds of a step: what goes along 'data' goes beside the computation, as far as that
        lasts; what goes along 'model' is waited for."""
        return max(self.computing, self.exchanging('data')) + self.exchanging('model')

    @property
    def step_in_turn(self) -> float:
        """Seconds of a step in which nothing goes beside anything else."""
        return self.computing + self.exchanging('data') + self.exchanging('model')

    @property
    def images_per_second(self) -> float:
        """Of all devices and seeds."""
        return self.setup.config.num_seeds * self.setup.config.batch / self.step

    @property
    def run(self) -> float:
        """Seconds of all steps of the run, without evaluation, start and reading."""
        return self.setup.total_steps * self.step


def plan_of(setup: Setup, shapes: Shapes, devices: Devices, hardware: Hardware) -> Plan:
    """The plan for a task on devices.

    Args:
      setup: what to train; only its shapes are looked at.
      shapes: of its network and state, `shapes_of(task)`.
      devices: which, and how many.
      hardware: one of them, `hardware_of(devices, …)`.

    Raises:
      UserError: the mesh or the batch does not fit so many devices.
    """
    share = share_of(setup, shapes, devices.count)
    on_cpu, streamed = not hardware.seeds_at_once, streamed_batches(setup)
    memory = memory_bytes(setup, shapes, share, streamed, on_cpu=on_cpu)
    work = work_of(share, memory['parameters'], memory['optimizer'])
    along = axis_dimensions(hardware.links, devices.shape, share.mesh_shape)
    return Plan(
        setup=setup,
        shapes=shapes,
        devices=devices,
        hardware=hardware,
        share=share,
        memory=memory,
        streamed=streamed,
        work=work,
        exchanges=tuple(
            (each, each.seconds(hardware.links, along[each.axis]))
            for each in collectives_of(shapes, share, on_cpu=on_cpu)
        ),
        seconds=work.seconds(hardware, setup.config.dtype),
    )


def hardware_of(devices: Devices, setup: Setup, shapes: Shapes) -> Hardware:
    """One of the devices, from the table or measured here.

    Raises:
      UserError: JAX finds no device here, or the mesh does not fit.
    """
    if not devices.measured:
        return HARDWARE[devices.kind]
    share = share_of(setup, shapes, devices.count)
    array_bytes = max(share.stream, *share.hidden) * share.dtype_bytes
    return part_of(this_machine(setup.config.dtype, array_bytes), devices.count)


def streamed_batches(setup: Setup) -> int:
    """Batches of images on the devices where they are streamed; 0 where all images are there."""
    # Those that wait, one on its way, and those of steps that are not finished.
    return setup.config.input.prefetch + 1 + IN_FLIGHT if setup.streams('train') else 0
