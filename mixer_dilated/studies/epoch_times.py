"""Seconds of a training epoch of every cell of a study."""

import math
from collections.abc import Mapping

from mixer_dilated.benchmark.epoch_timing import TimedEpoch, on_noise, seconds_in_turns
from mixer_dilated.data.datasets import load_examples
from mixer_dilated.data.examples import Examples
from mixer_dilated.studies.observer import StudyProgress
from mixer_dilated.training.setup import Setup

NOISE_BYTES = 2**26  # of batches that stand for those of a stream


def epoch_seconds(
    tasks: Mapping[str, Setup], rounds: int, progress: StudyProgress
) -> dict[str, list[float]]:
    """Trains epochs of one seed of every task in turn, round by round, A B C A B C.

    One more epoch of each comes first and does not count. One device computes, however many the
    study was trained on. Of examples that stream a few batches are trained, of noise in memory, and
    the epoch is taken for so many times as long: reading and decoding are not timed.

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
    for name, setup in tasks.items():
        if setup.streams('train'):
            epochs[name] = _OnNoise(setup)
        else:
            dataset = setup.config.dataset
            key = setup.dataset.name, setup.dataset.fingerprint, dataset.train_split
            train = placed.get(key) or load_examples(
                setup.dataset, dataset.train_split, dataset.cache_dir
            )
            epochs[name] = TimedEpoch(setup.changed({'num_seeds': 1}), train)
            placed[key] = epochs[name].examples
        progress.epoch_timed()
    return seconds_in_turns(epochs, rounds, progress.epoch_timed)


class _OnNoise:
    """An epoch of a task, from the time that a few of its batches take."""

    def __init__(self, setup: Setup):
        batch_bytes = setup.config.batch * math.prod(setup.dataset.image_shape)
        steps = min(setup.steps_per_epoch, NOISE_BYTES // batch_bytes or 1)
        noise = on_noise(setup.changed({'num_seeds': 1}), setup.image_size, steps)
        self._epoch = TimedEpoch(noise, noise.dataset.read('train'))
        self._times = setup.steps_per_epoch / steps

    def seconds(self) -> float:
        return self._epoch.seconds() * self._times
