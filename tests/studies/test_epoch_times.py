"""Epochs of trials, timed in turns."""

from mixer_dilated.studies import epoch_times
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.training.setup import create_setup
from tests.conftest import small_config


def test_epochs_of_streams_are_timed_on_a_few_batches(monkeypatch):
    monkeypatch.setattr(epoch_times, 'RANDOM_BYTES', 3 * 32 * 8 * 8)  # three batches of nine
    trained = []

    class Timed:
        def __init__(self, setup, examples=None):
            trained.append((setup.steps_per_epoch, setup.config.num_seeds, setup.train_examples))

        def seconds(self):
            return 0.5

    monkeypatch.setattr(epoch_times, 'TimedEpoch', Timed)
    streamed = create_setup(small_config(num_seeds=2, **{'input.mode': 'stream'}))
    seconds = epoch_times.epoch_seconds({'streamed': streamed}, 2, StudyObserver())
    assert trained == [(3, 1, 96)] and seconds == {'streamed': [1.5, 1.5]}
