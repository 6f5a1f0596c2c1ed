"""The compiled programs of a run, and the seconds that compiling them took."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState

from mixer_dilated.data.examples import Examples
from mixer_dilated.training.epoch import evaluate, train_epoch
from mixer_dilated.training.sharding import check_batch, make_mesh, replicated
from mixer_dilated.training.state import create_train_state
from mixer_dilated.training.step import train_step
from mixer_dilated.training.task import Task


class Programs:
    """Initialisation, epoch and evaluation of a task, compiled for all devices.

    Args:
      task: what to train.

    Attributes:
      compile_seconds: spent on tracing and compiling so far.
    """

    def __init__(self, task: Task):
        self._task = task
        self._mesh = make_mesh()
        self._seed_key = jax.random.key(task.config.seed)
        self.compile_seconds = 0.0

    def check_batch(self) -> None:
        """Raises InputError if the devices do not divide the training batch."""
        check_batch(self._task.config.batch, self._mesh)

    def place(self, examples: Examples) -> Examples:
        """Puts examples on the devices, whole on each."""
        return Examples(*jax.device_put(tuple(examples), replicated(self._mesh)))

    def create_state(self) -> TrainState:
        """The state at step 0."""
        return self._compile(self._create_train_state, self._seed_key)(self._seed_key)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state, nothing computed."""
        sharding = replicated(self._mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(self._create_train_state, self._seed_key),
        )

    def compile_train_epoch(self, state: TrainState, examples: Examples) -> Callable:
        """`epoch.train_epoch` on these examples, as a program: state → state, metrics.

        The state that is handed to the program is used up.
        """
        program = self._compile_epoch(state, examples)
        return lambda state: program(state, examples, self._seed_key)

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

        It is compiled when it is first called: training does not wait for it.
        """
        devices = self._mesh.size
        batch = -(-self._task.config.batch_eval // devices) * devices
        function = functools.partial(evaluate, batch=batch, mesh=self._mesh)
        compiled = []

        def run(state: TrainState) -> dict[str, jax.Array]:
            if not compiled:
                compiled.append(self._compile(function, state, examples))
            return compiled[0](state, examples)

        return run

    def _compile_epoch(self, state: TrainState, examples: Examples) -> jax.stages.Compiled:
        config = self._task.config
        step = functools.partial(
            train_step, label_smoothing=config.label_smoothing, max_shift=config.augment.shift
        )
        epoch = functools.partial(train_epoch, step=step, batch=config.batch, mesh=self._mesh)
        return self._compile(epoch, state, examples, self._seed_key, donate=(0,))

    def _create_train_state(self, seed_key: jax.Array) -> TrainState:
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
        program = jax.jit(function, donate_argnums=donate, out_shardings=replicated(self._mesh))
        compiled = program.lower(*args).compile()
        self.compile_seconds += time.perf_counter() - start
        return compiled
