"""Training and evaluation as programs of one batch each, for examples that stream."""

import collections
import functools
import threading
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding

from mixer_dilated.data.examples import Examples
from mixer_dilated.data.preprocessing import upsample
from mixer_dilated.parallel.mesh import (
    batches_sharding,
    make_global_array,
    process_local_indices,
    put_on_mesh,
    seeds_sharding,
    shard_batch,
    shared_batch_sharding,
)
from mixer_dilated.parallel.multihost import to_numpy
from mixer_dilated.patches.geometry import Pair
from mixer_dilated.training.checkpoint import step_number
from mixer_dilated.training.epoch import TrainMetrics, added
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.streamed_examples import StreamedExamples, epoch_orders

IN_FLIGHT = 2  # steps that the device has not finished when the next one is handed to it
MAX_SECONDS = 1.0  # after which training looks up though it has steps left, or none done


def train_batch(
    state: TrainState,
    sums: TrainMetrics,
    seed_key: jax.Array,
    examples: Examples,
    _,
    *,
    step: Callable,
    image_size: Pair,
) -> tuple[TrainState, TrainMetrics, jax.Array]:
    """One step of `epoch.train_steps`, on a batch from elsewhere.

    Returns:
      The next state, the sums with this step, and its number, which can be waited for when the
      state is used up.
    """
    state, metrics = step(state, *_shown(examples, image_size), seed_key)
    return state, added(sums, metrics, state.step), jnp.copy(state.step)


def evaluate_batch(
    state: TrainState,
    sums: dict[str, jax.Array],
    shared: tuple[Examples, jax.Array],
    *,
    step: Callable,
    image_size: Pair,
) -> dict[str, jax.Array]:
    """One batch of `epoch.evaluate`: the sums with it.

    Args:
      state: the parameters to evaluate.
      sums: of the batches before it, 'loss' and 'correct'.
      shared: the batch, and which of its examples count.
      step: `eval_step` with its settings bound.
      image_size: as in `epoch.train_steps`.
    """
    examples, counted = shared
    found = step(state, *_shown(examples, image_size), shard_batch(counted))
    return jax.tree.map(jnp.add, sums, found)


def predict_batch(
    state: TrainState, examples: Examples, *, classify: Callable, image_size: Pair
) -> jax.Array:
    """One batch of `epoch.predict`."""
    return classify(state, _shown(examples, image_size).images)


def _shown(examples: Examples, image_size: Pair) -> Examples:
    images, labels = (shard_batch(array) for array in examples)
    return Examples(upsample(images, image_size), labels)


