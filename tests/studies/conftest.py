"""Small studies that several tests share."""

import pytest

from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.study import run_study
from mixer_dilated.studies.sweep import Sweep, Trial
from tests.conftest import small_config

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


@pytest.fixture(scope='session')
def study(tmp_path_factory):
    """A finished study of kind table1: its folder, statistics, and the trials it trained."""
    folder = tmp_path_factory.mktemp('studies') / 'table1'
    recorder = Recorder()
    statistics = run_study(table1_sweep(), folder, command='run', observer=recorder)
    return folder, statistics, recorder
