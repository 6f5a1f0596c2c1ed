"""MNIST's idx files, as data sets."""

import gzip

import pytest

from tests.conftest import refuses, warns
from tests.data.array_sets import arrays, check_examples, write_idx
from tests.tfds_files import open_set


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('name', ['{}-{}-idx{}-ubyte', '{}-{}.idx{}-ubyte'])
def test_idx_files_are_a_data_set(tmp_path, name, packed):
    content = write_idx(tmp_path / 'raw', name=name, packed=packed)
    source = open_set('', f'idx:{tmp_path / "raw"}')
    assert source.image_shape == (28, 28, 1) and source.class_names == ('0', '1', '2')
    for split in ('train', 'test'):
        check_examples(source, split, content[f'x_{split}'], content[f'y_{split}'])
    write_idx(tmp_path / 'other', packed=not packed)
    assert open_set(tmp_path, 'idx:other').identity == source.identity


def test_one_of_the_sets_of_emnist_is_chosen_and_set_upright(tmp_path):
    for name, classes in (('digits', 2), ('letters', 3)):
        content = arrays(shape=(28, 28), classes=classes)
        write_idx(tmp_path, content, f'emnist-{name}-{{}}-{{}}-idx{{}}-ubyte', packed=True)
    with refuses(tmp_path, "'emnist-digits', 'emnist-letters'"):
        open_set('', f'idx:{tmp_path}')
    with warns('upright'):
        source = open_set('', f'idx:{tmp_path}/emnist-letters')
    check_examples(source, 'train', content['x_train'].swapaxes(1, 2), content['y_train'])


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
        (lambda content: gzip.compress(content)[:-9], ['ended before the end']),
        (lambda content: gzip.compress(content) + bytes(2**17), ['12×28×28']),
        (lambda content: gzip.compress(b'') + bytes(2**28), ['begins with ;']),
        (
            lambda content: gzip.compress(content[:4] + b'\0\0\4\0' * 2 + b'\0\0\1\1'),
            ['1024×1024×257'],  # more than 256 MiB
        ),
        (lambda content: gzip.compress(content)[:20] + b'noise', ['cannot be read']),
        (lambda content: gzip.compress(content)[:-8] + bytes(8), ['CRC']),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, change, words):
    write_idx(tmp_path)
    path = tmp_path / 'train-images-idx3-ubyte'
    path.write_bytes(change(path.read_bytes()))
    with refuses(path, *words):
        open_set('', f'idx:{tmp_path}')


def test_missing_idx_files_are_refused(tmp_path):
    with refuses(tmp_path, 'train images', 'train-images-idx3-ubyte'):
        open_set('', f'idx:{tmp_path}')
    write_idx(tmp_path)
    (tmp_path / 't10k-labels-idx1-ubyte').unlink()
    with refuses(tmp_path, 'test labels', 't10k-labels-idx1-ubyte'):
        open_set('', f'idx:{tmp_path}')
