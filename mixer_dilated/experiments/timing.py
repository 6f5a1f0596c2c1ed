"""Seconds of a training epoch of every cell of a study."""

from collections.abc import Mapping

from mixer_dilated.data.examples import Examples
from mixer_dilated.data.sources import load_examples
from mixer_dilated.experiments.progress import StudyProgress
from mixer_dilated.training.task import Task
from mixer_dilated.training.timing import TimedEpoch, seconds_in_turns


def epoch_seconds(
    tasks: Mapping[str, Task], rounds: int, progress: StudyProgress
) -> dict[str, list[float]]:
    """Trains epochs of one seed of every task in turn, round by round, A B C A B C.

    One more epoch of each comes first and does not count. One device computes, however many the
    study was trained on.

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
        epochs[name] = TimedEpoch(task.changed({'num_seeds': 1}), train)
        placed[key] = epochs[name].examples
        progress.epoch_timed()
    return seconds_in_turns(epochs, rounds, progress.epoch_timed)
