"""What the benchmark times of a config: forms of the training step and of the forward pass."""

import functools
import time

import jax

from mixer_dilated.benchmark.plain_mixer import PlainMixer
from mixer_dilated.config import patch_branches
from mixer_dilated.data.examples import Examples
from mixer_dilated.errors import InputError
from mixer_dilated.training.optimizer import make_optimizer
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.state import create_train_state
from mixer_dilated.training.step import step_settings, train_step
from mixer_dilated.training.task import Task


class TimedForward:
    """Class probabilities of a task's training images on one device, batch by batch.

    Args:
      task: whose network.
      examples: its training set.

    Attributes:
      compile_seconds: spent on tracing and compiling.
    """

    def __init__(self, task: Task, examples: Examples):
        task = task.changed({'batch_eval': task.config.batch})
        programs = Programs(task, jax.devices()[:1])
        self._state = programs.create_state()
        before = programs.compile_seconds
        self._run = programs.prediction(programs.place(examples))
        self.seconds()
        self.compile_seconds = programs.compile_seconds - before

    def seconds(self) -> float:
        """Computes them all and returns how long it took."""
        start = time.perf_counter()
        jax.block_until_ready(self._run(self._state))
        return time.perf_counter() - start


class TimedPlainFlax:
    """The step of plain Flax, jitted alone and called from Python for every batch.

    That is the manner of the original code: network laid out batch first, batches from the host.

    Args:
      task: whose network, optimizer and settings.
      examples: its training set, on the host.

    Raises:
      InputError: the plain network lacks something that the config asks for.
    """

    def __init__(self, task: Task, examples: Examples):
        config = task.config
        network = PlainMixer(num_classes=task.source.num_classes, **plain_sizes(task))
        optimizer = make_optimizer(config.optimizer, task.total_steps)
        self._seed_key = jax.random.key(config.seed)
        create = functools.partial(create_train_state, network, optimizer, task.source.image_shape)
        self._state = jax.jit(create)(self._seed_key)
        step = functools.partial(train_step, **step_settings(config))
        self._step = jax.jit(step, donate_argnums=0)
        self._batches = [
            Examples(*(array[start : start + config.batch] for array in examples))
            for start in range(0, task.steps_per_epoch * config.batch, config.batch)
        ]
        start = time.perf_counter()
        self._step.lower(self._state, *self._batches[0], self._seed_key).compile()
        self.compile_seconds = time.perf_counter() - start
        self.seconds()

    def seconds(self) -> float:
        """Trains on every batch once and returns how long it took."""
        start = time.perf_counter()
        for images, labels in self._batches:
            self._state, metrics = self._step(self._state, images, labels, self._seed_key)
        jax.block_until_ready((self._state.params, metrics))
        return time.perf_counter() - start


def plain_sizes(task: Task) -> dict:
    """Patches and sizes of a network that has one kind of patches and nothing special.

    Raises:
      InputError: the config asks for more; the message names the key.
    """
    config = task.config
    special = {
        'augment.random_phase': config.augment.random_phase,
        'model.branches': config.model.branches,
        'model.phases': config.model.phases != (1, 1),
        'model.blur': config.model.blur,
        'model.dropout_rate': config.model.dropout_rate,
        'model.stoch_depth': config.model.stoch_depth,
    }
    for key, asked in special.items():
        if asked:
            raise InputError(
                f'config.{key}: what --against compares with has only one kind of patches and no '
                f'dropout; leave --against out, or config.{key} at its default'
            )
    (patches,) = patch_branches(config.model)
    names = ('num_blocks', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim', 'gelu')
    return {'patches': patches, **{name: config.model[name] for name in names}}
