"""The compiled programs of a run, and the seconds that compiling them took."""

import functools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState

from mixer_dilated.data.examples import Examples
from mixer_dilated.training.epoch import evaluate, predict, train_epoch
from mixer_dilated.training.randomness import seed_keys
from mixer_dilated.training.sharding import (
    check_batch,
    make_mesh,
    over_seeds,
    replicated,
    seeds_sharding,
)
from mixer_dilated.training.state import create_train_state
from mixer_dilated.training.step import (
    class_log_probabilities,
    eval_settings,
    eval_step,
    step_settings,
    train_step,
)
from mixer_dilated.training.task import Task


class Programs:
    """Initialisation, epoch and evaluation of all seeds of a task, compiled for the devices.

    Every array of a state and of a result has a leading axis of `config.num_seeds` seeds.

    Args:
      task: what to train.
      devices: to compute on; all there are if None.

    Attributes:
      compile_seconds: spent on tracing and compiling so far.
    """

    def __init__(self, task: Task, devices: Sequence[jax.Device] | None = None):
        self._task = task
        self._mesh = make_mesh(task.config.num_seeds, devices)
        self._seed_keys = jax.device_put(
            seed_keys(task.config.seed, task.config.num_seeds), seeds_sharding(self._mesh)
        )
        self.compile_seconds = 0.0
        self._compiled = {}

    def check_batch(self) -> None:
        """Raises InputError if the devices of a seed do not divide the training batch."""
        check_batch(self._task.config.batch, self._mesh)

    def place(self, examples: Examples) -> Examples:
        """Puts examples on the devices, whole on each."""
        return Examples(*jax.device_put(tuple(examples), replicated(self._mesh)))

    def create_state(self) -> TrainState:
        """The state at step 0."""
        return self._compile(self._create_train_state, self._seed_keys, ())(self._seed_keys, ())

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state, nothing computed."""
        sharding = seeds_sharding(self._mesh)
        create = over_seeds(self._create_train_state, self._mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(create, self._seed_keys, ()),
        )

    def compile_train_epoch(self, state: TrainState, examples: Examples) -> Callable:
        """`epoch.train_epoch` on these examples, as a program: state → state, metrics.

        The state that is handed to the program is used up.
        """
        program = self._compile_epoch(state, examples)
        return lambda state: program(state, self._seed_keys, examples)

    def activation_bytes(self) -> int:
        """Temporary buffers of the epoch program on each device, as the compiler lays them out."""
        count, sharding = self._task.train_examples, replicated(self._mesh)
        shape = self._task.source.image_shape
        examples = Examples(
            jax.ShapeDtypeStruct((count, *shape), jnp.uint8, sharding=sharding),
            jax.ShapeDtypeStruct((count,), jnp.int32, sharding=sharding),
        )
        program = self._compile_epoch(self.abstract_state(), examples)
        return program.memory_analysis().temp_size_in_bytes

    def evaluation(self, examples: Examples) -> Callable:
        """`epoch.evaluate` on these examples, as a program: state → metrics.

        It is compiled when it is first called, once for all examples of one shape: training does
        not wait for it.
        """
        step = functools.partial(eval_step, **eval_settings(self._task.config))
        return self._on_first_call(evaluate, {'step': step}, examples)

    def prediction(self, examples: Examples) -> Callable:
        """`epoch.predict` on these examples, as a program: state → log-probabilities.

        It is compiled when it is first called, as that of `evaluation`.
        """
        classify = functools.partial(class_log_probabilities, **eval_settings(self._task.config))
        return self._on_first_call(predict, {'classify': classify}, examples)

    def _on_first_call(self, function: Callable, settings: dict, examples: Examples) -> Callable:
        devices = self._mesh.shape['data']
        batch = -(-self._task.config.batch_eval // devices) * devices
        program_of = functools.partial(function, **settings, batch=batch)
        key = (function, examples.images.shape)

        def run(state: TrainState):
            if key not in self._compiled:
                self._compiled[key] = self._compile(program_of, state, examples)
            return self._compiled[key](state, examples)

        return run

    def _compile_epoch(self, state: TrainState, examples: Examples) -> jax.stages.Compiled:
        config, key = self._task.config, (train_epoch, examples.images.shape)
        if key not in self._compiled:
            step = functools.partial(train_step, **step_settings(config))
            epoch = functools.partial(train_epoch, step=step, batch=config.batch)
            self._compiled[key] = self._compile(
                epoch, state, self._seed_keys, examples, donate=(0,)
            )
        return self._compiled[key]

    def _create_train_state(self, seed_key: jax.Array, _) -> TrainState:
        source = self._task.source
        return create_train_state(
            self._task.config,
            source.image_shape,
            source.num_classes,
            self._task.total_steps,
            seed_key,
        )

    def _compile(
        self, function: Callable, *args, donate: tuple[int, ...] = ()
    ) -> jax.stages.Compiled:
        start = time.perf_counter()
        program = jax.jit(
            over_seeds(function, self._mesh),
            donate_argnums=donate,
            out_shardings=seeds_sharding(self._mesh),
        )
        compiled = program.lower(*args).compile()
        self.compile_seconds += time.perf_counter() - start
        return compiled
