"""This machine, measured: the speed of its products, of its memory, and of a training step."""

import functools
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mixer_dilated.benchmark.epoch_timing import TimedEpoch, on_noise
from mixer_dilated.benchmark.products import TimedProduct, large_product
from mixer_dilated.models.cpu import exact_gelu
from mixer_dilated.parallel.mesh import all_devices
from mixer_dilated.planning.devices import Hardware
from mixer_dilated.training.setup import Setup

# Of the arrays that memory's bandwidth is measured with.
SMALLEST, LARGEST = 2**16, 2**28
TURNS = 5
TURN_SECONDS = 0.02
STEPS_SECONDS = 0.5  # of a turn of training steps


def this_machine(dtype: str, array_bytes: int) -> Hardware:
    """One device of this machine.

    Args:
      dtype: that the config computes in; another one is not measured.
      array_bytes: of the arrays between its products, which caches may hold.

    Raises:
      UserError: JAX finds no device.
    """
    device, large = all_devices()[0], large_product()
    on_device = device.memory_stats()
    memory = on_device['bytes_limit'] if on_device else _host_bytes()
    return Hardware(
        title=f'{device.device_kind} (this machine, measured)',
        peak_flops={dtype: large.flops / _fastest(TimedProduct(large, dtype).seconds)},
        memory_bytes=memory,
        usable_bytes=memory,
        memory_bandwidth=elementwise_bandwidth(exact_gelu, array_bytes),
        remark='Peak and bandwidth (of GELU) are measured, with whatever else the machine does',
    )


def measured_step(setup: Setup, estimate: float) -> float:
    """Seconds of a training step on random images, on one device: the fastest of some turns.

    Args:
      setup: what to train.
      estimate: seconds of a step, which says how many make a turn.
    """
    steps = min(max(round(STEPS_SECONDS / estimate), 1), 500)
    setup = on_noise(setup, setup.image_size, steps)
    epoch = TimedEpoch(setup, setup.dataset.read('train'))
    return _fastest(epoch.seconds) / steps


def elementwise_bandwidth(function: Callable, array_bytes: int) -> float:
    """Bytes a second, read and written by a function of each number of a float32 array.

    Args:
      function: of an array, to one of its shape; it is called again and again on its result.
      array_bytes: of the array.
    """
    array_bytes = min(max(array_bytes, SMALLEST), LARGEST)
    array = jnp.ones(array_bytes // 4, jnp.float32)
    repeat = jax.jit(functools.partial(_repeated, function))

    def turn(count: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(repeat(array, count))
        return time.perf_counter() - start

    count = 1
    turn(count)  # compiles
    while turn(count) < TURN_SECONDS:
        count *= 2
    return 2 * array_bytes * count / _fastest(lambda: turn(count))


def _repeated(function: Callable, array: jax.Array, count: int) -> jax.Array:
    def again(_, array):
        return jax.lax.optimization_barrier(function(array))

    return jax.lax.fori_loop(0, count, again, array)


def _fastest(seconds: Callable[[], float]) -> float:
    """Of some turns: what else the machine does only makes them longer."""
    return min(seconds() for _ in range(TURNS))


def _host_bytes() -> int:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
