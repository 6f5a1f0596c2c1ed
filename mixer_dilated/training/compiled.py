"""The compiled programs of a run, and the seconds that compiling them took."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from flax.training.train_state import TrainState

from mixer_dilated.data.augmentation import augmentation_from_config
from mixer_dilated.data.examples import Examples
from mixer_dilated.parallel.mesh import (
    all_devices,
    check_batch,
    fitting_mesh,
    make_mesh,
    on_cpu,
    put_on_mesh,
    replicated,
    seed_keys,
    seeds_sharding,
    vmap_seeds,
    without_mesh,
)
from mixer_dilated.parallel.multihost import to_numpy
from mixer_dilated.parallel.partition import (
    Partition,
    gathered,
    regather_in_backward,
    state_shardings,
)
from mixer_dilated.training.batch_programs import BatchPrograms
from mixer_dilated.training.checkpoint import RunState
from mixer_dilated.training.epoch import (
    TrainMetrics,
    epoch_metrics,
    evaluate,
    predict,
    train_steps,
)
from mixer_dilated.training.optimizer import make_optimizer, stop_frozen_gradients
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import create_model, create_train_state
from mixer_dilated.training.step import (
    class_log_probabilities,
    eval_settings,
    eval_step,
    train_step,
)
from mixer_dilated.training.streamed_examples import StreamedExamples

SMALL_NETWORKS = 1_000_000  # parameters, of all seeds


class CompiledFunctions:
    """Initialisation, epoch and evaluation of all seeds of a task, compiled for the devices.

    Every array of a state and of a result has a leading axis of `config.num_seeds` seeds.

    Args:
      setup: what to train.
      devices: to compute on, as if `config.mesh` had no sizes; all there are, in the mesh of those
        sizes, if None.

    Raises:
      UserError: `config.mesh` does not fit the devices, the seeds or the network.
    """

    def __init__(self, setup: Setup, devices: Sequence[jax.Device] | None = None):
        config, dataset = setup.config, setup.dataset
        self.setup = setup
        self._mesh = make_mesh(config if devices is None else without_mesh(config), devices)
        self._partition = Partition(dict(self._mesh.shape), config.mesh.fsdp)
        platform = self._mesh.devices.flat[0].platform
        self._model = create_model(config, dataset.num_classes, platform)
        self._optimizer = make_optimizer(config.optimizer, setup.total_steps)
        keys = jax.jit(seed_keys, static_argnums=(0, 1), out_shardings=seeds_sharding(self._mesh))
        self._seed_keys = keys(config.seed, config.num_seeds)
        self._compiled = {}
        self._seconds = []
        self._by_batch = BatchPrograms(setup, self._mesh, self._seed_keys, self._compiled_once)

    @classmethod
    def of_run(cls, setup: Setup) -> 'CompiledFunctions':
        """Those of a run that other devices may have trained (see `fitting_mesh`)."""
        config = fitting_mesh(setup.config, len(all_devices()))
        return cls(dataclasses.replace(setup, config=config))

    @property
    def compile_seconds(self) -> float:
        """Spent on tracing and compiling so far, summed over the programs."""
        return sum(self._seconds)

    def check_batch(self) -> None:
        """Raises UserError if the devices of a seed do not divide the training batch."""
        config = self.setup.config
        check_batch(config.batch, self._mesh, config.accum_steps)

    @property
    def mesh_shape(self) -> dict[str, int]:
        """Devices along 'seeds', 'data' and 'model'."""
        return dict(self._mesh.shape)

    def kept_whole(self) -> list[str]:
        """Names of the parameters that `config.mesh` would split, but that do not divide."""
        return self._partition.kept_whole(self.abstract_state().params)

    def place(self, examples: Examples | StreamedExamples) -> Examples | StreamedExamples:
        """Puts examples on the devices, whole on each; those that stream stay where they are."""
        if isinstance(examples, StreamedExamples):
            return examples
        return Examples(*put_on_mesh(tuple(examples), replicated(self._mesh)))

    def compile_training(self, *, initialise: bool) -> None:
        """Compiles what a run starts with, side by side.

        Args:
          initialise: whether the run starts at step 0.
        """
        with ThreadPoolExecutor() as threads:
            jobs = [threads.submit(self.training_program)]
            if initialise:
                jobs.append(threads.submit(self._initialisation))
        for job in jobs:
            job.result()

    def create_state(self) -> TrainState:
        """The state at step 0."""
        return self._initialisation()(self._seed_keys, ())

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state, nothing computed."""
        create = vmap_seeds(self._create_train_state, self._mesh)
        abstract = jax.eval_shape(create, self._seed_keys, ())
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract,
            state_shardings(abstract, self._mesh, self._partition),
        )

    def abstract_snapshot(self) -> RunState:
        """Shapes, dtypes and shardings of a snapshot's arrays."""
        sharding = seeds_sharding(self._mesh)
        sums = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self.zero_sums(),
        )
        return RunState(self.abstract_state(), sums)

    def train_steps(self, examples: Examples | StreamedExamples) -> Callable:
        """`epoch.train_steps` on the task's training examples: state, sums, count → state, sums.

        The state and the sums that are handed to it are used up. Examples that stream may have
        fewer steps than asked for, and none where they are slow to come.
        """
        program = self.training_program()
        if isinstance(examples, StreamedExamples):
            return self._by_batch.train_steps(examples, program)
        return lambda state, sums, count: program(
            state, sums, self._seed_keys, (examples, np.int32(count))
        )

    def train_epoch(self, examples: Examples) -> Callable:
        """A whole epoch of `train_steps` in memory: state → state, `epoch_metrics` on the host.

        The state, which has to be at the start of an epoch, is used up.
        """
        run = self.train_steps(examples)
        steps, batch = self.setup.steps_per_epoch, self.setup.config.batch

        def epoch(state):
            state, sums = run(state, self.zero_sums(), steps)
            return state, epoch_metrics(to_numpy(sums), steps, batch)

        return epoch

    def zero_sums(self) -> TrainMetrics:
        """The sums at the start of an epoch."""
        zero = TrainMetrics.zero((self.setup.config.num_seeds,))
        return put_on_mesh(zero, seeds_sharding(self._mesh))

    def training_program(self) -> jax.stages.Compiled:
        """The compiled `epoch.train_steps`: state, sums, keys of the seeds, (examples, count).

        If the training examples stream, it is `BatchPrograms.training_program`.
        """
        if 'train' in self._compiled:  # the shapes of its arguments take time to find out
            return self._compiled['train']
        config = self.setup.config
        step = functools.partial(
            train_step,
            augmentation=augmentation_from_config(config),
            trained=lambda params: gathered(
                stop_frozen_gradients(config.optimizer, params), self._partition
            ),
            around_loss=functools.partial(regather_in_backward, partition=self._partition),
            accum_steps=config.accum_steps,
        )
        if self.setup.streams('train'):
            return self._by_batch.training_program(step, self.abstract_state(), self.zero_sums())
        steps = functools.partial(
            train_steps, step=step, batch=config.batch, image_size=self.setup.image_size
        )
        count = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(self._mesh))
        state = self.abstract_state()
        arguments = (
            state,
            self.zero_sums(),
            self._seed_keys,
            (self._abstract_train_examples(), count),
        )
        results = (_shardings(state), seeds_sharding(self._mesh))
        return self._compiled_once('train', steps, *arguments, donate=(0, 1), results=results)

    def training_bytes(self) -> dict[str, int]:
        """Memory that the epoch program takes on each device, as the compiler lays it out.

        'arguments' are the state and the examples, 'temporary' what a step computes in between.
        """
        memory = self.training_program().memory_analysis()
        results = memory.output_size_in_bytes - memory.alias_size_in_bytes
        return {
            'arguments': memory.argument_size_in_bytes,
            'temporary': memory.temp_size_in_bytes + results,
        }

    def evaluation(self, examples: Examples | StreamedExamples) -> Callable:
        """`epoch.evaluate` on these examples, as a program: state → metrics.

        It is compiled when it is first called, once for all examples of one shape: training does
        not wait for it.
        """
        step = functools.partial(eval_step, **eval_settings(self.setup.config))
        if isinstance(examples, StreamedExamples):
            step = functools.partial(self._with_whole_params, step)
            return self._by_batch.evaluation(examples, self._eval_batch(examples), step)
        return self._on_first_call(evaluate, {'step': step}, examples)

    def prediction(self, examples: Examples | StreamedExamples) -> Callable:
        """`epoch.predict` on these examples, as a program: state → log-probabilities.

        It is compiled when it is first called, as that of `evaluation`.
        """
        classify = functools.partial(class_log_probabilities, **eval_settings(self.setup.config))
        if isinstance(examples, StreamedExamples):
            classify = functools.partial(self._with_whole_params, classify)
            return self._by_batch.prediction(examples, self._eval_batch(examples), classify)
        return self._on_first_call(predict, {'classify': classify}, examples)

    def _on_first_call(self, function: Callable, settings: dict, examples: Examples) -> Callable:
        batch = self._eval_batch(examples)
        program_of = functools.partial(
            self._with_whole_params,
            functools.partial(function, **settings, batch=batch, image_size=self.setup.image_size),
        )
        key = (function, examples.images.shape)
        return lambda state: self._compiled_once(key, program_of, state, examples)(state, examples)

    def _eval_batch(self, examples: Examples | StreamedExamples) -> int:
        devices = self._mesh.shape['data']
        batch = min(self.setup.config.batch_eval, len(examples.labels))
        return -(-batch // devices) * devices

    def _with_whole_params(self, function: Callable, state: TrainState, *rest):
        return function(state.replace(params=gathered(state.params, self._partition)), *rest)

    def _initialisation(self) -> jax.stages.Compiled:
        if 'initialise' in self._compiled:
            return self._compiled['initialise']
        state = self.abstract_state()
        params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        # On a CPU, to optimise what draws a small network takes a second and saves milliseconds.
        small = params < SMALL_NETWORKS and on_cpu(self._mesh)
        options = {'xla_backend_optimization_level': 0} if small else None
        arguments = (self._seed_keys, ())
        return self._compiled_once(
            'initialise',
            self._create_train_state,
            *arguments,
            options=options,
            results=_shardings(state),
        )

    def _create_train_state(self, seed_key: jax.Array, _) -> TrainState:
        image_shape = self.setup.dataset.image_shape
        return create_train_state(self._model, self._optimizer, image_shape, seed_key)

    def _abstract_train_examples(self) -> Examples:
        count, sharding = self.setup.train_examples, replicated(self._mesh)
        return Examples(
            jax.ShapeDtypeStruct(
                (count, *self.setup.dataset.stored_shape), jnp.uint8, sharding=sharding
            ),
            jax.ShapeDtypeStruct((count,), jnp.int32, sharding=sharding),
        )

    def _compiled_once(self, key, function: Callable, *args, **settings) -> jax.stages.Compiled:
        if key not in self._compiled:
            self._compiled[key] = self._compile(function, *args, **settings)
        return self._compiled[key]

    def _compile(
        self,
        function: Callable,
        *args,
        donate: tuple[int, ...] = (),
        options: dict | None = None,
        results=None,
    ) -> jax.stages.Compiled:
        start = time.perf_counter()
        program = jax.jit(
            vmap_seeds(function, self._mesh),
            donate_argnums=donate,
            out_shardings=results or seeds_sharding(self._mesh),
        )
        compiled = program.lower(*args).compile(options)
        self._seconds.append(time.perf_counter() - start)
        return compiled


def _shardings(abstract):
    """A tree of the shardings of `abstract`."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)
