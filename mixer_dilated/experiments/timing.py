"""Seconds of a training epoch, measured so that cells can be compared: they take turns."""

import dataclasses
import time
from collections.abc import Mapping

import jax

from mixer_dilated.config import resolve
from mixer_dilated.data.sources import load_examples
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.task import Task


def epoch_seconds(tasks: Mapping[str, Task], rounds: int) -> dict[str, list[float]]:
    """Trains epochs of one seed of every task in turn, round by round, A B C A B C.

    Whatever else the machine does meets all tasks alike, and a round's times can be paired. One
    more epoch of each comes first and does not count.

    Returns:
      {name: seconds of an epoch in each round}.
    """
    epochs = {name: _Epoch(task) for name, task in tasks.items()}
    for epoch in epochs.values():
        epoch.seconds()
    found = {name: [] for name in epochs}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            found[name].append(epoch.seconds())
    return found


class _Epoch:
    """One seed of a task, compiled, that can train one epoch after the other."""

    def __init__(self, task: Task):
        config = resolve({**task.config, 'num_seeds': 1})
        programs = Programs(dataclasses.replace(task, config=config))
        examples = programs.place(
            load_examples(task.source, config.dataset.train_split, config.dataset)
        )
        self._state = programs.create_state()
        self._run = programs.compile_train_epoch(self._state, examples)

    def seconds(self) -> float:
        start = time.perf_counter()
        self._state, metrics = self._run(self._state)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start
