"""This machine, measured: the speed of its products and of its memory."""

import functools
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mixer_dilated.benchmark.products import TimedProduct, large_product
from mixer_dilated.models.cpu import exact_gelu
from mixer_dilated.parallel.mesh import all_devices
from mixer_dilated.planning.hardware import Hardware
from mixer_dilated.planning.links import SharedMemory

# Of the arrays that memory's bandwidth is measured with.
SMALLEST, LARGEST = 2**16, 2**28
TURNS = 5
TURN_SECONDS = 0.02


def this_machine(dtype: str, array_bytes: int) -> Hardware:
    """One device of this machine.

    Args:
      dtype: that the config computes in; another one is not measured.
      array_bytes: of the arrays between its products, which caches may hold.

    Raises:
      UserError: JAX finds no device.
    """
    device, large = all_devices()[0], large_product()
    bandwidth = elementwise_bandwidth(_doubled, array_bytes)
    on_device = device.memory_stats()
    return Hardware(
        title=f'{device.device_kind} (this machine, measured)',
        peak_flops={dtype: large.flops / _fastest(TimedProduct(large, dtype).seconds)},
        memory_bytes=on_device['bytes_limit'] if on_device else _host_bytes(),
        usable=1.0,
        memory_bandwidth=bandwidth,
        elementwise_bandwidth=elementwise_bandwidth(exact_gelu, array_bytes),
        links=SharedMemory(bandwidth / 2),
        seeds_at_once=device.platform != 'cpu',
        remark='measured now, with whatever else this machine does',
    )


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


def _doubled(array: jax.Array) -> jax.Array:
    return 2 * array


def _fastest(seconds: Callable[[], float]) -> float:
    """Of some turns: what else the machine does only makes them longer."""
    return min(seconds() for _ in range(TURNS))


def _host_bytes() -> int:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
