"""Seconds of a training epoch, measured so that cells can be compared: they take turns."""

import dataclasses
import time
from collections.abc import Mapping

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
        epochs[name] = _Epoch(task, placed)
        epochs[name].seconds()
        progress.epoch_timed()
    found = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            found[name].append(epoch.seconds())
            progress.epoch_timed()
    return found


class _Epoch:
    """One seed of a task, compiled, that can train one epoch after the other.

    Args:
      task: what to train.
      placed: training sets that are on the device already; tasks share them.
    """

    def __init__(self, task: Task, placed: dict[tuple, Examples]):
        config = resolve({**task.config, 'num_seeds': 1})
        programs = Programs(dataclasses.replace(task, config=config), jax.devices()[:1])
        key = task.source.name, task.source.fingerprint, config.dataset.train_split
        if key not in placed:
            placed[key] = programs.place(
                load_examples(task.source, config.dataset.train_split, config.dataset)
            )
        self._state = programs.create_state()
        self._run = programs.compile_train_epoch(self._state, placed[key])

    def seconds(self) -> float:
        start = time.perf_counter()
        self._state, metrics = self._run(self._state)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start
