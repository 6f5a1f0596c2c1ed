"""Exit status and error messages of any command."""

import io
import os
import signal

import pytest

from mixer_dilated.cli import main as main_module
from mixer_dilated.cli import preemption
from mixer_dilated.cli.main import main
from mixer_dilated.errors import UserError
from tests.cli.conftest import CONFIG, SMALL
from tests.conftest import ROOT, raising, read_lines, refused, run_cli, run_python


def test_refusals_leave_nothing_behind(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(capsys, f'--config={ROOT / "configs" / "digits_dilated.py"}', '--config.batch=5000')
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'file').write_text('')
    message = refused(capsys, CONFIG, f'--workdir={tmp_path / "file" / "run"}')
    assert 'cannot be written' in message or 'not empty' in message


@pytest.mark.slow
def test_a_terminal_without_such_letters_gets_others():
    done = run_cli('summary', CONFIG, PYTHONIOENCODING='ascii')
    assert done.returncode == 0, done.stderr
    assert 'window 7?7' in done.stdout


def test_a_save_that_fails_at_a_signal_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(preemption, '_received', signal.SIGTERM)
    full = UserError('checkpoints: cannot be written: No space left on device')
    monkeypatch.setattr(preemption, 'exit_now', raising(SystemExit(143)))
    monkeypatch.setattr(main_module, '_run', raising(full))
    with pytest.raises(SystemExit):
        main(['keys'], 0.0)
    assert 'error: checkpoints: cannot be written: No space' in capsys.readouterr().err


def test_a_defect_is_reported_in_one_line_with_settings_of_jax_and_shown_if_asked(
    monkeypatch, capsys
):
    monkeypatch.setattr(main_module, '_run', raising(RuntimeError('one\nbroken \x1b[31mthing')))
    monkeypatch.setenv('JAX_CHECK_TRACER_LEAKS', '1')
    assert main(['keys'], 0.0) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: RuntimeError: one broken \\x1b[31mthing; a defect')
    assert 'JAX_CHECK_TRACER_LEAKS=1' in line
    assert main(['keys', '--debug'], 0.0) == 1
    assert 'Traceback' in capsys.readouterr().err


@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize('words', [('--help',), ('keys',)])
def test_standard_output_that_nobody_reads_or_that_is_full(words, unbuffered):
    environment = {'env': {'PYTHONUNBUFFERED': unbuffered}}
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, 'w') as unread:
        done = run_python('run.py', *words, stdout=unread, **environment)
    assert (done.returncode, done.stderr) == (141, '')
    with open('/dev/full', 'w') as full:
        done = run_python('run.py', *words, stdout=full, **environment)
    assert done.returncode == 2
    assert done.stderr == 'error: standard output: No space left on device\n'


class _ClosedAtEpochs(io.StringIO):
    """Standard output whose reader ends at the first epoch."""

    def write(self, text):
        if text.startswith('epoch'):
            raise BrokenPipeError(32, 'Broken pipe')
        return super().write(text)


@pytest.mark.slow
@pytest.mark.parametrize('epochs', [1, 3])
def test_a_run_whose_reader_is_gone_saves_first(epochs, monkeypatch, tmp_path):
    folder = tmp_path / 'run'
    stream = _ClosedAtEpochs()
    with open(tmp_path / 'descriptor', 'w') as file, monkeypatch.context() as patch:
        stream.fileno = file.fileno
        patch.setattr('sys.stdout', stream)
        assert main([*SMALL, f'--config.num_epochs={epochs}', f'--workdir={folder}'], 0.0) == 141
    (row,) = read_lines(folder / 'metrics.jsonl')
    assert row['epoch'] == 1 and (folder / 'checkpoints' / str(row['step'])).is_dir()
    assert (folder / 'summary.json').exists() == (epochs == 1)


LIMITED = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
runpy.run_path('run.py', run_name='__main__')
"""


def test_too_little_memory_is_no_defect(monkeypatch, capsys, tmp_path):
    done = run_python('-c', LIMITED, 'train', CONFIG, f'--workdir={tmp_path / "run"}')
    assert done.returncode == 2 and done.stderr.startswith('error: not enough memory to start (4.0')
    assert not list(tmp_path.iterdir())
    error = ImportError('libjax_common.so: failed to map segment from shared object')
    monkeypatch.setattr(main_module, '_run', raising(error))
    monkeypatch.setattr('sys.argv', ['run.py', 'report', 'runs/NAME'])
    assert 'config' not in refused(capsys, 'report', 'runs/NAME')
    monkeypatch.setattr('sys.argv', ['run.py', CONFIG])
    assert 'config.batch' in refused(capsys, CONFIG)


WAITS = """
import sys, threading, time
from mixer_dilated.__main__ import run
threading.Thread(target=time.sleep, args=(1000,)).start()
sys.argv[1:] = ['nothing']
run()
"""


def test_an_error_ends_the_program_though_a_thread_of_a_library_waits():
    done = run_python('-c', WAITS)
    assert done.returncode == 2 and done.stderr.startswith('error: nothing')
