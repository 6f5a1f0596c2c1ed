"""The compiled functions of a run: initialise, train a chunk, evaluate a chunk."""

import collections
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from flax.training.train_state import TrainState
from jaxtyping import Array, Float

from mixer_dilated.config import num_phases
from mixer_dilated.data.augmentation import augmentation_from_config
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.input_pipeline import (
    Chunk,
    InMemoryPipeline,
    InputPipeline,
    eval_index,
    eval_sharding,
    train_sharding,
)
from mixer_dilated.parallel.mesh import (
    fit_mesh,
    make_mesh,
    on_cpu,
    put_on_mesh,
    replicated,
    seeds_sharding,
    vmap_seeds,
)
from mixer_dilated.parallel.multihost import all_devices, to_numpy
from mixer_dilated.parallel.partition import Partition, compiler_options, state_shardings
from mixer_dilated.random_keys import seed_keys
from mixer_dilated.training.optimizer import make_optimizer, stop_frozen_gradients
from mixer_dilated.training.run_state import RunState, TrainMetrics
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import create_model, create_train_state
from mixer_dilated.training.step import EVALUATION, eval_step, train_chunk, train_step

SMALL_NETWORKS = 1_000_000  # parameters, of all seeds


class CompiledFunctions:
    """The functions of all seeds of a run, compiled for the devices when they are first asked for.

    Every array of a state and of a result has an axis of `config.num_seeds` seeds first. Raises
    UserError if `config.mesh` does not fit the devices (all if None), the seeds or the network.

    Attributes:
      mesh, mesh_shape, platform: the devices, how many are along 'seeds', 'data' and 'model', and
        their kind, 'cpu', 'gpu' or 'tpu'.
      partition: of the parameters over them.
    """

    def __init__(self, setup: Setup, devices: Sequence[jax.Device] | None = None):
        config = setup.config
        self.setup = setup
        self.mesh = make_mesh(config, devices)
        self.mesh_shape = dict(self.mesh.shape)
        self.partition = Partition(self.mesh_shape, config.mesh.fsdp)
        self.platform = self.mesh.devices.flat[0].platform
        self._options = compiler_options(self.platform, config.mesh.fsdp)
        model = create_model(config, setup.dataset.num_classes, self.platform)
        optimizer = make_optimizer(config.optimizer, setup.total_steps)
        create = functools.partial(create_train_state, model, optimizer, setup.dataset.image_shape)
        self._create_states = vmap_seeds(lambda key, _: create(key), self.mesh)
        self._compiled, self._seconds = {}, []
        self._locks = collections.defaultdict(threading.Lock)  # who asks second waits

    @classmethod
    def for_devices(cls, setup: Setup, devices: Sequence[jax.Device] | None = None):
        """Those for devices that `config.mesh` may not fit (see `fit_mesh`); for all if None."""
        config = fit_mesh(setup.config, len(devices or all_devices()))
        return cls(dataclasses.replace(setup, config=config), devices)

    @property
    def compile_seconds(self) -> float:
        """Of tracing and compiling so far, summed over the functions."""
        return sum(self._seconds)

    @functools.cached_property
    def _seed_keys(self) -> jax.Array:
        return jax.jit(self._make_keys, out_shardings=seeds_sharding(self.mesh))()

    def _make_keys(self) -> jax.Array:
        return seed_keys(self.setup.config.seed, self.setup.config.num_seeds)

    def _abstract_keys(self) -> jax.ShapeDtypeStruct:
        return self.abstract_of_seeds(jax.eval_shape(self._make_keys))

    def in_memory(self, examples: Examples) -> InMemoryPipeline:
        """The input pipeline of examples that are decoded already."""
        return InMemoryPipeline(examples, self.setup.config, self.mesh)

    def compile_training(self, *, initialise: bool) -> None:
        """Compiles side by side what a first step needs, with `initialise` that of a new run."""
        functions = [self.train_function] + [self.init_function] * initialise
        self.abstract_state  # noqa: B018 - or each thread would trace it
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda function: function(), functions))

    def init_state(self) -> TrainState:
        return self.init_function()(self._seed_keys, ())

    def empty_metrics(self) -> TrainMetrics:
        """The metrics at the start of an epoch."""
        shape = (self.setup.config.num_seeds,)
        return put_on_mesh(TrainMetrics.empty(shape), seeds_sharding(self.mesh))

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state; nothing is computed."""
        abstract = jax.eval_shape(self._create_states, self._abstract_keys(), ())
        shardings = state_shardings(abstract, self.mesh, self.partition)
        return jax.tree.map(_abstract, abstract, shardings)

    def abstract_run_state(self) -> RunState:
        """Shapes, dtypes and shardings of the arrays of a checkpoint."""
        empty = TrainMetrics.empty((self.setup.config.num_seeds,))
        return RunState(self.abstract_state, self.abstract_of_seeds(empty))

    def abstract_of_seeds(self, tree):
        """Shapes, dtypes and shardings of a tree of arrays (seeds, …)."""
        return jax.tree.map(lambda leaf: _abstract(leaf, seeds_sharding(self.mesh)), tree)

    def train_chunk(
        self, state: TrainState, metrics: TrainMetrics, chunk: Chunk
    ) -> tuple[TrainState, TrainMetrics]:
        """`step.train_chunk` of every seed; the state that is passed is donated."""
        counts = np.int32(chunk.first_step), np.int32(chunk.num_steps)
        # In a stream each seed has its own batch, in memory its own order of one split.
        own, shared = (None, chunk.index), (chunk.examples, *counts)
        if chunk.index is None:
            own, shared = (chunk.examples, None), (None, *counts)
        return self.train_function()(state, metrics, self._seed_keys, own, shared)

    def eval_step(
        self, state: TrainState, sums: dict[str, jax.Array], batch: Chunk
    ) -> tuple[dict[str, jax.Array], Float[Array, 'seeds batch classes']]:
        """`step.eval_step` of every seed, compiled once for batches of one shape."""
        function = self.eval_function(batch.examples.images.shape)
        return function(state, sums, (batch.examples, batch.index))

    def empty_sums(self) -> dict[str, jax.Array]:
        """'loss', 'correct' and 'top5' at the start of an evaluation."""
        return put_on_mesh(self._zeros(), seeds_sharding(self.mesh))

    def _zeros(self) -> dict[str, np.ndarray]:
        seeds = self.setup.config.num_seeds
        return {name: np.zeros(seeds, dtype) for name, dtype in EVALUATION.items()}

    def train_epoch(
        self, state: TrainState, inputs: InputPipeline
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """Trains a whole epoch from its start; returns the next state, and the epoch's metrics."""
        metrics, steps = self.empty_metrics(), self.setup.steps_per_epoch
        step = int(to_numpy(state.step).flat[0])
        for chunk in inputs.train_chunks(step, steps, seconds=None):
            state, metrics = self.train_chunk(state, metrics, chunk)
        return state, to_numpy(metrics).compute(steps, self.setup.config.batch)

    def evaluate(self, state: TrainState, inputs: InputPipeline) -> dict[str, np.ndarray]:
        """'loss' (mean), 'correct' and 'top5' (counts) over all examples, on the host."""
        return self.evaluate_and_predict(state, inputs, keep_log_probs=False)[0]

    def evaluate_and_predict(
        self, state: TrainState, inputs: InputPipeline, *, keep_log_probs: bool = True
    ) -> tuple[dict[str, np.ndarray], Float[np.ndarray, 'seeds examples classes'] | None]:
        """What `evaluate` returns, and log-probabilities of all examples in their order."""
        count = len(inputs.data_source)
        sums, log_probs = self.empty_sums(), []
        for batch in inputs.eval_batches():
            previous = sums
            sums, of_batch = self.eval_step(state, sums, batch)
            if keep_log_probs:  # those of the batch before go to the host
                log_probs[-1:] = [*map(to_numpy, log_probs[-1:]), of_batch]
            jax.block_until_ready(previous)  # at most two batches wait on the devices
        log_probs[-1:] = map(to_numpy, log_probs[-1:])
        means = to_numpy(sums)
        means['loss'] = means['loss'] / np.float32(count)
        return means, np.concatenate(log_probs, axis=1)[:, :count] if keep_log_probs else None

    def train_function(self) -> jax.stages.Compiled:
        """The compiled `step.train_chunk` of all seeds."""
        if 'train' in self._compiled:
            return self._compiled['train']
        config, run = self.setup.config, self.abstract_run_state()
        step = functools.partial(
            train_step,
            loss=config.loss,
            augmentation=augmentation_from_config(config),
            image_size=self.setup.image_size,
            param_transform=functools.partial(stop_frozen_gradients, config.optimizer),
            accum_steps=config.accum_steps,
            # On a CPU `cond` is a branch and free, so the update is guarded with 'stop' too.
            skip_nonfinite=config.on_nonfinite == 'skip' or on_cpu(self.mesh),
        )
        function = vmap_seeds(functools.partial(train_chunk, step=step), self.mesh)
        keys, chunk = self._abstract_keys(), self._abstract_chunk()
        arguments = run.state, run.epoch_metrics, keys, *chunk
        shardings = _shardings(run.state), seeds_sharding(self.mesh)
        settings = {'donate_argnums': 0, 'out_shardings': shardings}
        return self._compile_once('train', function, *arguments, **settings)

    def eval_function(self, images_shape: tuple[int, ...]) -> jax.stages.Compiled:
        """The compiled `step.eval_step` of all seeds, for images (1, B, H, W, C) of this shape."""
        if images_shape in self._compiled:
            return self._compiled[images_shape]
        phases, size = num_phases(self.setup.config), self.setup.image_size
        step = functools.partial(eval_step, num_phases=phases, image_size=size)
        function = vmap_seeds(step, self.mesh)
        array = functools.partial(jax.ShapeDtypeStruct, sharding=eval_sharding(self.mesh))
        images, numbers = array(images_shape, jnp.uint8), array(images_shape[:2], jnp.int32)
        sums = self.abstract_of_seeds(self._zeros())
        arguments = self.abstract_state, sums, (Examples(images, numbers), numbers)
        shardings = seeds_sharding(self.mesh), seeds_sharding(self.mesh, 'data')
        return self._compile_once(images_shape, function, *arguments, out_shardings=shardings)

    def eval_function_of(self, part: str) -> jax.stages.Compiled:
        """`eval_function` for the batches of 'train', 'val' or 'test'."""
        index = eval_index(self.setup.config, self.setup.num_examples[part], self.mesh)
        return self.eval_function((*index.shape[1:], *self.setup.dataset.stored_shape))

    def init_function(self) -> jax.stages.Compiled:
        """The compiled `create_train_state` of all seeds."""
        if 'initialise' in self._compiled:
            return self._compiled['initialise']
        state = self.abstract_state
        num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        # To optimise it takes a second and saves milliseconds.
        small = num_params < SMALL_NETWORKS and on_cpu(self.mesh)
        options = {'xla_backend_optimization_level': 0} if small else {}
        settings = {'options': options, 'out_shardings': _shardings(state)}
        arguments = self._create_states, self._abstract_keys(), ()
        return self._compile_once('initialise', *arguments, **settings)

    def _abstract_chunk(self) -> tuple[tuple, tuple]:
        config, setup = self.setup.config, self.setup
        whole = functools.partial(jax.ShapeDtypeStruct, sharding=replicated(self.mesh))
        batches = functools.partial(jax.ShapeDtypeStruct, sharding=train_sharding(self.mesh))
        counts = whole((), jnp.int32), whole((), jnp.int32)
        if setup.streams('train'):
            shape = (config.num_seeds, 1, config.batch)
            images = batches((*shape, *setup.dataset.stored_shape), jnp.uint8)
            return (Examples(images, batches(shape, jnp.int32)), None), (None, *counts)
        index = batches((config.num_seeds, setup.steps_per_epoch, config.batch), jnp.int32)
        count = setup.num_examples['train']
        images = whole((count, *setup.dataset.stored_shape), jnp.uint8)
        examples = Examples(images, whole((count,), jnp.int32))
        return (None, index), (examples, *counts)

    def _compile_once(
        self, key, function: Callable, *arguments, options: Iterable = (), **jit_options
    ) -> jax.stages.Compiled:
        with self._locks[key]:
            if key not in self._compiled:
                start = time.perf_counter()
                lowered = jax.jit(function, **jit_options).lower(*arguments)
                self._compiled[key] = lowered.compile(self._options | dict(options))
                self._seconds.append(time.perf_counter() - start)
        return self._compiled[key]

    def training_bytes(self) -> dict[str, int]:
        """Memory of the training function on each device, as the compiler lays it out: 'arguments'
        (state and examples), and 'temporary', what a step computes in between.
        """
        memory = self.train_function().memory_analysis()
        results = memory.output_size_in_bytes - memory.alias_size_in_bytes
        return {
            'arguments': memory.argument_size_in_bytes,
            'temporary': memory.temp_size_in_bytes + results,
        }


def _abstract(leaf, sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _shardings(tree):
    return jax.tree.map(lambda leaf: leaf.sharding, tree)
