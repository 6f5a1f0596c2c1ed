"""Small studies that several tests share."""

import pytest

from mixer_dilated.studies import epoch_times
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.study import run_study
from mixer_dilated.studies.sweep import Sweep, Trial
from tests.conftest import small_config

SWEEP_FILE = """
from mixer_dilated.studies.sweep import Sweep, grid
from tests.conftest import small_config

def get_sweep():
    base = small_config(num_epochs=2, num_seeds=2, **{'dataset.val_split': 'train[300:400]'})
    trials = grid({'model.patches.dilation': (1, 2), 'model.hidden_dim': (8, 12)})
    return Sweep('Title', 'Which one?', base, trials, {'dilation': 1, 'hidden_dim': 8})
"""
METHODS = (
    Trial({'method': 'plain'}, {'model.patches.dilation': 1}),
    Trial({'method': 'dilated'}, {'model.patches.dilation': 2}),
    Trial({'method': 'wide'}, {'model.patches.size': 3, 'model.patches.dilation': 1}),
)


def small_sweep(trials=METHODS, kind='sweep', reference=None, **changes):
    changes = {'num_epochs': 1, 'num_seeds': 2, **changes}
    return Sweep(
        title='Small',
        question='Does it work?',
        base=small_config(**changes),
        trials=trials,
        reference=reference,
        kind=kind,
        image_sizes=(16, 8) if kind == 'resolution' else (),
    )


def table1_sweep(**changes):
    return small_sweep(kind='table1', reference={'method': 'plain'}, num_seeds=3, **changes)


class Recorder(StudyObserver):
    """Notes which trials were trained and which were there."""

    def __init__(self):
        self.trained, self.read = [], []

    def on_trial_end(self, trial, summary, finished):
        (self.read if finished else self.trained).append(trial.name)


@pytest.fixture
def timed(monkeypatch):
    """Seconds of an epoch of some trials, of others 1, in place of timing; and whose were timed."""
    seconds, asked = {'method=plain': 0.4, 'method=dilated': 1.1}, []

    def epoch_seconds(trials, rounds, observer):
        asked.append([trial.name for trial in trials])
        return {name: [seconds.get(name, 1.0)] * rounds for name in asked[-1]}

    monkeypatch.setattr(epoch_times, 'epoch_seconds', epoch_seconds)
    return seconds, asked


@pytest.fixture(scope='session')
def study(tmp_path_factory):
    """A finished study of kind table1: its folder, statistics, and the trials it trained."""
    folder = tmp_path_factory.mktemp('studies') / 'table1'
    recorder = Recorder()
    statistics = run_study(table1_sweep(), folder, command='run', observer=recorder)
    return folder, statistics, recorder
