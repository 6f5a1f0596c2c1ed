"""Damage to a run's folder: every file of a checkpoint in turn, in every way."""

import errno
import json
import os
import shutil
import warnings

import chex
import jax
import pytest
from orbax.checkpoint import CheckpointManager

from mixer_dilated.config import changed
from mixer_dilated.errors import UserError
from mixer_dilated.files import write_text
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.training.checkpoint import DAMAGED, Checkpoints
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.run_folder import lock_folder
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import Progress, train_and_evaluate
from tests.conftest import small_config

CONFIG = {'checkpoints.every_steps': 9, 'model.dropout_rate': 0.1}


class Resumed(Progress):
    """Notes after which step a run goes on."""

    def on_ready(self, setup, step):
        self.step = step


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run of which all but the result is there: its config, folder and `metrics.jsonl`."""
    config = small_config(**CONFIG)
    workdir = tmp_path_factory.mktemp('runs') / 'run'
    train_and_evaluate(config, workdir)
    (workdir / 'summary.json').unlink()
    return config, workdir, (workdir / 'metrics.jsonl').read_bytes()


@pytest.fixture(scope='module')
def programs(run):
    return CompiledFunctions(create_setup(run[0]))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def flip(path):
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def remove(path):
    path.unlink()


# MIXER_LONG=1 tries all four on every file.
WAYS = (truncate, empty, flip, remove) if os.environ.get('MIXER_LONG') else (truncate, flip)


def restored(workdir, programs, config):
    with Checkpoints(workdir, config) as checkpoints:
        return checkpoints.restore(programs.abstract_run_state())


def arrays(snapshot):
    return jax.device_get((snapshot.state.params, snapshot.state.opt_state, snapshot.epoch_metrics))


def test_half_a_checkpoint_of_a_killed_run_is_cleared_away(run, programs, tmp_path):
    config, workdir, _ = run
    copy = shutil.copytree(workdir, tmp_path / 'run')
    half = copy / 'checkpoints' / '20.orbax-checkpoint-tmp'
    (half / 'default').mkdir(parents=True)
    (half / 'default' / 'manifest').write_bytes(b'half')
    step = int(restored(copy, programs, config).state.step[0])
    assert step == int(restored(workdir, programs, config).state.step[0]) and not half.exists()


@pytest.mark.slow
def test_every_file_damaged_in_turn_is_found_or_does_not_matter(run, programs, tmp_path):
    """What is restored is what was saved, of the newest step or, set aside, of the one before."""
    config, workdir, _ = run
    newest = restored(workdir, programs, config)
    shutil.copytree(workdir, tmp_path / 'cut')
    shutil.rmtree(tmp_path / 'cut' / 'checkpoints' / '27')
    before = restored(tmp_path / 'cut', programs, config)
    assert (newest.step, before.step) == (27, 18)
    files = [path for path in (workdir / 'checkpoints' / '27').rglob('*') if path.is_file()]
    outcome = {'set aside': 0, 'no harm': 0}
    for path in files:
        for way in WAYS:
            copy = tmp_path / 'copy'
            shutil.copytree(workdir, copy)
            way(copy / path.relative_to(workdir))
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter('always')
                found = restored(copy, programs, config)
            aside = (copy / DAMAGED).exists()
            assert aside == any('checkpoints/27: damaged' in str(each.message) for each in told)
            expected = before if aside else newest
            assert found.step == expected.step, (path, way)
            assert found.metadata == expected.metadata, (path, way)
            chex.assert_trees_all_equal(arrays(found), arrays(expected))
            outcome['set aside' if aside else 'no harm'] += 1
            shutil.rmtree(copy)
    print(f'{len(files)} files, {outcome}')
    assert outcome['set aside'] >= 3 * len(WAYS)  # of the four files that hold the content


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, to be damaged."""
    shutil.copytree(run[1], tmp_path / 'run')
    return tmp_path / 'run'


