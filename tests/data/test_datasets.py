"""Data: real MNIST through TFDS, embedded digits, the cache, splits, augmentation."""

import os
import re
import shutil

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from mixer_dilated.config import resolve
from mixer_dilated.data import tfds_dataset
from mixer_dilated.data.augmentation import random_translate
from mixer_dilated.data.datasets import Digits, load_examples, open_dataset
from mixer_dilated.data.examples import Examples, num_examples, split_slices
from mixer_dilated.data.tfds_dataset import TfdsDataset, TfdsDataSource
from mixer_dilated.errors import UserError
from mixer_dilated.training.setup import create_setup
from tests.conftest import small_config
from tests.tfds_files import encoded, grey, write_set


def test_mnist_is_read_as_tfds_gives_it(mnist):
    source = TfdsDataset('mnist', mnist)
    assert source.image_shape == (28, 28, 1) and source.num_classes == 10
    assert source.split_sizes == {'train': 60000, 'test': 10000}
    examples = source.read('train[30:40]+test[:5]')
    assert examples.images.dtype == np.uint8 and examples.labels.dtype == np.int32
    expected = [
        *tfds.data_source('mnist', data_dir=mnist, split='train[30:40]'),
        *tfds.data_source('mnist', data_dir=mnist, split='test[:5]'),
    ]
    np.testing.assert_array_equal(examples.images, [record['image'] for record in expected])
    np.testing.assert_array_equal(examples.labels, [record['label'] for record in expected])


def test_any_classification_set_is_read_through_tfds(tmp_path):
    """A colour set, in the files that TFDS prepares."""
    colours = [grey(seed, (6, 4, 3)) for seed in range(5)]
    records = [(encoded(pixels), label) for label, pixels in enumerate(colours)]
    write_set(tmp_path, records, (6, 4, 3))
    dataset = {'name': 'tiny', 'data_dir': str(tmp_path)}
    source = open_dataset(resolve({'dataset': dataset}).dataset)
    assert (source.image_shape, source.num_classes) == ((6, 4, 3), 10)
    assert source.split_sizes == {'train': 5, 'test': 5}
    examples = source.read('train[1:]')
    np.testing.assert_array_equal(examples.images, colours[1:])
    np.testing.assert_array_equal(examples.labels, [1, 2, 3, 4])


GOOD = [(encoded(grey(seed)), seed % 10) for seed in range(12)]
BROKEN_RECORDS = {
    'label below': ((GOOD[0][0], -1), 'record 3: label -1: allowed are 0 to 9'),
    'label above': ((GOOD[0][0], 10), 'record 3: label 10: allowed are 0 to 9'),
    'another size': (
        (encoded(grey(0, (9, 8))), 1),
        'record 3: an image of 9×8, mode L; allowed is',
    ),
    'another mode': ((encoded(grey(0, (8, 8, 3))), 1), 'mode RGB; allowed is 8×8, mode L'),
    'sixteen bits': ((encoded(grey(0).astype(np.uint16) * 257), 1), 'mode I;16; allowed is'),
    'cut off': ((GOOD[0][0][:60], 1), 'record 3: an image that cannot be decoded'),
    'flipped': ((GOOD[0][0].replace(b'IDAT', b'IDAU'), 1), 'not a PNG, JPEG or WebP image'),
    'no image': ((b'<html>', 1), 'not a PNG, JPEG or WebP image'),
    'empty': ((b'', 1), 'not a PNG, JPEG or WebP image'),
    'a large one': ((encoded(np.zeros((3000, 3000), np.uint8)), 1), 'an image of 3000×3000'),
}


@pytest.mark.parametrize('kind', BROKEN_RECORDS)
def test_a_broken_record_is_refused_with_its_place(kind, tmp_path):
    record, words = BROKEN_RECORDS[kind]
    folder = write_set(tmp_path, [*GOOD[:3], record, *GOOD[3:]])
    source = TfdsDataset('tiny', str(tmp_path))
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        source.read('train')
    assert str(caught.value).startswith(f"{folder}, split 'train', record 3: ")
    assert len(source.read('train[:3]').labels) == 3


