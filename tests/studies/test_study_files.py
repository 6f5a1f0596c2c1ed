"""Files of a study that are of other types than a study writes."""

import json
import shutil

import pytest

from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.study import run_study
from mixer_dilated.studies.sweep import prepare
from mixer_dilated.studies.trials import SHARED, help_train
from tests.conftest import refuses
from tests.studies.conftest import small_sweep


@pytest.mark.parametrize('config', [7, None, [], 'x'])
def test_a_config_of_another_type_is_refused_with_its_file(config, tmp_path):
    content = {'kind': 'sweep', 'axes': ['method'], 'config': config}
    (tmp_path / 'study.json').write_text(json.dumps(content))
    with refuses(tmp_path / 'study.json', f'config = {config!r}'):
        run_study(small_sweep(), tmp_path, command='run')


@pytest.mark.parametrize(
    ('config', 'key'), [({'batch': 0}, 'config.batch = 0'), ({'model': {'sise': 4}}, 'model.sise')]
)
def test_a_value_that_is_not_allowed_is_refused_with_its_file(config, key, tmp_path):
    content = {'kind': 'sweep', 'axes': ['method'], 'config': config}
    (tmp_path / 'study.json').write_text(json.dumps(content))
    with refuses(tmp_path / 'study.json', key, 'remove it'):
        run_study(small_sweep(), tmp_path, command='run')


@pytest.mark.parametrize('seconds', [7, None, [], [None], [0.5, 0], 'x'])
def test_times_of_another_type_are_refused_with_their_file(seconds, tmp_path):
    sweep = small_sweep()
    content = {'kind': 'sweep', 'axes': ['method'], 'config': sweep.base.to_dict()}
    (tmp_path / 'study.json').write_text(json.dumps(content))
    (tmp_path / 'timing.json').write_text(json.dumps({'method=plain': seconds}))
    with refuses(tmp_path / 'timing.json', 'method=plain'):
        run_study(sweep, tmp_path, command='run')


class Remover(StudyObserver):
    """Takes the folder of a study away while it runs."""

    def __init__(self, folder):
        self.folder = folder

    def on_start(self, trials):
        shutil.rmtree(self.folder)


def test_a_process_that_leads_a_study_does_not_make_its_folder_again(tmp_path):
    folder = tmp_path / 'study'
    with refuses(folder, 'gone'):
        run_study(small_sweep(), folder, command='run', observer=Remover(folder))
    assert not folder.exists()


def test_a_process_that_helps_a_study_does_not_make_its_folder_again(tmp_path):
    sweep, folder = small_sweep(), tmp_path / 'study'
    description = {**dict.fromkeys(SHARED), 'config': sweep.base.to_dict()}
    folder.mkdir()
    (folder / 'study.json').write_text(json.dumps(description))
    with refuses(folder, 'gone'):
        help_train(prepare(sweep), folder, description, Remover(folder))
    assert not folder.exists()
