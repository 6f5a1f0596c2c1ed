"""Damage to a run's folder: every file of a checkpoint in turn, in every way."""

import errno
import json
import os
import pathlib
import shutil
import warnings

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mixer_dilated.cli.main import main
from mixer_dilated.config import changed
from mixer_dilated.data.datasets import Digits
from mixer_dilated.errors import UserError
from mixer_dilated.inference.conversion import convert
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.paths import orbax_path
from mixer_dilated.training.checkpoint import DAMAGED, Checkpoints
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import flip_bit, raising, refuses, small_config, warns
from tests.training.runs import (
    Recorder,
    check_same_bytes,
    content,
    modification_times,
    restore_newest,
)
from tests.training.test_train import events


@pytest.fixture(scope='module')
def programs(run):
    return CompiledFunctions(create_setup(run[0]))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    if size := path.stat().st_size:
        flip_bit(path, 4 * size)


# MIXER_LONG=1 tries all four on every file.
WAYS = [truncate, flip]
if os.environ.get('MIXER_LONG'):
    WAYS += [lambda path: os.truncate(path, 0), pathlib.Path.unlink]


def restore(workdir, programs, config):
    """As a run does, which clears away and sets aside."""
    with Checkpoints(workdir, config) as checkpoints:
        return checkpoints.restore(programs.abstract_run_state())


def test_half_a_checkpoint_of_a_killed_run_is_cleared_away(run, programs, copy):
    half = copy / 'checkpoints' / '30.orbax-checkpoint-tmp'
    (half / 'default').mkdir(parents=True)
    (half / 'default' / 'manifest').write_bytes(b'half')
    assert restore(copy, programs, run[0]).step == 27 and not half.exists()


@pytest.mark.slow
def test_every_file_damaged_in_turn_is_noticed_or_does_not_matter(run, programs, tmp_path):
    """What is restored is what was saved, of the newest step or, set aside, of the one before."""
    config, workdir, _ = run
    newest = restore_newest(config, workdir, programs)
    shutil.copytree(workdir, tmp_path / 'cut')
    shutil.rmtree(tmp_path / 'cut' / 'checkpoints' / '27')
    before = restore_newest(config, tmp_path / 'cut', programs)
    assert (newest.step, before.step) == (27, 18)
    files = [path for path in (workdir / 'checkpoints' / '27').rglob('*') if path.is_file()]
    counts = {'set aside': 0, 'no harm': 0}
    for path in files:
        for damage in WAYS:
            folder = shutil.copytree(workdir, tmp_path / 'damaged')
            damage(folder / path.relative_to(workdir))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always')
                restored = restore(folder, programs, config)
            aside = (folder / DAMAGED).exists()
            assert aside == any('checkpoints/27: damaged' in str(w.message) for w in caught)
            expected = before if aside else newest
            assert restored.step == expected.step, (path, damage)
            assert restored.metadata == expected.metadata, (path, damage)
            chex.assert_trees_all_equal(content(restored.state), content(expected.state))
            chex.assert_trees_all_equal(restored.epoch_metrics, expected.epoch_metrics)
            counts['set aside' if aside else 'no harm'] += 1
            shutil.rmtree(folder)
    assert counts['set aside'] >= 3 * len(WAYS)  # of the four files that hold the content


