"""Trials that several processes train, and those whose loss does not stay finite."""

import contextlib
import shutil

import pytest

from mixer_dilated.errors import NonFiniteError
from mixer_dilated.studies import trials as trials_module
from mixer_dilated.studies.study import run_study
from mixer_dilated.studies.sweep import Trial
from mixer_dilated.training.run_folder import lock_folder
from tests.conftest import refuses
from tests.studies.conftest import METHODS, Recorder, small_sweep, table1_sweep

pytestmark = pytest.mark.slow


@pytest.fixture
def begun(study, tmp_path, timed):
    """A copy of the study without the results of two trials, and its sweep; no epoch is timed."""
    folder = shutil.copytree(study[0], tmp_path / 'copy')
    for name in ('cells/method=plain/summary.json', 'cells/method=wide/summary.json'):
        (folder / name).unlink()
    (folder / 'statistics.json').unlink()
    return folder, table1_sweep()


class Releaser(Recorder):
    """Releases a lock at an event."""

    def __init__(self, lock, event):
        super().__init__()
        self.held = contextlib.ExitStack()
        self.held.enter_context(lock)
        method = getattr(self, event)
        setattr(self, event, lambda *args: (self.held.close(), method(*args)))


def test_a_trial_that_does_not_stay_finite_costs_the_others_nothing(tmp_path):
    trials = (Trial({'method': 'wild'}, {'optimizer.base_lr': 1e6}), METHODS[1])
    calm = {'optimizer.name': 'sgd', 'optimizer.base_lr': 0.1, 'num_seeds': 1}
    with (
        pytest.warns(UserWarning, match='^wild: '),
        refuses('1 of 2', '(wild)', error=NonFiniteError),
    ):
        run_study(small_sweep(trials, **calm), tmp_path / 'study', command='')
    done = sorted(path.parent.name for path in tmp_path.glob('study/cells/*/summary.json'))
    assert done == ['method=dilated']
    with pytest.warns(UserWarning, match=' of 9 steps'):
        run_study(small_sweep(trials, **calm, on_nonfinite='skip'), tmp_path / 'study', command='')


def test_a_process_beside_another_study_is_refused(study, tmp_path, monkeypatch):
    monkeypatch.setattr(trials_module, 'GRACE_SECONDS', 0)
    folder = shutil.copytree(study[0], tmp_path / 'copy')
    with lock_folder(folder), refuses(f'--workdir={folder}', 'kind'):
        run_study(small_sweep(num_seeds=3), folder, command='')


def test_a_second_process_trains_what_none_has_begun(begun):
    folder, sweep = begun
    recorder = Recorder()
    with lock_folder(folder), lock_folder(folder / 'cells' / 'method=plain'):
        assert run_study(sweep, folder, command='', observer=recorder) is None
    assert recorder.trained == ['method=wide']
    assert not (folder / 'statistics.json').exists()


def test_the_first_process_waits_for_trials_of_others(begun, study):
    folder, sweep = begun
    recorder = Releaser(lock_folder(folder / 'cells' / 'method=plain'), 'on_wait')
    statistics = run_study(sweep, folder, command='run', observer=recorder)
    assert recorder.read + recorder.trained == ['method=dilated', 'method=wide', 'method=plain']
    assert statistics['cells'] == study[1]['cells']


def test_who_has_helped_compares_if_the_first_process_is_gone(begun, study):
    folder, sweep = begun
    recorder = Releaser(lock_folder(folder), 'on_help')
    statistics = run_study(sweep, folder, command='run', observer=recorder)
    assert recorder.trained == ['method=plain', 'method=wide'] and len(recorder.read) == 3
    assert statistics['cells'] == study[1]['cells']


def test_a_trial_whose_folder_is_a_link_is_not_trained(begun, tmp_path):
    folder, sweep = begun
    cell = folder / 'cells' / 'method=plain'
    elsewhere = cell.rename(tmp_path / 'elsewhere')
    cell.symlink_to(elsewhere)
    with refuses(f'{cell}: a link'):
        run_study(sweep, folder, command='')
    assert not (elsewhere / 'summary.json').exists()
