"""Seconds that can be compared: what is compared takes turns on one warm machine."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import jax

from mixer_dilated.config import patch_branches, resolve
from mixer_dilated.data.datasets import FakeData
from mixer_dilated.data.examples import Examples
from mixer_dilated.patches.geometry import num_tokens
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import Setup


class Timed(Protocol):
    """Work that can be done again and again, compiled and warm."""

    def seconds(self) -> float:
        """Does it once and returns how long it took."""


class TimedEpoch:
    """A task on one device, compiled, that can train one epoch after the other.

    A first epoch, which nobody times, is trained at once.

    Args:
      setup: what to train.
      examples: its training set; one that is on the device already stays where it is.

    Attributes:
      examples: the training set on the device.
      training_bytes: `CompiledFunctions.training_bytes` of its program.
      compile_seconds: spent on tracing and compiling the epoch program.
    """

    def __init__(self, setup: Setup, examples: Examples):
        programs = CompiledFunctions.for_devices(setup, jax.devices()[:1])
        self.training_bytes = programs.training_bytes()
        self.compile_seconds = programs.compile_seconds
        self._compiled, self._inputs = programs, programs.in_memory(examples)
        self.examples = self._inputs.examples
        self._state = programs.init_state()
        self.seconds()

    def seconds(self) -> float:
        """Trains an epoch and returns how long it took."""
        start = time.perf_counter()
        self._state, _ = self._compiled.train_epoch(self._state, self._inputs)
        return time.perf_counter() - start


def seconds_in_turns(
    subjects: Mapping[str, Timed], rounds: int, after_each: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """{name: seconds in each round}, A B C A B C.

    Whatever else the machine does meets all alike, and a round's times can be paired.

    Args:
      subjects: what takes turns, by name.
      rounds: how often each.
      after_each: called after every turn.
    """
    found = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            found[name].append(subject.seconds())
            after_each()
    return found


def on_noise(setup: Setup, image_size: tuple[int, int], steps: int) -> Setup:
    """A task's network on random images, `steps` training batches of them an epoch.

    Args:
      setup: whose config, channels and classes.
      image_size: (height, width) of the images in pixels.
      steps: of an epoch.

    Raises:
      UserError: the patches do not fit images of this size.
    """
    settings = setup.config.to_dict()
    settings['optimizer']['warmup_steps'] = 0  # there are but few steps
    settings['dataset']['train_split'] = 'train'
    settings['input']['mode'] = 'memory'  # input is not what is timed
    config = resolve(settings)
    *_, channels = setup.dataset.image_shape
    source = FakeData((*image_size, channels), setup.dataset.num_classes, steps * config.batch)
    tokens = num_tokens(patch_branches(config.model), config.model.branch_merge, image_size)
    return Setup(config, source, source.examples, config.batch, tokens)
