"""Files that are there whole or not at all, and outputs that a flag names."""

import contextlib
import errno
import os
import signal
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from mixer_dilated import files, paths
from mixer_dilated.data.datasets import open_dataset
from mixer_dilated.files import AtomicFile, check_output
from mixer_dilated.paths import expand_user
from tests.conftest import raising, random_bytes, refuses, small_config, start_python


def test_a_whole_file_has_all_that_was_written_and_nothing_is_left_beside_it(tmp_path):
    with AtomicFile(tmp_path / 'a') as file:
        for part in (b'one', b'', b'two'):
            file.write(part)
        assert not (tmp_path / 'a').exists()
    assert (tmp_path / 'a').read_bytes() == b'onetwo' and os.listdir(tmp_path) == ['a']


@pytest.mark.parametrize('error', [OSError(errno.EIO, 'of something else'), KeyboardInterrupt()])
def test_an_error_of_something_else_passes_unchanged_and_leaves_what_was_there(tmp_path, error):
    (tmp_path / 'a').write_text('before')
    with pytest.raises(type(error)) as raised, AtomicFile(tmp_path / 'a', 'csv') as file:
        file.write(b'after')
        raise error
    assert raised.value is error
    assert (tmp_path / 'a').read_text() == 'before' and os.listdir(tmp_path) == ['a']


@pytest.mark.parametrize('at', ['open', 'write', 'fsync', 'replace'])
def test_an_error_of_the_file_itself_names_its_flag(tmp_path, monkeypatch, at):
    path = tmp_path / 'a'
    path.write_text('before')
    full = raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        if at != 'write':
            patch.setattr(type(path) if at == 'open' else os, at, full)
        with (
            refuses(f'--csv={path}: cannot be written: No space left on device'),
            AtomicFile(path, 'csv') as file,
        ):
            if at == 'write':
                file._file.close()
                file._file = stack.enter_context(open('/dev/full', 'wb', buffering=0))
            file.write(b'after')
    assert path.read_text() == 'before' and os.listdir(tmp_path) == ['a']


def test_a_link_of_an_output_keeps_leading_there_and_one_in_a_run_is_replaced(tmp_path):
    """A folder of a run may come from others, with links of any name."""
    (tmp_path / 'other').mkdir()
    target, link, unfinished = (tmp_path / name for name in ('other/a', 'link', '.link.unfinished'))
    target.write_text('before')
    link.symlink_to(target)
    unfinished.symlink_to(target)
    with AtomicFile(link, 'csv') as file:
        file.write(b'after')
    assert target.read_text() == 'after' and link.is_symlink()
    files.write_text(link, 'last')
    assert target.read_text() == 'after' and not link.is_symlink() and unfinished.is_symlink()


