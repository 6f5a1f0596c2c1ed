"""Embedded digits, and the cache of decoded examples."""

import numpy as np
import pytest

from mixer_dilated.data.datasets import Digits, load_examples
from mixer_dilated.data.examples import Examples
from tests.conftest import flip_bit, warns


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


class Counting:
    """A source that counts how often it is read."""

    name = 'made/up'
    image_shape = (2, 2, 1)
    num_classes = 5
    split_sizes = {'train': 5}
    fingerprint = 'one'
    reads = 0

    def read(self, split):
        self.reads += 1
        images = np.arange(20, dtype=np.uint8).reshape(5, 2, 2, 1)
        return Examples(images, np.arange(5, dtype=np.int32))


def load(source, folder, split='train'):
    """Loads examples through a cache, and checks them."""
    examples = load_examples(source, split, str(folder))
    for array, expected in zip(examples, Counting.read(Counting(), ''), strict=True):
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
    'empty': lambda images: images.write_bytes(b''),
    'remove': lambda images: images.unlink(),
    'no json': lambda images: images.with_name('entry.json').write_text('{"checksums"'),
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


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with warns(tmp_path / 'file'):
        load(Counting(), tmp_path / 'file')
