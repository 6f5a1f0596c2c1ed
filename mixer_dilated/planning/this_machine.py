"""This machine, measured: the speed of its matrix products, of its memory, of a training step."""

import os
from collections.abc import Callable

import jax.numpy as jnp

from mixer_dilated.models.cpu import exact_gelu
from mixer_dilated.parallel.mesh import all_devices
from mixer_dilated.planning.devices import Hardware
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.timing import (
    TimedEpoch,
    TimedFunction,
    large_side,
    on_random_images,
    time_matmul,
)

# Of the arrays that memory's bandwidth is measured with.
MIN_BYTES, MAX_BYTES = 2**16, 2**28
TURNS = 5
STEPS_SECONDS = 0.5  # of a turn of training steps


def this_machine(dtype: str, array_bytes: int) -> Hardware:
    """One device of this machine.

    Args:
      dtype: that the config computes in; another one is not measured.
      array_bytes: of the arrays between its matrix products, which caches may hold.

    Raises:
      UserError: JAX finds no device.
    """
    device, side = all_devices()[0], large_side()
    on_device = device.memory_stats()
    memory = on_device['bytes_limit'] if on_device else _host_bytes()
    array_bytes = min(max(array_bytes, MIN_BYTES), MAX_BYTES)
    gelu = TimedFunction(exact_gelu, jnp.ones(array_bytes // 4, jnp.float32))
    return Hardware(
        title=f'{device.device_kind} (this machine, measured)',
        peak_flops={dtype: 2 * side**3 / _fastest(time_matmul(side, side, side, dtype).seconds)},
        memory_bytes=memory,
        usable_bytes=memory,
        memory_bandwidth=2 * array_bytes / _fastest(gelu.seconds),  # read and written
        remark='Peak and bandwidth (of GELU) are measured, with whatever else the machine does',
    )


def measured_step(setup: Setup, estimate: float) -> float:
    """Seconds of a training step on random images, on one device: the fastest of some turns.

    Args:
      setup: what to train.
      estimate: seconds of a step, which determine how many make a turn.
    """
    steps = min(max(round(STEPS_SECONDS / estimate), 1), 500)
    return _fastest(TimedEpoch(on_random_images(setup, setup.image_size, steps)).seconds) / steps


def _fastest(seconds: Callable[[], float]) -> float:
    """Of some turns: what else the machine does only makes them longer."""
    return min(seconds() for _ in range(TURNS))


def _host_bytes() -> int:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
