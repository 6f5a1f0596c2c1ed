"""MNIST's idx files, and arrays from the command line."""

import gzip
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.data.datasets import preprocessing_of
from tests.conftest import refuses
from tests.data.array_sets import (
    arrays,
    check_examples,
    open_set,
    write_idx,
)


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('name', ['{}-{}-idx{}-ubyte', '{}-{}.idx{}-ubyte'])
def test_idx_files_are_a_data_set(tmp_path, name, packed):
    content = write_idx(tmp_path / 'raw', name=name, packed=packed)
    source = open_set(f'idx:{tmp_path / "raw"}')
    assert source.image_shape == (28, 28, 1) and source.class_names == ('0', '1', '2')
    check_examples(source, 'train', content['x_train'][..., None], content['y_train'])
    check_examples(source, 'test', content['x_test'][..., None], content['y_test'])
    write_idx(tmp_path / 'other', packed=not packed)
    assert open_set('idx:other', data_dir=str(tmp_path)).identity == source.identity


def test_one_of_the_sets_of_emnist_is_chosen_and_set_upright(tmp_path):
    content = {name: write_idx(tmp_path, arrays(shape=(28, 28), classes=classes),
                               f'emnist-{name}-{{}}-{{}}-idx{{}}-ubyte', packed=True)
               for name, classes in (('digits', 2), ('letters', 3))}  # fmt: skip
    with refuses(tmp_path, "'emnist-digits', 'emnist-letters'"):
        open_set(f'idx:{tmp_path}')
    with pytest.warns(UserWarning, match='upright'):
        source = open_set(f'idx:{tmp_path}/emnist-letters')
    upright = content['letters']['x_train'].swapaxes(1, 2)[..., None]
    check_examples(source, 'train', upright, content['letters']['y_train'])


def test_real_mnist_is_the_same_from_idx_and_from_tfds(tmp_path, mnist):
    expected = open_set('mnist', data_dir=mnist).read('train[:100]+test[:20]')
    parts = {'train': slice(100), 'test': slice(100, None)}
    content = {f'x_{part}': expected.images[rows, ..., 0] for part, rows in parts.items()}
    content |= {f'y_{part}': expected.labels[rows] for part, rows in parts.items()}
    write_idx(tmp_path, content, packed=True)
    for array, of_tfds in zip(
        open_set(f'idx:{tmp_path}').read('train+test'), expected, strict=True
    ):
        np.testing.assert_array_equal(array, of_tfds)


def damage(tmp_path, name, change):
    write_idx(tmp_path)
    path = tmp_path / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda content: content[:-1], ['truncated', '12×28×28']),
        (lambda content: content + b'0', ['12×28×28']),
        (lambda content: b'', ['begins with ;']),
        (lambda content: content[:9], ['truncated']),
        (lambda content: b'<html>', ['begins with 3c 68 74 6d', '00 00 08 03']),
        (lambda content: b'\0\0\x0d\x03' + content[4:], ['begins with 00 00 0d 03']),
        (lambda content: b'\0\0\x08\x01' + content[4:], ['begins with 00 00 08 01']),
        (lambda content: content[:4] + b'\xff' * 12, ['4294967295×4294967295']),
        (lambda content: gzip.compress(content[:4] + b'\x7f' * 12), ['2139062143']),
        (lambda content: gzip.compress(content)[:-9], ['truncated']),
        (lambda content: gzip.compress(content)[:20] + b'noise', ['damaged']),
        (lambda content: gzip.compress(content)[:-8] + bytes(8), ['CRC']),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, change, words):
    damage(tmp_path, 'train-images-idx3-ubyte', change)
    with refuses(tmp_path / 'train-images-idx3-ubyte', *words):
        open_set(f'idx:{tmp_path}')


def test_missing_idx_files_are_refused(tmp_path):
    for folder in (tmp_path / 'no' / 'where', tmp_path):
        with refuses(folder):
            open_set(f'idx:{folder}')
    write_idx(tmp_path)
    (tmp_path / 't10k-labels-idx1-ubyte').unlink()
    with refuses(tmp_path, 'test labels', 't10k-labels-idx1-ubyte'):
        open_set(f'idx:{tmp_path}')


@pytest.mark.parametrize(
    ('name', 'channels', 'expected'),
    [
        ('idx:raw', 1, 'mnist'),
        ('idx:data/FashionMNIST/raw', 1, 'fill'),
        ('npz:data/mnist.npz', 1, 'mnist'),
        ('npz:fashion-mnist.npz', 1, 'fill'),
        ('npz:mnist.npz', 3, 'resize'),
        ('npz:pneumoniamnist.npz', 1, 'resize'),
        ('csv:mnist', 1, 'resize'),
    ],
)
def test_files_to_predict_are_brought_to_the_style_of_the_set(name, channels, expected):
    dataset = resolve({'dataset': {'name': name}}).dataset
    assert preprocessing_of(dataset, (28, 28, channels)).how == expected


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['npz', 'idx'])
def test_a_network_is_trained_on_arrays_that_move_and_evaluated(tmp_path, kind, capsys):
    content = arrays(64, 24, (8, 8))
    place, moved = tmp_path / 'set.npz', tmp_path / 'moved.npz'
    if kind == 'npz':
        np.savez(place, **content)
    else:
        write_idx(place, content)
    changes = {
        'dataset.name': f'{kind}:{place}', 'dataset.train_split': 'train', 'batch': 8,
        'dataset.test_split': 'test', 'num_epochs': 1, 'model.num_blocks': 1,
        'optimizer.decay_type': 'constant',
    }  # fmt: skip
    flags = ['--config=configs/digits_dilated.py', f'--workdir={tmp_path / "run"}']

    def train(**more):
        return main(
            [*flags, *(f'--config.{key}={value}' for key, value in {**changes, **more}.items())], 0
        )

    assert train() == 0
    shutil.move(place, moved)
    moved_and_streamed = {'dataset.name': f'{kind}:{moved}', 'input.mode': 'stream'}
    assert train(**moved_and_streamed, num_epochs=2) == 0
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['test_examples'] == 24
    shutil.move(moved, place)
    flag = f'--data_dir={place}'
    assert main(['evaluate', f'--workdir={tmp_path / "run"}', flag], 0) == 0
    assert '24' in capsys.readouterr().out
    Image.fromarray(content['x_test'][0]).save(tmp_path / 'one.png')
    predict = ['predict', f'--workdir={tmp_path / "run"}', str(tmp_path / 'one.png')]
    assert main(predict, 0) == 0
