"""Seconds of a training epoch of every trial of a study."""

import math
from collections.abc import Mapping

from mixer_dilated.data.datasets import load_examples
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.timing import TimedEpoch, on_random_images, take_turns

RANDOM_BYTES = 2**26  # of the batches that stand in for those of a stream


def epoch_seconds(
    setups: Mapping[str, Setup], rounds: int, observer: StudyObserver
) -> dict[str, list[float]]:
    """Trains epochs of one seed of every trial in turn, round by round, A B C A B C.

    One more epoch of each comes first and does not count. One device computes, however many the
    study was trained on. Of examples that stream, a few batches of random images are trained from
    memory, and their time is scaled to an epoch: reading and decoding are not timed.
    """
    on_device, epochs, scales = {}, {}, {}
    observer.on_timing_start(len(setups), rounds)
    for name, setup in setups.items():
        one_seed, dataset = setup.changed({'num_seeds': 1}), setup.config.dataset
        if setup.streams('train'):
            batch_bytes = setup.config.batch * math.prod(setup.dataset.image_shape)
            steps = min(setup.steps_per_epoch, RANDOM_BYTES // batch_bytes or 1)
            epochs[name] = TimedEpoch(on_random_images(one_seed, setup.image_size, steps))
            scales[name] = setup.steps_per_epoch / steps
        else:
            key = setup.dataset.name, setup.dataset.fingerprint, dataset.train_split
            if not (train := on_device.get(key)):
                train = load_examples(setup.dataset, dataset.train_split, dataset.cache_dir)
            epochs[name] = TimedEpoch(one_seed, train)
            on_device[key] = epochs[name].examples
        observer.on_epoch_timed()
    seconds = take_turns(epochs, rounds, observer.on_epoch_timed)
    return {
        name: [scales.get(name, 1) * of_round for of_round in of_trial]
        for name, of_trial in seconds.items()
    }
