"""Files of a study that are of other types than a study writes."""

import json
import shutil

import pytest

from mixer_dilated.studies.epoch_times import time_trials
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.study import run_study
from mixer_dilated.studies.sweep import prepare
from mixer_dilated.studies.trials import SHARED, help_train
from tests.conftest import refuses
from tests.studies.conftest import small_sweep


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        (7, ['config = 7']),
        (None, ['config = None']),
        ([], ['config = []']),
        ({'batch': 0}, ['config.batch = 0', 'remove it']),
        ({'model': {'sise': 4}}, ['model.sise', 'remove it']),
    ],
)
def test_a_config_that_cannot_be_is_refused_with_its_file(config, words, tmp_path):
    content = {'kind': 'sweep', 'axes': ['method'], 'config': config}
    (tmp_path / 'study.json').write_text(json.dumps(content))
    with refuses(tmp_path / 'study.json', *words):
        run_study(small_sweep(), tmp_path, command='run')


@pytest.mark.parametrize('seconds', [7, None, [], [None], [0.5, 0], 'x'])
def test_times_of_another_type_are_refused_with_their_file(seconds, tmp_path):
    sweep = small_sweep()
    content = {'kind': 'sweep', 'axes': ['method'], 'config': sweep.base.to_dict()}
    (tmp_path / 'study.json').write_text(json.dumps(content))
    (tmp_path / 'timing.json').write_text(json.dumps({'method=plain': seconds}))
    with refuses(tmp_path / 'timing.json', 'method=plain'):
        run_study(sweep, tmp_path, command='run')


def test_trials_that_did_not_take_turns_are_timed_anew(tmp_path):
    trials = prepare(small_sweep())
    times = {trial.name: [500.0] * (k + 1) for k, trial in enumerate(trials)}
    (tmp_path / 'timing.json').write_text(json.dumps(times))
    times = time_trials(trials, tmp_path, StudyObserver())
    assert {len(seconds) for seconds in times.values()} == {9} and max(times.popitem()[1]) < 500


class Remover(StudyObserver):
    """Takes the folder of a study away while it runs."""

    def __init__(self, folder):
        self.folder = folder

    def on_start(self, trials):
        shutil.rmtree(self.folder)


@pytest.mark.parametrize('leads', [True, False])
def test_a_process_of_a_study_does_not_make_its_folder_again(tmp_path, leads):
    sweep, folder = small_sweep(), tmp_path / 'study'
    with refuses(folder, 'gone'):
        if leads:
            run_study(sweep, folder, command='run', observer=Remover(folder))
        else:
            description = {**dict.fromkeys(SHARED), 'config': sweep.base.to_dict()}
            folder.mkdir()
            (folder / 'study.json').write_text(json.dumps(description))
            help_train(prepare(sweep), folder, description, Remover(folder))
    assert not folder.exists()
