"""A run whose images were moved or added to, one that gets more epochs, and one with validation."""

import contextlib
import hashlib
import shutil
import warnings
from types import SimpleNamespace

import pytest
from PIL import Image

from mixer_dilated.config import changed
from mixer_dilated.data.class_folders import SplitFiles
from mixer_dilated.files import read_json, write_json
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.training.data_record import (
    open_setup,
    read_split_files,
    record_data,
    write_split_files,
)
from mixer_dilated.training.run_folder import read_config
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import refuses, small_config, warns
from tests.data.image_sets import put_classes
from tests.training.runs import check_same_bytes, rows_of

CONSTANT = {'optimizer.decay_type': 'constant', 'optimizer.base_lr': 0.003}


def pets_config(root, **changes):
    dataset = {'name': f'folder:{root}', 'image_size': 8, 'channels': 1, 'train_split': 'train'}
    dataset |= {'test_split': 'test', 'cache_dir': str(root.parent / 'cache')}
    dataset = {f'dataset.{key}': value for key, value in dataset.items()}
    return small_config(**{'batch': 4, 'num_epochs': 2, **dataset, **changes})


@pytest.fixture(scope='module')
def pets(tmp_path_factory):
    """(folder of images, folder of a finished run on it)."""
    base = tmp_path_factory.mktemp('pets')
    root = put_classes(base / 'set')
    train_and_evaluate(pets_config(root), base / 'run')
    return root, base / 'run'


@pytest.fixture
def copied(pets, tmp_path):
    root, workdir = (shutil.copytree(path, tmp_path / path.name) for path in pets)
    config = changed(read_config(workdir), {'dataset.name': f'folder:{root}'})
    write_json(workdir / 'config.json', config.to_dict())
    return root, workdir


@pytest.mark.slow
@pytest.mark.parametrize('finished', [True, False])
def test_a_run_goes_on_where_its_images_were_moved_to_and_with_no_others(
    copied, finished, tmp_path
):
    root, workdir = copied
    moved = root.rename(tmp_path / 'moved')
    other = shutil.copytree(moved, tmp_path / 'other')
    Image.new('L', (9, 9), 50).save(other / 'cat' / '0.png', compress_level=0)
    if not finished:
        (workdir / 'summary.json').unlink()
    with refuses(workdir, 'other examples'):
        train_and_evaluate(pets_config(other), workdir)
    with warns(moved, 'dataset.name'):
        summary = train_and_evaluate(pets_config(moved), workdir)
    assert summary['dataset'] == evaluate_checkpoint(workdir)['dataset'] == f'folder:{moved}'


def test_a_stream_of_an_earlier_version_goes_on_whatever_its_max_pixels(tmp_path):
    """Its identity had max_pixels in it, which changes no image that was read."""
    root = put_classes(tmp_path / 'set')
    setup = create_setup(pets_config(root, **{'dataset.max_pixels': 123}))
    for max_pixels in (123, 2**24, 124):
        text = f"(image_shape=(8, 8, 1), how='resize', resize='crop', max_pixels={max_pixels})"
        digest = hashlib.sha256(f'Preprocessing{text}'.encode())
        for split, paths in setup.dataset.split_files.paths.items():
            for path in paths:
                num_bytes, label = (root / path).stat().st_size, int(path.startswith('dog'))
                digest.update(f'{split}\0{path}\0{label}\0{num_bytes}\n'.encode())
        texts = {split: f'{digest.hexdigest()}\n{split}' for split in ('train', 'test')}
        identities = {k: hashlib.sha256(text.encode()).hexdigest() for k, text in texts.items()}
        write_json(tmp_path / 'data.json', {k: {'identity': v} for k, v in identities.items()})
        with refuses('other examples') if max_pixels == 124 else contextlib.nullcontext():
            record_data(tmp_path, setup, {'train': {}, 'test': {}}, saved=True)