def damage_newest(workdir, number=1):
    steps = sorted((workdir / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    for folder in steps[-number:]:
        truncate(folder / 'record' / 'metadata')


def test_a_run_goes_on_from_the_one_before_a_damaged_checkpoint(run, copy):
    config, _, metrics = run
    damage_newest(copy)
    progress = Resumed()
    with pytest.warns(UserWarning, match=r'checkpoints/27: damaged .* set aside as .*/27-\d+$'):
        train_and_evaluate(config, copy, progress=progress)
    assert progress.step == 18
    assert (copy / 'metrics.jsonl').read_bytes() == metrics
    assert [path.name.split('-')[0] for path in (copy / DAMAGED).iterdir()] == ['27']


def test_evaluation_passes_over_a_damaged_checkpoint_and_changes_nothing(copy):
    damage_newest(copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob('*')}
    with pytest.warns(UserWarning, match='checkpoints/27: damaged, passed over'):
        assert evaluate_checkpoint(copy)['epoch'] == 2
    assert {path: path.stat().st_mtime_ns for path in copy.rglob('*')} == before


@pytest.mark.slow
def test_without_an_undamaged_checkpoint_a_run_does_not_start_over(run, copy):
    config = run[0]
    damage_newest(copy, 2)
    for _ in range(2):  # the second time all are set aside
        with (
            warnings.catch_warnings(),
            pytest.raises(UserError, match='no undamaged checkpoint is left; to train anew'),
        ):
            warnings.simplefilter('ignore')
            train_and_evaluate(config, copy)
    assert len(list((copy / DAMAGED).iterdir())) == 2
    shutil.rmtree(copy / 'checkpoints')
    shutil.rmtree(copy / DAMAGED)
    with pytest.raises(UserError, match='the run was under way'):
        train_and_evaluate(config, copy)


def test_a_run_of_other_versions_resumes_with_a_warning(run, copy):
    config, _, metrics = run
    versions = json.loads((copy / 'versions.json').read_text())
    (copy / 'versions.json').write_text(json.dumps({**versions, 'jax': '0.0.1'}))
    shutil.rmtree(copy / 'checkpoints' / '27')
    with pytest.warns(UserWarning, match=r'other versions \(there, here\): jax: 0.0.1, '):
        train_and_evaluate(config, copy)
    assert (copy / 'metrics.jsonl').read_bytes() == metrics


@pytest.mark.parametrize('name', ['config.json', 'data.json', 'versions.json'])
@pytest.mark.parametrize('way', [truncate, empty], ids=lambda way: way.__name__)
def test_a_damaged_file_of_a_run_is_named_and_nothing_is_trained(run, copy, name, way):
    way(copy / name)
    with pytest.raises(UserError, match=f'{name}: cannot be read'):
        train_and_evaluate(run[0], copy)


def test_a_process_killed_when_it_has_just_begun_leaves_a_folder_to_begin_in(tmp_path):
    (tmp_path / '.lock').touch()
    (tmp_path / '.config.json.unfinished').write_text('{')
    (tmp_path / 'versions.json').write_text('{')
    assert train_and_evaluate(small_config(num_epochs=1), tmp_path)['results']


def test_a_lock_is_free_when_its_process_ends(tmp_path):
    with (
        lock_folder(tmp_path),
        pytest.raises(UserError, match='another process works in this folder'),
    ):
        lock_folder(tmp_path).__enter__()
    with lock_folder(tmp_path):
        pass


def test_an_error_that_passes_sets_nothing_aside(run, programs, copy, monkeypatch):
    def restore(self, *_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(CheckpointManager, 'restore', restore)
    with pytest.raises(UserError, match='27: cannot be read: Too many open files; when that is'):
        restored(copy, programs, run[0])
    assert not (copy / DAMAGED).exists()


OTHER_GELU = r"27: of another config .* model\.gelu: 'exact', 'tanh'"


def test_a_checkpoint_of_another_config_than_the_folder_says_is_refused(run, copy):
    """The shapes fit, and the numbers would be those of another network."""
    config, _, _ = run
    other = changed(config, {'model.gelu': 'tanh'})
    (copy / 'config.json').write_text(json.dumps(other.to_dict()))
    with pytest.raises(UserError, match=OTHER_GELU):
        evaluate_checkpoint(copy)
    with pytest.raises(UserError, match=OTHER_GELU):
        train_and_evaluate(other, copy)


def test_what_a_link_in_a_folder_leads_to_stays_as_it_is(run, copy, tmp_path):
    """A folder may come from others."""
    precious = tmp_path / 'precious'
    precious.write_text('mine')
    (copy / '.metrics.jsonl.unfinished').symlink_to(precious)
    with pytest.raises(UserError, match=r'\.metrics\.jsonl\.unfinished is a link'):
        train_and_evaluate(run[0], copy)
    write_text(copy / 'metrics.jsonl', 'new')
    assert precious.read_text() == 'mine' and not (copy / 'metrics.jsonl').is_symlink()
