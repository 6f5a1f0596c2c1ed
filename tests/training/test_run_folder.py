"""A run's folder: whose it is, what is damaged in it, and who works in it."""

import errno
import os

import filelock
import pytest

from mixer_dilated.config import changed
from mixer_dilated.errors import BusyError
from mixer_dilated.files import read_json, write_json
from mixer_dilated.training.data_record import check_same_data
from mixer_dilated.training.run_folder import lock_folder
from mixer_dilated.training.train import Progress, train_and_evaluate
from tests.conftest import raising, refuses, small_config, warns
from tests.training.runs import RUN, check_same_bytes


def test_a_damaged_summary_is_refused(run, copy):
    config, workdir, _ = run
    edited = (workdir / 'summary.json').read_text().replace('"test_correct": ', '"test_correct": 1')
    for text in ('{', '[]', '{"results": []}', edited):
        (copy / 'summary.json').write_text(text)
        with refuses(copy / 'summary.json', 'remove it'):
            train_and_evaluate(config, copy)


@pytest.mark.parametrize('name', ['config.json', 'data.json', 'versions.json'])
def test_a_damaged_file_of_a_run_is_named_and_nothing_is_trained(run, copy, name):
    os.truncate(copy / name, 20)
    with refuses(f'{name}: cannot be read'):
        train_and_evaluate(run[0], copy)


@pytest.mark.parametrize('names', [7, {'a': 1}, ['x', 7]])
def test_class_names_of_another_type_are_refused_with_their_file(run, copy, names):
    data = read_json(copy / 'data.json')
    write_json(copy / 'data.json', {**data, 'class_names': names})
    with refuses(copy / 'data.json', 'class_names'):
        train_and_evaluate(run[0], copy)


def test_a_folder_of_something_else_is_refused(run, tmp_path):
    other = small_config(**RUN, **{'model.hidden_dim': 9, 'seed': 4})
    with refuses(run[1], 'model.hidden_dim: 8, 9', 'seed: 0, 4'):
        train_and_evaluate(other, run[1])
    (tmp_path / 'thesis.tex').write_text('precious')
    with refuses(tmp_path, 'not empty'):
        train_and_evaluate(small_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_a_run_goes_on_with_the_examples_it_was_begun_on(run, copy):
    config, workdir, _ = run
    expected = read_json(workdir / 'data.json')
    other = {**expected, 'train': {**expected['train'], 'labels': 1}}
    write_json(copy / 'data.json', other)
    with refuses(copy, 'other examples'):
        train_and_evaluate(config, copy)
    assert expected['class_names'] == [*'0123456789']
    check_same_data(copy, expected, {}, saved=False)  # nothing was trained yet
    check_same_data(copy, expected, {}, saved=True)
    check_same_data(copy, {'test': {'identity': 'one'}}, {}, saved=False)  # of a stream
    with refuses(copy, 'other examples'):
        check_same_data(copy, {'test': {'identity': 'another'}}, {}, saved=True)


def test_an_unfinished_file_that_is_a_link_is_refused(run, copy, tmp_path):
    (copy / '.metrics.jsonl.unfinished').symlink_to(tmp_path / 'precious')
    with refuses('.metrics.jsonl.unfinished', 'link'):
        train_and_evaluate(run[0], copy)


def test_a_process_killed_when_it_has_just_begun_leaves_a_folder_to_begin_in(tmp_path):
    (tmp_path / '.lock').touch()
    (tmp_path / '.config.json.unfinished').write_text('{')
    (tmp_path / 'versions.json').write_text('{')
    assert train_and_evaluate(small_config(num_epochs=1), tmp_path)['results']


def test_what_is_left_of_a_checkpoint_in_a_folder_that_was_removed_is_no_run(tmp_path):
    unfinished = tmp_path / 'checkpoints' / '40.orbax-checkpoint-tmp'
    unfinished.mkdir(parents=True)
    (unfinished / 'manifest.ocdbt').touch()
    assert train_and_evaluate(small_config(num_epochs=1), tmp_path)['results']
    assert not unfinished.exists()


@pytest.mark.parametrize(
    'name',
    [
        'checkpoints/40/manifest.ocdbt',
        'checkpoints/40.orbax-checkpoint-tmp',
        'notes.txt',
        'photos/2024/',
        'cells/',
    ],
)
def test_files_of_others_are_no_run(name, tmp_path):
    path = tmp_path / 'folder' / name
    path.parent.mkdir(parents=True)
    path.mkdir() if name.endswith('/') else path.touch()
    with refuses('--workdir', 'folder'):
        train_and_evaluate(small_config(num_epochs=1), tmp_path / 'folder')


def test_a_lock_is_free_when_its_process_ends(tmp_path):
    with lock_folder(tmp_path), refuses(tmp_path, error=BusyError):
        lock_folder(tmp_path).__enter__()
    with lock_folder(tmp_path):
        pass


@pytest.mark.parametrize('error', [NotImplementedError('no flock'), OSError(errno.ENOLCK, 'none')])
def test_a_file_system_without_locks_is_a_warning(error, tmp_path, monkeypatch):
    monkeypatch.setattr(filelock.FileLock, 'acquire', raising(error))
    with warns(tmp_path), lock_folder(tmp_path):
        pass


@pytest.mark.slow
@pytest.mark.parametrize('every_steps', [0, 4])
def test_a_folder_that_is_moved_away_ends_the_run_and_is_not_made_again(run, every_steps, tmp_path):
    """Next comes a row of metrics, or a checkpoint; back at its place the run goes on."""
    workdir, elsewhere = tmp_path / 'run', tmp_path / 'elsewhere'

    class Moves(Progress):
        def on_epoch_end(self, rows, speed):
            workdir.rename(elsewhere)

    config = changed(run[0], {'checkpoints.every_steps': every_steps})
    with refuses(workdir, 'No such file'):
        train_and_evaluate(config, workdir, progress=Moves())
    assert not workdir.exists()
    elsewhere.rename(workdir)
    train_and_evaluate(config, workdir)
    check_same_bytes(workdir, run[1])
