"""Files that are there whole or not at all, and outputs that a flag names."""

import contextlib
import errno
import os
import signal
import subprocess
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mixer_dilated.errors import UserError
from mixer_dilated.files import AtomicFile, check_output, output_file
from tests.conftest import ROOT


@given(parts=st.lists(st.binary(max_size=9), max_size=5))
def test_a_whole_file_has_all_that_was_written_and_nothing_is_left_beside_it(
    tmp_path_factory, parts
):
    folder = tmp_path_factory.mktemp('whole')
    with AtomicFile(folder / 'a') as file:
        for part in parts:
            file.write(part)
        assert not (folder / 'a').exists()
    assert (folder / 'a').read_bytes() == b''.join(parts) and os.listdir(folder) == ['a']


@pytest.mark.parametrize('error', [OSError(errno.EIO, 'of something else'), KeyboardInterrupt()])
def test_an_error_of_something_else_passes_unchanged_and_leaves_what_was_there(tmp_path, error):
    (tmp_path / 'a').write_text('before')
    with pytest.raises(type(error)) as raised, output_file('csv', tmp_path / 'a') as file:
        file.write(b'after')
        raise error
    assert raised.value is error
    assert (tmp_path / 'a').read_text() == 'before' and os.listdir(tmp_path) == ['a']


@pytest.mark.parametrize('at', ['open', 'write', 'replace'])
def test_an_error_of_the_file_itself_is_told_with_its_flag(tmp_path, monkeypatch, at):
    path = tmp_path / 'a'
    path.write_text('before')

    def full(*_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        if at == 'open':
            patch.setattr(type(path), 'open', full)
        if at == 'replace':
            patch.setattr(os, 'replace', full)
        said = f'^--csv={path}: cannot be written: No space left on device; name a file that can$'
        with pytest.raises(UserError, match=said), output_file('csv', path) as file:
            if at == 'write':
                file._file.close()
                file._file = stack.enter_context(open('/dev/full', 'wb', buffering=0))
            file.write(b'after')
    assert path.read_text() == 'before' and os.listdir(tmp_path) == ['a']


def test_a_link_of_an_output_keeps_leading_there_and_one_in_a_run_is_replaced(tmp_path):
    (tmp_path / 'other').mkdir()
    target = tmp_path / 'other' / 'a'
    target.write_text('before')
    (tmp_path / 'link').symlink_to(target)
    with output_file('csv', tmp_path / 'link') as file:
        file.write(b'after')
    assert target.read_text() == 'after' and (tmp_path / 'link').is_symlink()
    with AtomicFile(tmp_path / 'link') as file:
        file.write(b'last')
    assert target.read_text() == 'after' and not (tmp_path / 'link').is_symlink()


def test_no_file_with_the_name_of_an_unfinished_one_is_overwritten(tmp_path):
    (tmp_path / 'precious').write_text('mine')
    (tmp_path / '.a.unfinished').symlink_to('precious')
    with output_file('csv', tmp_path / 'a') as file:
        file.write(b'after')
    assert (tmp_path / 'precious').read_text() == 'mine'
    assert (tmp_path / '.a.unfinished').is_symlink()


def test_a_check_of_an_output_changes_nothing(tmp_path):
    (tmp_path / 'old').write_text('before')
    (tmp_path / 'nowhere').symlink_to(tmp_path / 'new')
    for name in ('old', 'new', 'nowhere'):
        check_output('csv', tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ['nowhere', 'old']
    assert (tmp_path / 'old').read_text() == 'before'
    for place, said in {'no/x': 'no such folder', '.': 'not a file', 'old/x': 'folder'}.items():
        with pytest.raises(UserError, match=said):
            check_output('csv', tmp_path / place)


PROGRAM = """
import pathlib, sys, time
from mixer_dilated.cli import preemption
from mixer_dilated.files import output_file
preemption.install_handlers()
with output_file('csv', pathlib.Path(sys.argv[1])) as file:
    file.write(b'half')
    print('ready', flush=True)
    time.sleep(60)
"""


def test_a_signal_leaves_no_unfinished_output(tmp_path):
    command = [sys.executable, '-c', PROGRAM, str(tmp_path / 'o.csv')]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'ready\n' and len(os.listdir(tmp_path)) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    assert not os.listdir(tmp_path)