def test_damaged_files_of_a_prepared_set_are_refused_or_read_as_they_were(tmp_path):
    """Cut off and flipped at many places: what is read is right, or refused in one line."""
    folder = write_set(tmp_path, GOOD)
    expected = TfdsDataset('tiny', str(tmp_path)).read('train')
    path = folder / 'tiny-train.array_record-00000-of-00001'
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    refused = 0
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))  # the rest is padding
    for k in range(60):
        content = bytearray(whole)
        if k < 10:
            content = content[: len(content) * k // 10]
        else:
            content[draw.choice(used)] ^= 1 << draw.integers(8)
        path.write_bytes(content)
        try:
            found = TfdsDataset('tiny', str(tmp_path)).read('train')
        except UserError as error:
            refused += 1
            assert '\n' not in str(error) and str(path.parent) in str(error)
        else:
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_array_equal(found.images, expected.images)
    print(f'60 damaged files, {refused} refused')
    assert refused > 30


def test_a_damaged_file_among_many_is_found_by_its_record(tmp_path):
    folder = write_set(tmp_path, GOOD, files=len(GOOD))
    path = folder / 'tiny-train.array_record-00003-of-00012'
    path.write_bytes(path.read_bytes()[:1000])
    records = TfdsDataset('tiny', str(tmp_path)).data_source('train')
    assert records.labels([5, 0]).tolist() == [5, 0]
    with pytest.raises(UserError, match="split 'train': record 3 cannot be read: "):
        records.read([5, 3, 0])


def test_a_record_without_an_image_is_refused(tmp_path):
    empty = TfdsDataSource([b''], 1, 'somewhere', 'image', 'label', 10, (8, 8, 1), None)
    with pytest.raises(UserError, match=r'somewhere: record 0 cannot be read: .* no image'):
        empty.read([0])


def test_data_that_vanishes_is_told(tmp_path):
    folder = write_set(tmp_path, GOOD)
    source = TfdsDataset('tiny', str(tmp_path))
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=re.escape(str(folder))):
        source.read('train')


def test_images_that_are_too_large_are_refused_before_they_are_decoded(tmp_path):
    write_set(tmp_path, GOOD)
    with pytest.raises(UserError, match=r'images of 64 pixels; allowed are at most 63 \(config'):
        TfdsDataset('tiny', str(tmp_path), max_pixels=63)


def test_digits_are_split_for_good_and_by_class():
    source = Digits()
    train, test = source.read('train'), source.read('test')
    assert {'train': len(train.labels), 'test': len(test.labels)} == source.split_sizes
    assert train.images.shape[1:] == source.image_shape and train.images.dtype == np.uint8
    assert train.images.max() == 255 and train.images.min() == 0
    shares = np.bincount(test.labels) / np.bincount(np.concatenate([train.labels, test.labels]))
    assert np.all(np.abs(shares - 0.2) < 0.005)
    part = source.read('train[10:20]+test[-3:]')
    np.testing.assert_array_equal(
        part.images, np.concatenate([train.images[10:20], test.images[-3:]])
    )


SIZES = {'train': 1000, 'test': 200}


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
    assert num_examples('config.x', split, SIZES) == sum(b - a for _, a, b in slices)


@pytest.mark.parametrize(
    'split', ['trian', 'train[:2000]', 'train[', 'train[5:5]', 'train[9:5]+test', 'train[a:b]']
)
def test_a_wrong_split_is_refused_with_what_is_there(split):
    with pytest.raises(
        UserError, match=r'config.x = .*vailable: train \(1000 examples\), test'
    ) as e:
        split_slices('config.x', split, SIZES)
    assert '\n' not in str(e.value)


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


