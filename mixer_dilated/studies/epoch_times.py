"""Seconds of a training epoch of the trials of a study, kept in `timing.json`."""

import collections
import math
import pathlib
import reprlib
from collections.abc import Sequence

from mixer_dilated.data.datasets import load_examples
from mixer_dilated.errors import UserError
from mixer_dilated.files import REMOVE_HINT, write_json
from mixer_dilated.paths import exists
from mixer_dilated.reports.schema import NUMBER, read_object
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.sweep import PreparedTrial
from mixer_dilated.training.timing import TimedEpoch, on_random_images, take_turns

TIMES = 'timing.json'
# Epochs of each trial that are timed: of a few trials more than of many.
TIMED_ROUNDS, FEW_TRIALS, TIMED_ROUNDS_OF_MANY = 9, 20, 3
# Programs that are held at once for timing; each takes some 450 of the 65 530 memory mappings that
# Linux gives a process.
MAX_TIMED = 40
RANDOM_BYTES = 2**26  # of the batches that stand in for those of a stream


def time_trials(
    trials: Sequence[PreparedTrial], folder: pathlib.Path, observer: StudyObserver
) -> dict[str, list[float]]:
    """Seconds of an epoch of each trial in each round; those that `timing.json` lacks are timed.

    Raises UserError if that file is damaged.
    """
    seconds = read_times(folder)
    rounds = TIMED_ROUNDS if len(trials) <= FEW_TRIALS else TIMED_ROUNDS_OF_MANY
    for group in group_for_timing(trials):
        counts = {len(seconds.get(trial.name, ())) for trial in group}
        if 0 in counts or len(counts) > 1:  # some did not take turns with the others
            seconds |= epoch_seconds(group, rounds, observer)
            write_json(folder / TIMES, seconds)
    return seconds


def read_times(folder: pathlib.Path) -> dict[str, list[float]]:
    """The content of `timing.json`, {} without one. Raises UserError if it is damaged."""
    path = folder / TIMES
    times = read_object(path, {str: [NUMBER]}, REMOVE_HINT) if exists(path) else {}
    for name, seconds in times.items():
        if not seconds or min(seconds) <= 0:
            raise UserError(
                f'{path}: {name} = {reprlib.repr(seconds)}: allowed are seconds above 0, of each '
                f'round; {REMOVE_HINT}'
            )
    return times


def group_for_timing(
    trials: Sequence[PreparedTrial], max_group: int = MAX_TIMED
) -> list[list[PreparedTrial]]:
    """Groups of at most `max_group` trials whose epochs are timed in turns.

    What is compared is in one group, but for some of those that are too many for one.
    """
    families = collections.defaultdict(list)
    for trial in trials:
        families[trial.reference or trial.name].append(trial)
    groups = [[]]
    for family in families.values():
        for start in range(0, len(family), max_group):
            part = family[start : start + max_group]
            if len(groups[-1]) + len(part) > max_group:
                groups.append([])
            groups[-1] += part
    return groups


def epoch_seconds(
    trials: Sequence[PreparedTrial], rounds: int, observer: StudyObserver
) -> dict[str, list[float]]:
    """Trains epochs of one seed of every trial in turn, round by round, A B C A B C.

    One more epoch of each comes first and does not count. One device computes, however many the
    study was trained on. Of examples that stream, a few batches of random images are trained from
    memory, and their time is scaled to an epoch: reading and decoding are not timed.
    """
    on_device, epochs, scales = {}, {}, {}
    observer.on_timing_start(len(trials), rounds)
    for name, setup in ((trial.name, trial.setup) for trial in trials):
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
    return {name: [scales.get(name, 1) * s for s in of_trial] for name, of_trial in seconds.items()}