def test_a_check_of_an_output_changes_nothing(tmp_path):
    (tmp_path / 'old').write_text('before')
    (tmp_path / 'nowhere').symlink_to(tmp_path / 'new')
    for name in ('old', 'new', 'nowhere'):
        check_output('csv', tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ['nowhere', 'old']
    assert (tmp_path / 'old').read_text() == 'before'
    for place in ('no/x', '.', 'old/x'):
        with refuses(f'--csv={tmp_path / place}'):
            check_output('csv', tmp_path / place)


PARSERS = (files.read_json, files.read_json_lines, files.read_arrays)
READERS = (files.read_bytes, files.file_checksum, *PARSERS)


@pytest.mark.parametrize('read', READERS)
@pytest.mark.parametrize('kind', ['missing', 'folder', 'pipe', 'device', 'large'])
def test_only_a_regular_file_within_a_bound_is_read(read, kind, tmp_path, monkeypatch):
    path = tmp_path / 'a'
    if kind == 'folder':
        path.mkdir()
    if kind == 'pipe':
        os.mkfifo(path)
    if kind == 'device':
        path.symlink_to('/dev/zero')
    if kind == 'large':
        path.write_bytes(b'{}' * 9)
        check = files._check_size
        monkeypatch.setattr(files, '_check_size', lambda size, _: check(size, 16))
    with refuses(f'{path}: cannot be read: ', '; give another'):
        read(path, 'give another')


@contextlib.contextmanager
def memory_below(size):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('read', [files.read_json, files.read_json_lines])
def test_of_a_huge_json_value_little_is_in_memory(read, tmp_path):
    (tmp_path / 'a').write_bytes(b'{"a": "')
    os.truncate(tmp_path / 'a', 2**29)
    with memory_below(2**28), refuses(tmp_path / 'a'):
        read(tmp_path / 'a')


def test_a_checksum_is_of_the_whole_file_of_which_little_is_in_memory(tmp_path):
    path, content = tmp_path / 'a', random_bytes(2**24 + 5).tobytes()
    path.write_bytes(content)
    assert files.file_checksum(path) == zlib.crc32(content)
    os.truncate(path, 2**27)
    with memory_below(2**26):
        files.file_checksum(path)


@pytest.fixture(params=['local', 'bucket'])
def folder(request, tmp_path, monkeypatch):
    """A bucket is in memory, by the interface through which `epath` reaches object stores."""
    if request.param == 'local':
        return tmp_path
    fsspec = pytest.importorskip('fsspec')
    memory = fsspec.filesystem('memory')
    monkeypatch.setattr(fsspec, 'filesystem', lambda *_, **__: memory)
    monkeypatch.setattr(paths, 'prepare_client', lambda _: None)
    return paths.as_path('gs://bucket/run')


def test_what_is_written_is_read_in_a_folder_and_a_bucket(folder):
    rows = [{'a': 1, 'b': 'ü\u2028'}, {'a': float('nan')}]
    assert not paths.exists(folder / 'a.json')
    files.write_json(folder / 'a.json', rows[0])
    files.write_json_lines(folder / 'a.jsonl', rows[:1])
    files.append_json_lines(folder / 'a.jsonl', rows[1:])
    arrays = {'x': np.arange(6).reshape(2, 3), 'y': np.array(['é'])}
    files.write_arrays(folder / 'a.npz', **arrays)
    with pytest.raises(KeyError), AtomicFile(folder / 'a.json') as file:
        file.write(b'half')
        raise KeyError
    assert files.read_json(folder / 'a.json') == rows[0]
    assert files.read_json_lines(folder / 'a.jsonl') == [rows[0], {'a': None}]
    np.testing.assert_equal(files.read_arrays(folder / 'a.npz'), arrays)
    with refuses(f'{folder}/none: cannot be read'):
        files.read_bytes(folder / 'none')


@pytest.mark.parametrize('text', ['', '[]', '{"a":', '\xff', '[' * 200_000, '{}\n3'])
@pytest.mark.parametrize('read', PARSERS)
def test_a_file_that_does_not_hold_what_it_should_is_named_in_a_line(read, text, tmp_path):
    path = tmp_path / 'a'
    path.write_bytes(text.encode('latin1'))
    if (read, text) == (files.read_json_lines, ''):
        assert read(path) == []
        return
    with refuses(f'{path}: cannot be read: '):
        read(path)


def test_arrays_that_unpack_to_more_than_a_bound_or_their_file_suggests_are_refused(
    tmp_path, monkeypatch
):
    path = tmp_path / 'a.npz'
    monkeypatch.setattr(files, 'SMALL_ARRAY_BYTES', 10**4)
    files.write_arrays(path, x=np.zeros(10**6, np.uint8))
    with refuses('a.npz: cannot be read: ', '1000128 bytes; allowed are at most'):
        files.read_arrays(path)
    content = random_bytes(10**6)
    files.write_arrays(path, x=content)
    np.testing.assert_equal(files.read_arrays(path), {'x': content})
    monkeypatch.setattr(files, 'MAX_ARRAY_BYTES', 10**5)
    with refuses('a.npz: cannot be read: ', '100000'):
        files.read_arrays(path)


def test_texts_without_letters_of_which_there_may_be_any_number_are_refused(tmp_path):
    header = {'descr': '|S0', 'fortran_order': False, 'shape': (10**12,)}
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive, archive.open('a.npy', 'w') as file:
        np.lib.format.write_array_header_1_0(file, header)
    with refuses(tmp_path / 'a.npz', 'texts without letters'):
        files.read_arrays(tmp_path / 'a.npz')


def test_a_link_to_nothing_is_there_and_told_as_that(tmp_path):
    (tmp_path / 'a').symlink_to('gone')
    assert paths.exists(tmp_path / 'a')
    with refuses(f'{tmp_path / "a"}: cannot be read: it is a link to gone, which is not there'):
        files.read_bytes(tmp_path / 'a')


PROGRAM = """
import pathlib, sys, time
from mixer_dilated.cli import preemption
from mixer_dilated.files import AtomicFile
preemption.install_handlers()
with AtomicFile(pathlib.Path(sys.argv[1]), 'csv') as file:
    file.write(b'half')
    print('ready', flush=True)
    time.sleep(60)
"""


def test_a_signal_leaves_no_unfinished_output(tmp_path):
    with start_python('-c', PROGRAM, tmp_path / 'o.csv') as process:
        assert process.stdout.readline() == 'ready\n' and len(os.listdir(tmp_path)) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    assert not os.listdir(tmp_path)


def test_a_path_of_a_user_who_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv('HOME', '/home/ann')
    assert str(expand_user('~/pets')) == '/home/ann/pets'
    with refuses('~nobody_at_all/pets', 'no user ~nobody_at_all'):
        expand_user('~nobody_at_all/pets')
    config = small_config(**{'dataset.name': 'folder:~nobody_at_all/pets'})
    with refuses('no user ~nobody_at_all'):
        open_dataset(config.dataset)
