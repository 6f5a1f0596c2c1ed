"""Seconds that can be compared: work that is compiled and warm takes turns on one machine."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mixer_dilated.config import changed
from mixer_dilated.data.examples import Examples, InMemoryDataset
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import Setup, grid_tokens


class Timed(Protocol):
    """Work that can be done again and again, compiled and warm."""

    def seconds(self) -> float:
        """Does it once and returns how long it took."""


def take_turns(
    timed: Mapping[str, Timed], rounds: int, after_each: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each in every round, A B C A B C; `after_each` is called after every turn.

    Whatever else the machine does slows all alike, and a round's times can be paired.
    """
    seconds = {name: [] for name in timed}
    for _ in range(rounds):
        for name, work in timed.items():
            seconds[name].append(work.seconds())
            after_each()
    return seconds


class TimedEpoch:
    """A setup on one device, compiled, that trains one epoch after the other.

    A first epoch, which is not timed, is trained at once. The training set `examples`, read from
    the data set if None, stays where it is if it is on the device already.
    """

    def __init__(self, setup: Setup, examples: Examples | None = None):
        self._compiled = CompiledFunctions.for_devices(setup, jax.devices()[:1])
        self.training_bytes = self._compiled.training_bytes()
        self.compile_seconds = self._compiled.compile_seconds
        self._inputs = self._compiled.in_memory(examples or setup.dataset.read('train'))
        self.examples = self._inputs.examples
        self._state = self._compiled.init_state()
        self.seconds()

    def seconds(self) -> float:
        start = time.perf_counter()
        self._state, _ = self._compiled.train_epoch(self._state, self._inputs)
        return time.perf_counter() - start


class TimedFunction:
    """A function of arrays on one device, compiled and warm, many calls to a turn of so long."""

    def __init__(self, function: Callable, *arguments: jax.Array, milliseconds: float = 20):
        self._arguments = jax.device_put(arguments, jax.devices()[0])
        self.repeat = jax.jit(functools.partial(_repeat, function))
        self._count = 1
        self._turn()  # compiles
        while (seconds := self._turn()) * 1e3 < milliseconds and self._count < 10**6:
            self._count *= min(max(2, int(milliseconds / 1e3 / max(seconds, 1e-9))), 100)

    def seconds(self) -> float:
        """How long one call takes, the mean over a turn."""
        return self._turn() / self._count

    def _turn(self) -> float:
        start = time.perf_counter()
        jax.block_until_ready(self.repeat(self._count, *self._arguments))
        return time.perf_counter() - start


def _repeat(function: Callable, count: int, *arguments: jax.Array) -> jax.Array:
    """The function's value, computed `count` times."""

    def call(_, carried):
        # The barrier ties each call to the one before: none can be left out or done early.
        arguments, _ = jax.lax.optimization_barrier(carried)
        return arguments, function(*arguments)

    value = jax.eval_shape(function, *arguments)
    zeros = jnp.zeros(value.shape, value.dtype)
    return jax.lax.fori_loop(0, count, call, (arguments, zeros))[1]


def time_matmul(
    rows: int, inner: int, columns: int, dtype: str, milliseconds: float = 20
) -> TimedFunction:
    """(rows × inner) · (inner × columns) of random numbers, timed alone."""
    left, right = jax.random.normal(jax.random.key(0), (2,))
    left = jnp.full((rows, inner), left).astype(dtype)
    right = jnp.full((inner, columns), right).astype(dtype)
    return TimedFunction(jnp.matmul, left, right, milliseconds=milliseconds)


def large_side() -> int:
    """Side of the square matrices whose product has the peak speed of the device, nearly."""
    return 2048 if jax.default_backend() == 'cpu' else 8192


def on_random_images(setup: Setup, image_size: tuple[int, int], steps: int) -> Setup:
    """The same network on random images (height, width), `steps` training batches of them an epoch.

    Raises UserError: the patches do not fit images of this size.
    """
    few = {'optimizer.warmup_steps': 0, 'dataset.train_split': 'train', 'input.mode': 'memory'}
    config = changed(setup.config, few)
    *_, channels = setup.dataset.image_shape
    count, draw = steps * config.batch, np.random.default_rng(0)
    images = draw.integers(0, 256, (count, *image_size, channels), np.uint8)
    labels = draw.integers(0, setup.dataset.num_classes, count, np.int32)
    classes = range(setup.dataset.num_classes)
    dataset = InMemoryDataset('noise', {'train': Examples(images, labels)}, classes)
    examples = {'train': count, 'test': config.batch}
    return Setup(config, dataset, examples, grid_tokens(config, image_size))
