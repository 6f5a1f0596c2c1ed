"""Exit status and error messages of any command."""

import signal

import pytest

from mixer_dilated.cli import main as main_module
from mixer_dilated.cli import preemption
from mixer_dilated.cli.main import main
from mixer_dilated.errors import UserError
from tests.cli.conftest import CONFIG
from tests.conftest import ROOT, raising, refused, run_cli


def test_a_folder_that_cannot_be_made_is_refused(capsys, tmp_path):
    (tmp_path / 'file').write_text('')
    message = refused(capsys, CONFIG, f'--workdir={tmp_path / "file" / "run"}')
    assert 'cannot be written' in message or 'not empty' in message


def test_nothing_is_left_behind_by_refusals(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(capsys, f'--config={ROOT / "configs" / "digits_dilated.py"}', '--config.batch=5000')
    assert list(tmp_path.iterdir()) == []


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


def test_a_defect_is_reported_in_one_line_and_shown_if_asked(monkeypatch, capsys):
    broken = RuntimeError('one\nbroken \x1b[31mthing')
    monkeypatch.setattr(main_module, '_run', raising(broken))
    assert main(['keys'], 0.0) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: RuntimeError: one broken \\x1b[31mthing; a defect')
    assert main(['keys', '--debug'], 0.0) == 1
    assert 'Traceback' in capsys.readouterr().err