def test_a_run_that_begins_anew_records_the_splits_of_its_new_data(tmp_path):
    splits = [SplitFiles(('cat', 'dog'), {'test': [f'cat/{k}.png']}) for k in range(3)]
    for files, saved in zip(splits, (False, False, True), strict=True):
        write_split_files(tmp_path, SimpleNamespace(split_files=files), saved=saved)
    assert read_split_files(tmp_path) == splits[1]


def test_evaluate_reads_the_folder_that_is_named(copied, tmp_path):
    root, workdir = copied
    other = put_classes(tmp_path / 'other', 20)
    for path in [*other.rglob('*.png')]:
        path.rename(path.with_name(f'other{path.name}'))
    result = evaluate_checkpoint(workdir, data_dir=str(other))
    assert result['dataset'] == f'folder:{other}' and result['examples'] == 8
    (other / 'cat').rename(other / 'zebra')  # labels would be those of other classes
    with refuses(other, "'cat' is in one of them only"):
        evaluate_checkpoint(workdir, data_dir=str(other))
    root.rename(tmp_path / 'elsewhere')
    with refuses(root, '--data_dir='):
        evaluate_checkpoint(workdir)
    assert evaluate_checkpoint(workdir, data_dir=str(tmp_path / 'elsewhere'))['examples'] == 4


def test_evaluate_keeps_the_runs_own_split_when_images_were_added(copied):
    root, workdir = copied
    before = evaluate_checkpoint(workdir)
    put_classes(root, 40)
    with warns('60 images are new'):
        after = evaluate_checkpoint(workdir)
    assert after == before and after['epoch'] == 2


def test_a_run_without_a_record_of_its_split_says_so_when_images_were_added(copied, recwarn):
    root, workdir = copied
    (workdir / 'splits.npz').unlink()
    assert evaluate_checkpoint(workdir)['examples'] == 4
    assert not [w for w in recwarn if 'splits.npz' in str(w.message)]
    put_classes(root, 40)
    with warns(workdir, 'splits.npz', root):
        assert evaluate_checkpoint(workdir)['examples'] == 16


@pytest.mark.slow
def test_a_finished_run_of_a_constant_learning_rate_is_extended_to_the_bit(tmp_path):
    config = small_config(**CONSTANT, num_epochs=2)
    train_and_evaluate(config, tmp_path / 'run')
    longer = small_config(**CONSTANT, num_epochs=4)
    with warns('num_epochs was 2 and is 4'):
        summary = train_and_evaluate(longer, tmp_path / 'run')
    assert summary['num_epochs'] == 4
    train_and_evaluate(longer, tmp_path / 'whole')
    check_same_bytes(tmp_path / 'run', tmp_path / 'whole')
    assert train_and_evaluate(longer, tmp_path / 'run') == summary
    with refuses(tmp_path / 'run', 'num_epochs: 4, 2'):
        train_and_evaluate(config, tmp_path / 'run')


def test_a_run_whose_schedule_ends_names_the_way_to_train_on(pets):
    root, workdir = pets
    with refuses('num_epochs: 2, 9', f'--config.init_from={workdir}'):
        train_and_evaluate(pets_config(root, num_epochs=9), workdir)


VALIDATED = {'dataset.val_split': 'train[300:400]', 'checkpoints.keep_best': True}


