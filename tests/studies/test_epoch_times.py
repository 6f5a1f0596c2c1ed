"""Epochs of trials, timed in turns."""

import types

from mixer_dilated.studies import epoch_times
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.sweep import prepare
from tests.studies.conftest import METHODS, small_sweep


def test_epochs_of_streams_are_timed_on_a_few_batches(monkeypatch):
    monkeypatch.setattr(epoch_times, 'RANDOM_BYTES', 3 * 32 * 8 * 8)  # three batches of nine
    trained = []

    class Timed:
        def __init__(self, setup, examples=None):
            trained.append(
                (setup.steps_per_epoch, setup.config.num_seeds, setup.num_examples['train'])
            )

        def seconds(self):
            return 0.5

    monkeypatch.setattr(epoch_times, 'TimedEpoch', Timed)
    streamed = prepare(small_sweep(METHODS[:1], **{'input.mode': 'stream'}))
    seconds = epoch_times.epoch_seconds(streamed, 2, StudyObserver())
    assert trained == [(3, 1, 96)] and seconds == {'method=plain': [1.5, 1.5]}


def test_of_many_trials_those_are_timed_together_that_are_compared():
    def group(max_group, references):
        trials = [
            types.SimpleNamespace(name=f'{kind}{i}', reference=references[kind] if i else '')
            for i in range(3)
            for kind in 'abcd'
        ]
        groups = epoch_times.group_for_timing(trials, max_group)
        return [' '.join(trial.name for trial in group) for group in groups]

    references = {kind: f'{kind}0' for kind in 'abcd'}
    assert group(7, references) == ['a0 a1 a2 b0 b1 b2', 'c0 c1 c2 d0 d1 d2']
    assert group(12, references) == ['a0 a1 a2 b0 b1 b2 c0 c1 c2 d0 d1 d2']
    of_one_reference = group(5, dict.fromkeys('abcd', 'a0'))  # too many for one group
    assert of_one_reference == ['a0 a1 b1 c1 d1', 'a2 b2 c2 d2 b0', 'c0 d0']
