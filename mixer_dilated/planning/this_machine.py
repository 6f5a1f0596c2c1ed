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

TURNS = 5
STEPS_SECONDS = 0.5  # of a turn of training steps


def this_machine(setup: Setup) -> Hardware:
    """One device of this machine, for a config's dtype and the size of its activations.

    Raises:
      UserError: JAX finds no device.
    """
    config, device, side = setup.config, all_devices()[0], large_side()
    stats = device.memory_stats()
    memory = (
        stats['bytes_limit'] if stats else os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    )
    matmul = _fastest(time_matmul(side, side, side, config.dtype).seconds)
    # As large as the arrays between matrix products, which caches may hold.
    count = config.batch * setup.num_tokens * config.model.hidden_dim
    activations = jnp.ones(min(max(count, 2**14), 2**26), jnp.float32)
    gelu = _fastest(TimedFunction(exact_gelu, activations).seconds)
    return Hardware(
        title=f'{device.device_kind} (this machine, measured)',
        peak_flops={config.dtype: 2 * side**3 / matmul},
        memory_bytes=memory,
        usable_bytes=memory,
        memory_bandwidth=2 * activations.nbytes / gelu,  # read and written
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
