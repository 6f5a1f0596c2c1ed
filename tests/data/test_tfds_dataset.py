"""Data sets of TFDS: read as TFDS does, prepared or refused."""

import os
import shutil
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mixer_dilated.data import tfds_builder
from mixer_dilated.data.tfds_dataset import TfdsDataSource
from mixer_dilated.errors import UserError
from tests.conftest import flip_bit, refuses
from tests.tfds_files import encoded, grey, open_set, write_set


def test_mnist_is_read_as_tfds_gives_it(mnist):
    source = open_set(mnist, 'mnist')
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


def test_a_folder_of_the_same_name_does_not_hide_a_set(tmp_path, monkeypatch):
    write_set(tmp_path / 'sets', GOOD, (8, 8, 1))
    monkeypatch.chdir(tmp_path)
    for name in ('tiny', 'pets', 'own.npz'):
        (tmp_path / name).mkdir() if '.' not in name else (tmp_path / name).write_bytes(b'')
    assert open_set(tmp_path / 'sets').num_classes == 10
    for name, kind in (('pets', 'folder'), ('own.npz', 'npz'), (str(tmp_path), 'folder')):
        with refuses(f'config.dataset.name = {name!r}', f"'{kind}:{name}'"):
            open_set(tmp_path / 'sets', name)


GOOD = [(encoded(grey(seed)), seed % 10) for seed in range(12)]
PNG = GOOD[0][0]
BROKEN_RECORDS = {
    'label below': ((PNG, -1), ['label -1', '0 to 9']),
    'label above': ((PNG, 10), ['label 10', '0 to 9']),
    'another size': ((encoded(grey(0, (9, 8))), 1), ['9×8', '8×8']),
    'cut off': ((PNG[:60], 1), ['cannot be decoded']),
    'flipped': ((PNG.replace(b'IDAT', b'IDAU'), 1), ['not a PNG']),
    'no image': ((b'<html>', 1), ['not a PNG']),
    'empty': ((b'', 1), ['not a PNG']),
    'a large one': ((encoded(np.zeros((3000, 3000), np.uint8)), 1), ['3000×3000']),
}


@pytest.mark.parametrize('kind', BROKEN_RECORDS)
def test_a_broken_record_is_refused_with_its_place(kind, tmp_path):
    record, words = BROKEN_RECORDS[kind]
    folder = write_set(tmp_path, [*GOOD[:3], record, *GOOD[3:]])
    source = open_set(tmp_path)
    with refuses(f"{folder}, split 'train', record 3: ", *words):
        source.read('train')
    assert len(source.read('train[:3]').labels) == 3


def test_damaged_files_of_a_prepared_set_are_refused_or_read_as_they_were(tmp_path):
    """Cut off and flipped at many places: what is read is right, or refused in one line."""
    path = write_set(tmp_path, GOOD) / 'tiny-train.array_record-00000-of-00001'
    expected, whole = open_set(tmp_path).read('train'), path.read_bytes()
    draw, refused = np.random.default_rng(0), 0
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))  # the rest is padding
    for k in range(60):
        path.write_bytes(whole[: len(whole) * k // 10] if k < 10 else whole)
        if k >= 10:
            flip_bit(path, int(8 * draw.choice(used) + draw.integers(8)))
        try:
            examples = open_set(tmp_path).read('train')
        except UserError as error:
            refused += 1
            assert '\n' not in str(error) and str(path.parent) in str(error)
        else:
            np.testing.assert_array_equal(examples.labels, expected.labels)
            np.testing.assert_array_equal(examples.images, expected.images)
    assert refused > 30


def test_records_that_cannot_be_read_are_refused_by_number(tmp_path):
    folder = write_set(tmp_path, GOOD, files=len(GOOD))
    path = folder / 'tiny-train.array_record-00003-of-00012'
    path.write_bytes(path.read_bytes()[:1000])
    records = open_set(tmp_path).data_source('train')
    assert records.labels([5, 0]).tolist() == [5, 0]
    with refuses(folder, "split 'train': record 3 cannot be read: "):
        records.read([5, 3, 0])
    empty = TfdsDataSource([b''], 1, 'somewhere', ('image', 'label'), {}, (8, 8, 1), None)
    with refuses('somewhere: record 0 cannot be read: ', 'image'):
        empty.read([0])


def test_data_that_is_too_large_or_vanishes_is_refused(tmp_path):
    folder = write_set(tmp_path, GOOD)
    with refuses('64 pixels', '63'):
        open_set(tmp_path, max_pixels=63)
    source = open_set(tmp_path)
    shutil.rmtree(folder)
    with refuses(folder):
        source.read('train')


def test_the_cache_of_mnist_follows_its_files(mnist, tmp_path):
    """Another time of change is another fingerprint; the same files are the same one."""
    copy = shutil.copytree(mnist, tmp_path / 'data')
    fingerprint = open_set(copy, 'mnist').fingerprint
    assert open_set(copy, 'mnist').fingerprint == fingerprint
    (record,) = copy.glob('mnist/*/*train*record*')
    record.chmod(0o644)
    os.utime(record, (1, 1))
    assert open_set(copy, 'mnist').fingerprint != fingerprint
    for path in copy.glob('mnist/*/*'):  # which cannot be read at random
        path.chmod(0o644)
        if path.name == 'dataset_info.json':
            path.write_text(path.read_text().replace('array_record', 'tfrecord'))
        path.rename(path.with_name(path.name.replace('array_record', 'tfrecord')))
    with refuses('array_record'):
        open_set(copy, 'mnist')


def fake_builder(url='', error=None):
    """A builder of a set that is not prepared."""
    builder = mock.Mock(data_path='/data/made_up/1.0.0', MANUAL_DOWNLOAD_INSTRUCTIONS=None)
    builder.url_infos = {url: None} if url else None  # as for sets that download nothing
    builder.download_and_prepare.side_effect = error
    return builder


def has_tensorflow(monkeypatch, is_there):
    monkeypatch.setattr(
        tfds_builder.importlib.util, 'find_spec', lambda name: name if is_there else None
    )


def test_tfds_prepares_what_is_not_there_as_array_record(monkeypatch, capsys):
    has_tensorflow(monkeypatch, True)
    builder = fake_builder()
    tfds_builder._prepare(tfds, 'made_up', builder)
    file_format = tfds.core.FileFormat.ARRAY_RECORD
    builder.download_and_prepare.assert_called_once_with(file_format=file_format)
    assert '/data/made_up' in capsys.readouterr().out


TO_DO = ['/data/made_up', 'dataset.data_dir=', 'digits_dilated', 'TFDS_DATA_DIR']


@pytest.mark.parametrize(
    ('builder', 'tensorflow', 'words'),
    [
        (fake_builder('https://host.invalid/data.gz'), True, ['host.invalid', *TO_DO]),
        (
            fake_builder(error=ConnectionError('line\nlost')), True,
            ['ConnectionError: line lost', *TO_DO],
        ),
        (fake_builder(), False, ['made_up', 'pip install tensorflow']),
    ],
)  # fmt: skip
def test_data_that_cannot_be_had_names_cause_place_and_what_to_do(
    monkeypatch, builder, tensorflow, words
):
    has_tensorflow(monkeypatch, tensorflow)
    monkeypatch.setattr(tfds_builder.urllib.request, 'getproxies', dict)
    with refuses(*words):
        tfds_builder._prepare(tfds, 'made_up', builder)