class BatchPrograms:
    """What `CompiledFunctions` does for examples in memory, for those that stream.

    Args:
      setup: what is trained.
      mesh: the devices.
      seed_keys: the keys of the seeds, on them.
      compiled_once: of `CompiledFunctions`: compiles a function for arguments, once a key.
    """

    def __init__(self, setup: Setup, mesh: Mesh, seed_keys: jax.Array, compiled_once: Callable):
        self._setup, self._mesh, self._seed_keys = setup, mesh, seed_keys
        self._compiled_once = compiled_once

    def training_program(
        self, step: Callable, state: TrainState, sums: TrainMetrics
    ) -> jax.stages.Compiled:
        """The compiled `train_batch`.

        Args:
          step: `train_step` with its settings bound.
          state, sums: of all seeds, abstract.
        """
        config = self._setup.config
        function = functools.partial(train_batch, step=step, image_size=self._setup.image_size)
        shape, sharding = (config.num_seeds, config.batch), batches_sharding(self._mesh)
        arguments = (state, sums, self._seed_keys, self._abstract(shape, sharding), ())
        of_seeds = seeds_sharding(self._mesh)
        results = (jax.tree.map(lambda leaf: leaf.sharding, state), of_seeds, of_seeds)
        return self._compiled_once('train', function, *arguments, donate=(0, 1), results=results)

    def train_steps(self, examples: StreamedExamples, program: jax.stages.Compiled) -> Callable:
        """As `CompiledFunctions.train_steps`, but that fewer steps may be done than are asked for.

        After a second it stops, even if it had to wait for the first batch all the time; several
        processes, which have to do the same, do all steps. The batches that are next follow from
        the step of the state alone. No step waits for the device but for the one `IN_FLIGHT` steps
        before.
        """
        config, count = self._setup.config, self._setup.train_examples
        draw = functools.partial(epoch_orders, config.seed, config.num_seeds, count)
        shape, sharding = (config.num_seeds, config.batch), batches_sharding(self._mesh)
        place = functools.partial(_placed, sharding, shape)
        own = process_local_indices(sharding, shape)
        most = MAX_SECONDS if jax.process_count() == 1 else threading.TIMEOUT_MAX

        def run(state, sums, num_steps):
            feed = examples.epochs(draw, config.batch, step_number(state), place, own)
            start, unfinished = time.perf_counter(), _Unfinished()
            for _ in range(num_steps):
                left = start + most - time.perf_counter()
                batch = feed.next_batch(left) if left > 0 else None
                if batch is None:
                    break
                state, sums, number = program(state, sums, self._seed_keys, batch, ())
                unfinished.add(number)
            return state, sums

        return run

    def evaluation(self, examples: StreamedExamples, batch: int, step: Callable) -> Callable:
        """As `CompiledFunctions.evaluation`.

        Args:
          examples: to be evaluated.
          batch: of them a step.
          step: `eval_step` with its settings bound.
        """
        function = functools.partial(evaluate_batch, step=step, image_size=self._setup.image_size)
        num_examples = len(examples.labels)
        seeds = self._setup.config.num_seeds
        zeros = {'loss': np.zeros(seeds, np.float32), 'correct': np.zeros(seeds, np.int32)}

        def evaluate(state):
            sums = put_on_mesh(zeros, seeds_sharding(self._mesh))
            unfinished = _Unfinished()
            for shared in self._pass(examples, batch):
                key = ('evaluate batch', shared[0].images.shape)
                program = self._compiled_once(key, function, state, sums, shared)
                sums = program(state, sums, shared)
                unfinished.add(sums)
            return {**sums, 'loss': sums['loss'] / np.float32(num_examples)}

        return evaluate

    def prediction(self, examples: StreamedExamples, batch: int, classify: Callable) -> Callable:
        """As `CompiledFunctions.prediction`, with log-probabilities on the host.

        Args:
          examples: to be predicted.
          batch: of them a step.
          classify: `class_log_probabilities` with its settings bound.
        """
        function = functools.partial(
            predict_batch, classify=classify, image_size=self._setup.image_size
        )

        def predict(state):
            found = []
            for shared, _ in self._pass(examples, batch):
                key = ('predict batch', shared.images.shape)
                program = self._compiled_once(key, function, state, shared)
                found.append(to_numpy(program(state, shared)))
            return np.concatenate(found, axis=1)[:, : len(examples.labels)]

        return predict

    def _pass(self, examples: StreamedExamples, batch: int) -> Iterator[tuple[Examples, jax.Array]]:
        """Batches that hold every example once, on the devices, and which of each count."""
        sharding, num_examples = shared_batch_sharding(self._mesh), len(examples.labels)

        def place(host):
            one_for_all = Examples(*(array[0] for array in host))
            return one_for_all.labels, _placed(sharding, (batch,), one_for_all)

        feed, labels = examples.passes(batch, place, process_local_indices(sharding, (batch,))), []
        for start in range(0, num_examples, batch):
            of_batch, on_devices = feed.next_batch()
            labels.append(of_batch)
            counted = np.arange(start, start + batch) < num_examples
            yield on_devices, put_on_mesh(counted, sharding)
        if jax.process_count() == 1:
            examples.note_labels(np.concatenate(labels)[:num_examples])

    def _abstract(self, shape: tuple[int, ...], sharding: NamedSharding) -> Examples:
        abstract = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
        return Examples(
            abstract((*shape, *self._setup.dataset.stored_shape), jnp.uint8),
            abstract(shape, jnp.int32),
        )


def _placed(sharding: NamedSharding, shape: tuple[int, ...], examples: Examples) -> Examples:
    """Batches of `shape` on the devices, from the part that this process has."""
    return Examples(*(make_global_array(array, sharding, shape) for array in examples))


class _Unfinished:
    """What the device was given to do; nobody runs ahead of it by more than `IN_FLIGHT`.

    Each batch that waits for its step takes memory on the device.
    """

    def __init__(self):
        self._results = collections.deque()

    def add(self, result) -> None:
        self._results.append(result)
        if len(self._results) > IN_FLIGHT:
            jax.block_until_ready(self._results.popleft())
