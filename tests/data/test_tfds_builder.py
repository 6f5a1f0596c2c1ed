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
            ['no files of splits', 'prepare it again'],
        ),
    ],
)
def test_a_set_with_a_damaged_file_is_refused(file, make, words, tmp_path):
    path = write_set(tmp_path, GOOD) / file
    path.unlink()
    make(path)
    with refuses('tiny', *words):
        open_set(tmp_path)


CLASS = '"pythonClassName": "tensorflow_datasets.'
NESTED = r'"jsonFeature": {"json": "{\"type\": \"evil.X\"}"}, '  # of sets of earlier versions


@pytest.mark.parametrize(
    'named', ['"pythonClassName": "evil.', '"python_class_name": "evil.', NESTED + CLASS]
)
def test_a_set_imports_no_class_of_another_package(named, tmp_path, monkeypatch):
    (tmp_path / 'evil.py').write_text('raise SystemExit("imported")')
    monkeypatch.syspath_prepend(tmp_path)
    path = write_set(tmp_path, GOOD) / 'features.json'
    text = path.read_text()
    assert CLASS in text
    path.write_text(text.replace(CLASS, named, 1))
    with refuses(path, 'evil.', 'tensorflow_datasets.'):
        open_set(tmp_path)


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('filepathTemplate', '/dev/{SPLIT}', ['files elsewhere']),
        ('filepathTemplate', '{NONE}', ['NONE']),
        ('shardLengths', ['1'] * 40_000, ['more than 65536 files']),
        ('shardLengths', ['1000000000000'], ['more than 2147483647 examples']),
    ],
)
def test_a_set_whose_files_cannot_be_is_refused(name, value, words, tmp_path):
    path = write_set(tmp_path, GOOD) / 'dataset_info.json'
    info = json.loads(path.read_text())
    for split in info['splits']:
        split[name] = value
    path.write_text(json.dumps(info))
    with refuses(path.parent, 'dataset_info.json', *words):
        open_set(tmp_path)


def test_a_version_that_is_a_link_and_a_name_in_capitals_are_checked_too(tmp_path):
    folder = write_set(tmp_path / 'elsewhere', GOOD)
    (tmp_path / 'tiny').mkdir()
    (tmp_path / 'tiny' / '1.0.0').symlink_to(folder)
    (tmp_path / 'tiny' / 'round').symlink_to(tmp_path)
    assert len(open_set(tmp_path).read('train').labels) == len(GOOD)
    (folder / 'dataset_info.json').unlink()
    os.mkfifo(folder / 'dataset_info.json')
    for name in ('tiny', 'Tiny', 'tiny:1.0.0'):
        with refuses('not a regular file'):
            open_set(tmp_path, name)


def test_what_would_be_fetched_is_refused(tmp_path):
    with refuses("'huggingface:mnist'", 'catalogue'):
        open_set(tmp_path, 'huggingface:mnist')
    with refuses('gs://bucket/folder', 'local folder'):
        open_set('gs://bucket/folder')


def test_more_classes_than_can_be_are_refused_before_they_are_named(tmp_path):
    path = write_set(tmp_path, GOOD) / 'features.json'
    assert '"numClasses": "10"' in path.read_text()
    path.write_text(path.read_text().replace('"numClasses": "10"', '"numClasses": "1000000000"'))
    with refuses("'tiny'", 'more than 1048576 classes'):
        open_set(tmp_path)