def damage_newest(workdir, number=1):
    steps = sorted((workdir / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    for folder in steps[-number:]:
        truncate(folder / 'record' / 'metadata')


def test_a_run_of_other_versions_goes_on_from_the_one_before_a_damaged_checkpoint(run, copy):
    versions = json.loads((copy / 'versions.json').read_text())
    (copy / 'versions.json').write_text(json.dumps({**versions, 'jax': '0.0.1'}))
    damage_newest(copy)
    earlier = {*(copy / 'tensorboard').iterdir()}
    progress = Recorder()
    with warns('jax: 0.0.1, '), warns('checkpoints/27: damaged', f'{DAMAGED}/27-'):
        train_and_evaluate(run[0], copy, progress=progress)
    assert progress.resumed_after == 18
    check_same_bytes(copy, run[1])
    assert [path.name.split('-')[0] for path in (copy / DAMAGED).iterdir()] == ['27']
    (added,) = {*(copy / 'tensorboard').iterdir()} - earlier
    written = [*events(added)]
    starts = [event.step for event in written if event.HasField('session_log')]
    assert starts == [0]  # what an earlier process wrote is void, and stands here again
    assert [event.step for event in written if event.summary.value] == [9, 18, 27]


def test_evaluation_passes_over_a_damaged_checkpoint_and_changes_nothing(copy):
    damage_newest(copy)
    before = modification_times(copy)
    with warns('checkpoints/27: damaged'):
        assert evaluate_checkpoint(copy)['epoch'] == 2
    assert modification_times(copy) == before


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_without_an_undamaged_checkpoint_a_run_does_not_start_over(run, copy):
    config = run[0]
    damage_newest(copy, 2)
    for _ in range(2):  # the second time all are set aside
        with refuses(copy, 'no undamaged checkpoint'):
            train_and_evaluate(config, copy)
    assert len(list((copy / DAMAGED).iterdir())) == 2
    shutil.rmtree(copy / 'checkpoints')
    shutil.rmtree(copy / DAMAGED)
    with refuses(copy):
        train_and_evaluate(config, copy)


def test_an_error_of_the_system_sets_nothing_aside(run, programs, copy, monkeypatch):
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    monkeypatch.setattr(ocp.CheckpointManager, 'restore', raising(error))
    with refuses('27: cannot be read: Too many open files'):
        restore(copy, programs, run[0])
    assert not (copy / DAMAGED).exists()


def test_a_checkpoint_of_another_config_than_the_folder_says_is_refused(run, copy):
    """The shapes fit, and the numbers would be those of another network."""
    other = changed(run[0], {'model.gelu': 'tanh'})
    (copy / 'config.json').write_text(json.dumps(other.to_dict()))
    for use in (evaluate_checkpoint, lambda copy: train_and_evaluate(other, copy)):
        with refuses('27: ', "model.gelu: 'exact', 'tanh'"):
            use(copy)


@pytest.mark.slow
def test_each_checkpoint_holds_its_own_epoch(tmp_path):
    """Saving runs in the background while the next epoch reuses the state's memory."""
    config = small_config(num_epochs=4, **{'checkpoints.keep': 4})
    programs = CompiledFunctions(create_setup(config))
    train = programs.in_memory(Digits().read('train[:300]'))
    state, copies = programs.init_state(), {}
    with Checkpoints(tmp_path, config) as checkpoints:
        for epoch in range(1, 5):
            state, _ = programs.train_epoch(state, train)
            copies[9 * epoch] = jax.tree.map(np.array, content(state))
            checkpoints.save(RunState(state, programs.empty_metrics(), [{'epoch': epoch}]))
    for step, copy in reversed(copies.items()):
        restored = restore_newest(config, tmp_path, programs)
        assert restored.step == step and restored.metrics == [{'epoch': step // 9}]
        chex.assert_trees_all_equal(content(restored.state), copy)
        shutil.rmtree(tmp_path / 'checkpoints' / str(step))


@pytest.mark.slow
def test_checkpoints_that_orbax_cannot_list_are_named(copy):
    path = copy / 'checkpoints' / '27' / '_CHECKPOINT_METADATA'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'custom_metadata': np.inf}))
    with refuses(copy / 'checkpoints', path.name):
        evaluate_checkpoint(copy)


def test_a_last_checkpoint_that_is_gone_is_a_warning(plain_run, tmp_path):
    folder = shutil.copytree(plain_run, tmp_path / 'run')
    *others, last = sorted((folder / 'checkpoints').glob('[0-9]*'), key=lambda p: int(p.name))
    shutil.rmtree(last)
    for read in (evaluate_checkpoint, lambda folder: convert(folder, tmp_path / 'w.npz')):
        with warns(folder, last.name, others[-1].name):
            read(folder)


@pytest.mark.parametrize('name', ['_CHECKPOINT_METADATA', 'record/metadata'])
def test_a_pipe_in_a_checkpoint_is_refused_and_not_waited_for(name, copy):
    path = copy / 'checkpoints' / '27' / name
    path.unlink()
    os.mkfifo(path)
    with refuses(f'{path}: not a regular file'):
        evaluate_checkpoint(copy)


def test_a_file_of_a_checkpoint_that_would_fill_the_memory_is_refused(tmp_path):
    """TensorStore ends the process where it has no memory for a manifest."""
    (tmp_path / 'd').mkdir()
    for path in (tmp_path / 'd' / 'data', tmp_path / 'manifest.ocdbt'):
        path.touch()
        os.truncate(path, 2**40)
    with refuses(tmp_path / 'manifest.ocdbt', 2**40):
        orbax_path(tmp_path)
    os.truncate(tmp_path / 'manifest.ocdbt', 100)
    assert orbax_path(tmp_path) == tmp_path


FULL = (
    "RESOURCE_EXHAUSTED: Error writing 'file:///r/d/0': No space left on device "
    "[OS error 28: ENOSPC] [source locations='…', os_error_code='28']"
)
XLA = 'RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.'


class FullWriter:
    """Orbax's manager on a full disk: waiting raises, and closing, which waits, raises again."""

    close = wait_until_finished = raising(ValueError(FULL))


@pytest.mark.parametrize('error', [None, RuntimeError('another')])
def test_an_error_of_the_writing_thread_names_the_folder_at_the_end(tmp_path, error):
    """Another error comes first."""
    words = ['another'] if error else [tmp_path, 'No space left on device']
    refusal = refuses(*words, error=type(error) if error else UserError)
    with refusal, Checkpoints(tmp_path, small_config()) as checkpoints:
        checkpoints._writer.close()
        checkpoints._writer = FullWriter()
        if error:
            raise error


@pytest.mark.parametrize(
    ('error', 'word'),
    [(ValueError(FULL), 'full'), (ValueError(XLA), 'memory'), (MemoryError(), 'memory')],
)
def test_the_command_line_tells_a_full_disk_from_full_memory(
    monkeypatch, capsys, tmp_path, error, word
):
    monkeypatch.setattr(ocp, 'CheckpointManager', raising(error))
    words = ['--config=configs/digits_dilated.py', f'--workdir={tmp_path / "run"}']
    assert main(words, 0.0) == 2
    assert word in capsys.readouterr().err
