"""Seconds of a training epoch, measured so that cells can be compared: they take turns."""

import dataclasses
import time
from collections.abc import Callable, Mapping

import jax

from mixer_dilated.config import resolve
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.sources import load_examples
from mixer_dilated.experiments.progress import StudyProgress
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.task import Task


def epoch_seconds(
    tasks: Mapping[str, Task], rounds: int, progress: StudyProgress
) -> dict[str, list[float]]:
    """Trains epochs of one seed of every task in turn, round by round, A B C A B C.

    Whatever else the machine does meets all tasks alike, and a round's times can be paired. One
    more epoch of each comes first and does not count. One device computes, however many the study
    was trained on.

    Args:
      tasks: what is timed, by name.
      rounds: timed epochs of each.
      progress: told of every epoch.

    Returns:
      {name: seconds of an epoch in each round}.
    """
    placed: dict[tuple, Examples] = {}
    epochs = {}
    progress.times(len(tasks), rounds)
    for name, task in tasks.items():
        dataset = task.config.dataset
        key = task.source.name, task.source.fingerprint, dataset.train_split
        train = placed.get(key) or load_examples(task.source, dataset.train_split, dataset)
        epochs[name] = TimedEpoch(task, train)
        placed[key] = epochs[name].examples
        progress.epoch_timed()
    return seconds_in_turns(epochs, rounds, progress.epoch_timed)


class TimedEpoch:
    """One seed of a task on one device, compiled, that can train one epoch after the other.

    A first epoch, which nobody times, is trained at once.

    Args:
      task: what to train.
      examples: its training set; one that is on the device already stays where it is.

    Attributes:
      examples: the training set on the device.
      activation_bytes: `Programs.activation_bytes` of its program.
    """

    def __init__(self, task: Task, examples: Examples):
        config = resolve({**task.config, 'num_seeds': 1})
        programs = Programs(dataclasses.replace(task, config=config), jax.devices()[:1])
        self.activation_bytes = programs.activation_bytes
        self.examples = programs.place(examples)
        self._state = programs.create_state()
        self._run = programs.compile_train_epoch(self._state, self.examples)
        self.seconds()

    def seconds(self) -> float:
        """Trains an epoch and returns how long it took."""
        start = time.perf_counter()
        self._state, metrics = self._run(self._state)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start


def seconds_in_turns(
    epochs: Mapping[str, TimedEpoch], rounds: int, after_each: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """{name: seconds of an epoch in each round}; within a round each has its turn."""
    found = {name: [] for name in epochs}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            found[name].append(epoch.seconds())
            after_each()
    return found