def assert_same(examples, source):
    for array, expected in zip(examples, Counting.read(source, ''), strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype


def test_a_second_start_does_not_decode_again(tmp_path):
    source = Counting()
    assert_same(load_examples(source, 'train', str(tmp_path)), Counting())
    again = load_examples(source, 'train', str(tmp_path))
    assert source.reads == 1 and isinstance(again.images, np.memmap)
    assert_same(again, Counting())
    assert len(list(tmp_path.iterdir())) == 1  # nothing unfinished is left


def test_another_split_or_other_files_are_decoded_anew(tmp_path):
    source = Counting()
    load_examples(source, 'train', str(tmp_path))
    load_examples(source, 'train[:5]', str(tmp_path))
    source.fingerprint = 'two'
    load_examples(source, 'train', str(tmp_path))
    assert source.reads == 3


@pytest.mark.parametrize(
    'damage', ['flip a bit', 'truncate', 'empty', 'remove', 'no json', 'pickle']
)
def test_a_damaged_cache_entry_is_made_again(tmp_path, damage):
    source = Counting()
    load_examples(source, 'train', str(tmp_path))
    (entry,) = tmp_path.iterdir()
    images = entry / 'images.npy'
    content = bytearray(images.read_bytes())
    if damage == 'flip a bit':
        content[-3] ^= 1
        images.write_bytes(content)
    elif damage == 'truncate':
        images.write_bytes(content[:-8])
    elif damage == 'empty':
        images.write_bytes(b'')
    elif damage == 'remove':
        images.unlink()
    elif damage == 'no json':
        (entry / 'entry.json').write_text('{"checksums"')
    else:
        np.save(images, np.array([{'not': 'an array'}], dtype=object), allow_pickle=True)
    assert_same(load_examples(source, 'train', str(tmp_path)), Counting())
    assert source.reads == 2
    load_examples(source, 'train', str(tmp_path))
    assert source.reads == 2


def test_flipped_bits_of_a_header_are_survived(tmp_path):
    source = Counting()
    load_examples(source, 'train', str(tmp_path))
    (entry,) = tmp_path.iterdir()
    original = (entry / 'images.npy').read_bytes()
    for position in range(0, 128 * 8, 5):
        content = bytearray(original)
        content[position // 8] ^= 1 << position % 8
        (entry / 'images.npy').write_bytes(content)
        assert_same(load_examples(source, 'train', str(tmp_path)), Counting())


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.warns(UserWarning, match='not cached'):
        examples = load_examples(Counting(), 'train', str(tmp_path / 'file'))
    assert_same(examples, Counting())


def test_the_cache_of_mnist_follows_its_files(mnist, tmp_path):
    """Another time of change is another fingerprint; the same files are the same one."""
    copy = tmp_path / 'data'
    shutil.copytree(mnist, copy)
    fingerprint = TfdsDataset('mnist', str(copy)).fingerprint
    assert TfdsDataset('mnist', str(copy)).fingerprint == fingerprint
    (record,) = copy.glob('mnist/*/*train*record*')
    record.chmod(0o644)
    os.utime(record, (1, 1))
    assert TfdsDataset('mnist', str(copy)).fingerprint != fingerprint


def test_an_example_is_trained_or_tested_on_but_not_both():
    splits = {'dataset.test_split': 'test+train[299:310]'}
    with pytest.raises(
        UserError, match=r'config.dataset.test_split = .*: 1 of its examples are in'
    ):
        create_setup(small_config(**splits))


def test_load_examples_uses_the_configs_cache(tmp_path):
    dataset = resolve({'dataset': {'name': 'digits', 'cache_dir': str(tmp_path)}}).dataset
    examples = load_examples(open_dataset(dataset), 'train[:7]', dataset.cache_dir)
    assert examples.images.shape == (7, 8, 8, 1)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unknown_data_set_is_refused():
    with pytest.raises(UserError, match=r"config.dataset.name = 'mnits': no such data set"):
        open_dataset(resolve({'dataset': {'name': 'mnits'}}).dataset)


def test_a_set_without_classes_is_refused(tmp_path, monkeypatch):
    builder = tfds.builder('dsprites', data_dir=tmp_path)
    monkeypatch.setattr(tfds_dataset, '_open_builder', lambda name, data_dir: builder)
    with pytest.raises(UserError, match='not an image classification set'):
        TfdsDataset('dsprites', str(tmp_path))


def test_records_that_cannot_be_read_at_random_are_refused(mnist, tmp_path):
    copy = tmp_path / 'data'
    shutil.copytree(mnist, copy)
    for path in copy.glob('mnist/*/*'):
        path.chmod(0o644)
        if path.name == 'dataset_info.json':
            path.write_text(path.read_text().replace('array_record', 'tfrecord'))
        path.rename(path.with_name(path.name.replace('array_record', 'tfrecord')))
    with pytest.raises(UserError, match='array_record is needed'):
        TfdsDataset('mnist', str(copy))


class FakeBuilder:
    """A builder of a set that is not prepared."""

    data_path = '/data/made_up/1.0.0'
    MANUAL_DOWNLOAD_INSTRUCTIONS = None

    def __init__(self, url='', error=None):
        self.url_infos = {url: None} if url else None  # as for sets that download nothing
        self.error = error
        self.prepared_as = None

    def download_and_prepare(self, file_format):
        if self.error:
            raise self.error
        self.prepared_as = file_format


@pytest.fixture
def with_tensorflow(monkeypatch):
    monkeypatch.setattr(tfds_dataset.importlib.util, 'find_spec', lambda name: name)


def test_tfds_prepares_what_is_not_there_as_array_record(with_tensorflow, capsys):
    builder = FakeBuilder()
    tfds_dataset._prepare(tfds, 'made_up', builder)
    assert builder.prepared_as == tfds.core.FileFormat.ARRAY_RECORD
    assert '/data/made_up' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('builder', 'cause'),
    [
        (FakeBuilder('https://host.invalid/data.gz'), 'cannot be downloaded: host.invalid'),
        (FakeBuilder(error=ConnectionError('line\nlost')), 'ConnectionError: line lost'),
    ],
)
def test_data_that_cannot_be_had_names_cause_place_and_ways_on(
    with_tensorflow, monkeypatch, builder, cause
):
    monkeypatch.setattr(tfds_dataset.urllib.request, 'getproxies', dict)
    with pytest.raises(UserError) as refusal:
        tfds_dataset._prepare(tfds, 'made_up', builder)
    message = str(refusal.value)
    for words in (cause, '/data/made_up', 'dataset.data_dir=', 'digits_dilated', 'TFDS_DATA_DIR'):
        assert words in message
    assert '\n' not in message


def test_without_tensorflow_nothing_is_prepared(monkeypatch):
    monkeypatch.setattr(tfds_dataset.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(
        UserError, match=r'takes TensorFlow.*pip install tensorflow.*Name the folder'
    ):
        tfds_dataset._prepare(tfds, 'made_up', FakeBuilder())


def test_random_translate_moves_whole_images_and_fills_with_zeros():
    image = np.zeros((7, 7, 1), np.uint8)
    image[3, 3] = 200
    images = np.repeat(image[None], 500, axis=0)
    shifted = np.asarray(jax.jit(random_translate, static_argnums=2)(jax.random.key(0), images, 2))
    assert shifted.dtype == np.uint8 and shifted.shape == images.shape
    np.testing.assert_array_equal(shifted.sum(axis=(1, 2, 3)), 200)
    _, rows, columns, _ = np.nonzero(shifted)
    counts = np.histogram2d(rows, columns, bins=5, range=[[1, 6], [1, 6]])[0]
    assert counts.sum() == 500 and counts.min() > 0  # all 25 shifts happen
    assert (counts.max() - counts.min()) < 40


def test_what_is_shifted_out_is_gone():
    image = np.full((1, 3, 3, 1), 255, np.uint8)
    images = np.repeat(image, 64, axis=0)
    shifted = np.asarray(random_translate(jax.random.key(1), images, 1))
    kept = (shifted > 0).sum(axis=(1, 2, 3))
    assert set(kept) == {4, 6, 9}
