"""Embedded digits, splits, the cache of decoded examples, and data that is not here."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer_dilated.data.dataset_facts import FACTS, abstract_dataset
from mixer_dilated.data.datasets import Digits, load_examples
from mixer_dilated.data.examples import Examples, check_disjoint, count_examples, split_slices
from tests.conftest import flip_bit, refuses, small_config, warns
from tests.tfds_files import open_set

SIZES = {'train': 1000, 'test': 200}


def test_digits_are_split_for_good_and_by_class():
    source = Digits()
    train, test = source.read('train'), source.read('test')
    assert {'train': len(train.labels), 'test': len(test.labels)} == source.split_sizes
    assert train.images.shape[1:] == source.image_shape and train.images.dtype == np.uint8
    assert train.images.max() == 255 and train.images.min() == 0
    shares = np.bincount(test.labels) / np.bincount(np.concatenate([train.labels, test.labels]))
    assert np.all(np.abs(shares - 0.2) < 0.005)
    part = source.read('train[10:20]+test[-3:]').images
    np.testing.assert_array_equal(part, np.concatenate([train.images[10:20], test.images[-3:]]))


@pytest.mark.parametrize('kind', ['folder', 'csv', 'npz', 'idx'])
def test_a_path_where_there_is_nothing_of_its_kind_is_refused(kind, tmp_path):
    (tmp_path / 'file').touch()
    other = {'folder': tmp_path / 'file', 'idx': tmp_path / 'file' / 'train'}.get(kind, tmp_path)
    for path in ('', tmp_path / 'no' / 'where', other):
        with refuses(f"config.dataset.name = '{kind}:{path}': no such f"):
            open_set('', f'{kind}:{path}')


# Splits


@pytest.mark.parametrize(
    ('split', 'slices'),
    [
        ('train', [('train', 0, 1000)]),
        ('train[:100]', [('train', 0, 100)]),
        ('train[-10:]', [('train', 990, 1000)]),
        ('train[50%:]+test[:5]', [('train', 500, 1000), ('test', 0, 5)]),
    ],
)
def test_splits_are_read_as_tfds_reads_them(split, slices):
    assert split_slices('config.x', split, SIZES) == slices
    assert count_examples('config.x', split, SIZES) == sum(b - a for _, a, b in slices)


@pytest.mark.parametrize(
    'split', ['trian', 'train[:2000]', 'train[', 'train[5:5]', 'train[9:5]+test', 'train[a:b]']
)
def test_a_wrong_split_is_refused_with_what_is_there(split):
    with refuses(f'config.x = {split!r}', 'train (1000 examples)', 'test'):
        split_slices('config.x', split, SIZES)


PARTS = st.tuples(st.sampled_from(['train', 'test']), st.integers(0, 8), st.integers(1, 9))


@given(st.lists(PARTS, min_size=2, max_size=4))
def test_splits_share_examples_exactly_if_their_sets_meet(parts):
    parts = [(name, 5 * start, min(5 * (start + size), SIZES[name])) for name, start, size in parts]
    one, *others = (f'{name}[{start}:{stop}]' for name, start, stop in parts)
    own, *sets = ({(name, i) for i in range(start, stop)} for name, start, stop in parts)
    shared = sum(len(own & other) for other in sets)
    if not shared:
        return check_disjoint('--calibrate', one, {'--split': '+'.join(others)}, SIZES)
    with refuses(f': {shared} ', '--split'):
        check_disjoint('--calibrate', one, {'--split': '+'.join(others)}, SIZES)


# The cache


class Counting:
    """A source that counts how often it is read."""

    name, fingerprint, reads = 'made/up', 'one', 0

    def read(self, split):
        self.reads += 1
        images = np.arange(20, dtype=np.uint8).reshape(5, 2, 2, 1)
        return Examples(images, np.arange(5, dtype=np.int32))


def load(source, folder, split='train'):
    """Loads examples through a cache, and checks them."""
    examples = load_examples(source, split, str(folder))
    for array, expected in zip(examples, Counting().read(''), strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype
    return examples


def test_the_cache_decodes_again_only_another_split_or_other_files(tmp_path):
    source = Counting()
    load(source, tmp_path)
    assert isinstance(load(source, tmp_path).images, np.memmap) and source.reads == 1
    assert len(list(tmp_path.iterdir())) == 1  # nothing unfinished is left
    load(source, tmp_path, 'train[:5]')
    source.fingerprint = 'two'
    load(source, tmp_path)
    assert source.reads == 3


DAMAGES = {
    'flip a bit': lambda images: flip_bit(images, -24),
    'truncate': lambda images: images.write_bytes(images.read_bytes()[:-8]),
    'remove': lambda images: images.unlink(),
    'no json': lambda images: images.with_name('entry.json').write_text('{"checksums"'),
    'pipe': lambda images: (images.unlink(), os.mkfifo(images)),
    'pipe of json': lambda images: (
        images.with_name('entry.json').unlink(),
        os.mkfifo(images.with_name('entry.json')),
    ),
    'pickle': lambda images: np.save(images, np.array([{}], dtype=object), allow_pickle=True),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_cache_entry_is_made_again(tmp_path, damage):
    source = Counting()
    load(source, tmp_path)
    (images,) = tmp_path.glob('*/images.npy')
    DAMAGES[damage](images)
    for _ in range(2):
        load(source, tmp_path)
        assert source.reads == 2


def test_flipped_bits_of_a_header_are_survived(tmp_path):
    source = Counting()
    load(source, tmp_path)
    (images,) = tmp_path.glob('*/images.npy')
    for bit in range(0, 128 * 8, 5):
        flip_bit(images, bit)
        load(source, tmp_path)


def test_an_entry_that_another_process_stored_meanwhile_stays(tmp_path):
    stored = []

    class Late(Digits):
        def read(self, split):
            load_examples(Digits(), split, str(tmp_path))
            stored.extend(path.stat().st_ino for path in tmp_path.iterdir())
            return super().read(split)

    load_examples(Late(), 'test', str(tmp_path))
    assert [path.stat().st_ino for path in tmp_path.iterdir()] == stored and len(stored) == 1


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with warns(tmp_path / 'file'):
        load(Counting(), tmp_path / 'file')


# Data that is not here


def abstract(**keys):
    return abstract_dataset(small_config(**{f'dataset.{k}': v for k, v in keys.items()}).dataset)


def test_what_is_known_of_mnist_is_true(mnist):
    known, prepared = abstract(name='mnist'), open_set(mnist, 'mnist')
    for fact in ('image_shape', 'stored_shape', 'num_classes', 'split_sizes'):
        assert getattr(known, fact) == getattr(prepared, fact)


def test_data_that_is_not_here_is_planned_for_or_refused_but_not_downloaded():
    dataset = abstract(name='cifar10', image_size=224)
    assert (dataset.image_shape, dataset.stored_shape) == ((224, 224, 3), (32, 32, 3))
    for name, words in (
        ('imagenet2012', ['dataset.image_size = 0', 'of several sizes']),
        ('svhn_cropped', ['downloads nothing', ', '.join(FACTS)]),
        ('no_such_set', ["'no_such_set': no such data set"]),
    ):
        with refuses(*words):
            abstract(name=name)
