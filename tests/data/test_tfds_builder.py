"""Builders of TFDS: prepared, in another format, or not."""

import json
import os
from unittest import mock

import pytest
import tensorflow_datasets as tfds

from mixer_dilated.data import tfds_builder
from tests.conftest import refuses
from tests.tfds_files import encoded, grey, open_set, write_set

GOOD = [(encoded(grey(seed)), seed % 10) for seed in range(12)]


def test_the_fingerprint_follows_the_time_of_change(tmp_path):
    folder = write_set(tmp_path, GOOD)
    source = open_set(tmp_path)
    assert open_set(tmp_path).fingerprint == source.fingerprint
    os.utime(folder / 'tiny-train.array_record-00000-of-00001', (1, 1))
    assert open_set(tmp_path).fingerprint != source.fingerprint
    assert open_set(tmp_path).identity == source.identity


def test_a_set_is_read_if_array_record_is_one_of_its_formats(tmp_path):
    folder = write_set(tmp_path, GOOD)
    identity = open_set(tmp_path).identity
    info = json.loads((folder / 'dataset_info.json').read_text())

    def state(*formats):
        changes = {'fileFormat': formats[0], 'alternativeFileFormats': formats[1:]}
        (folder / 'dataset_info.json').write_text(json.dumps(info | changes))

    state('tfrecord', 'array_record')  # converted in place
    source = open_set(tmp_path)
    assert source.identity == identity and len(source.read('train').labels) == 12
    state('tfrecord')
    with refuses(folder, 'tfrecord', f'--dataset_version_dir={folder}', 'array_record'):
        open_set(tmp_path)


def fake_builder(url='', error=None):
    """A builder of a set that is not prepared."""
    builder = mock.Mock(data_path='/data/made_up/1.0.0', MANUAL_DOWNLOAD_INSTRUCTIONS=None)
    builder.url_infos = {url: None} if url else None  # as for sets that download nothing
    builder.download_and_prepare.side_effect = error
    return builder


TO_DO = ['/data/made_up', 'dataset.data_dir=', 'digits_dilated', 'TFDS_DATA_DIR']


@pytest.mark.parametrize(
    ('builder', 'has_tensorflow', 'words'),
    [
        (fake_builder(), True, []),
        (fake_builder('https://host.invalid/data.gz'), True, ['host.invalid', *TO_DO]),
        (fake_builder(error=ConnectionError('a\nb')), True, ['ConnectionError: a b', *TO_DO]),
        (fake_builder(), False, ['made_up', 'pip install tensorflow']),
    ],
)
def test_data_that_is_not_there_is_prepared_or_refused_with_cause_place_and_what_to_do(
    monkeypatch, capsys, builder, has_tensorflow, words
):
    find_spec = {True: str, False: lambda name: None}[has_tensorflow]
    monkeypatch.setattr(tfds_builder.importlib.util, 'find_spec', find_spec)
    monkeypatch.setattr(tfds_builder.urllib.request, 'getproxies', dict)
    if words:
        with refuses(*words):
            tfds_builder._prepare(tfds, 'made_up', builder)
        return
    tfds_builder._prepare(tfds, 'made_up', builder)
    file_format = tfds.core.FileFormat.ARRAY_RECORD
    builder.download_and_prepare.assert_called_once_with(file_format=file_format)
    assert '/data/made_up' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('file', 'make', 'words'),
    [
        ('dataset_info.json', os.mkfifo, ['not a regular file']),
        ('tiny-test.array_record-00000-of-00001', os.mkfifo, ['not a regular file']),
        ('dataset_info.json', os.mkdir, ['TFDS cannot build it']),
        (
            'dataset_info.json',
            lambda path: path.write_text('{"name": "tiny", "version": "1.0.0"} x'),
            ['TFDS cannot build it'],
        ),
        ('features.json', lambda path: path.write_bytes(bytes(2**26 + 1)), ['at most 67108864']),
        (
            'dataset_info.json',
            lambda path: path.write_text('{"name": "tiny", "version": "1.0.0"}'),
            ['no splits', 'prepare it again'],
        ),
    ],
)
def test_a_set_with_a_damaged_file_is_refused(file, make, words, tmp_path):
    path = write_set(tmp_path, GOOD) / file
    path.unlink()
    make(path)
    with refuses('tiny', *words):
        open_set(tmp_path)