@pytest.mark.slow
def test_epochs_are_evaluated_on_validation_examples_and_the_end_on_the_test_split(tmp_path):
    rough = {'optimizer.base_lr': 0.2, 'optimizer.decay_type': 'constant', 'num_epochs': 6}
    keep = {'checkpoints.keep': 1, 'checkpoints.every_steps': 3}
    config = small_config(**VALIDATED, **rough, **keep)
    summary = train_and_evaluate(config, tmp_path)
    rows = rows_of(tmp_path)
    assert all('val_accuracy' in row and 'test_accuracy' not in row for row in rows)
    assert (summary['val_examples'], summary['test_examples']) == (100, 100)
    assert summary['results'][0]['val_accuracy'] == rows[-1]['val_accuracy']
    last = evaluate_checkpoint(tmp_path)['results'][0]
    assert last['accuracy'] == summary['results'][0]['test_accuracy']
    best = max(rows, key=lambda row: row['val_accuracy'])  # the first of ties
    assert best['epoch'] < 6  # else this shows nothing
    kept = sorted(int(path.name) for path in (tmp_path / 'checkpoints').iterdir())
    assert kept == [best['step'], 54]
    result = evaluate_checkpoint(tmp_path, split='train[300:400]', best=True)
    assert result['epoch'] == best['epoch']
    assert result['results'][0]['accuracy'] == best['val_accuracy']


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on_by_its_test_accuracy(tmp_path):
    config = small_config(**{'dataset.train_split': 'train[:64]', 'num_epochs': 1})
    train_and_evaluate(config, tmp_path)
    (tmp_path / 'summary.json').unlink()
    best = changed(config, {'checkpoints.keep_best': True})
    with refuses('config.checkpoints.keep_best = True'):
        train_and_evaluate(best, tmp_path)
    (tmp_path / 'config.json').write_text(best.to_json())
    assert train_and_evaluate(best, tmp_path)['num_epochs'] == 1


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'checkpoints.keep_best': True}, ['keep_best = True', 'val_split="train[300:375]"']),
        (
            {'checkpoints.keep_best': True, 'dataset.train_split': 'train'},
            ['train_split="train[0:1290]"', 'val_split="train[1290:1433]"'],
        ),
        (
            {
                'checkpoints.keep_best': True,
                'dataset.train_split': 'train[10%:]',
                'dataset.test_split': 'train[:10%]',
            },
            ['train_split="train[143:1304]"', 'val_split="train[1304:1433]"'],
        ),
        ({'dataset.val_split': 'train[290:310]'}, ["val_split = 'train[290:310]'", '10 of']),
        ({'dataset.val_split': 'test[:10]'}, ["test_split = 'test[:100]'", 'val_split']),
        ({'dataset.val_split': 'validation'}, ["val_split = 'validation'", 'train (1433']),
    ],
)
def test_validation_examples_that_are_missing_or_shared_are_refused(tmp_path, changes, words):
    with refuses(*words):
        train_and_evaluate(small_config(**changes), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_run_that_kept_no_best_checkpoint_has_none(pets):
    with refuses(pets[1], '--config.checkpoints.keep_best=True', '--config.dataset.val_split='):
        evaluate_checkpoint(pets[1], best=True)


def test_evaluate_reads_a_folder_of_a_relative_name_moved_or_renamed(copied, tmp_path):
    root, workdir = copied
    config = read_json(workdir / 'config.json')
    config['dataset'] |= {'name': f'folder:{root.name}', 'data_dir': str(root.parent)}
    write_json(workdir / 'config.json', config)
    (tmp_path / 'elsewhere').mkdir()
    root.rename(moved := tmp_path / 'elsewhere' / root.name)
    assert evaluate_checkpoint(workdir, data_dir=str(moved.parent))['examples'] == 4
    moved.rename(renamed := tmp_path / 'renamed')
    assert evaluate_checkpoint(workdir, data_dir=str(renamed))['examples'] == 4


@pytest.mark.parametrize('left', ['', '40.orbax-checkpoint-tmp'])
def test_a_run_that_ended_before_its_first_checkpoint_is_not_of_an_earlier_version(copied, left):
    root, workdir = copied
    shutil.rmtree(workdir / 'checkpoints')
    (workdir / 'checkpoints' / left).mkdir(parents=True)
    (workdir / 'splits.npz').unlink()
    (root / 'cat' / '0.png').unlink()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        open_setup(workdir, read_config(workdir))


def test_what_a_run_without_checkpoints_has_recorded_does_not_bind_it(copied):
    root, workdir = copied
    config = read_config(workdir)
    for old, new in (('cat', 'ant'), ('dog', 'fox')):
        (root / old).rename(root / new)
    with refuses(root, "'ant'", workdir):
        open_setup(workdir, config)
    shutil.rmtree(workdir / 'checkpoints')
    assert open_setup(workdir, config).dataset.class_names == ('ant', 'fox')
