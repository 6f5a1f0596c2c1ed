"""Signals at any moment: a run saves, says where and ends."""

import re
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import CONFIG
from tests.conftest import ROOT, start_python

LONG = (CONFIG, '--config.num_epochs=100000')


def start_training(*words):
    """A run in a separate process, when its first epoch is done."""
    process = start_python('run.py', *words)
    for line in process.stdout:
        if line.startswith('epoch'):
            return process
    raise AssertionError(process.communicate())


def test_an_interrupt_while_compiling_ends_with_130_and_a_hint(tmp_path):
    """The first line that training prints says that compiling is next; then comes the signal."""
    process = start_python('run.py', CONFIG, f'--workdir={tmp_path / "run"}')
    while 'compiles' not in process.stdout.readline():
        pass
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.startswith('\ninterrupted; ') and f'--workdir={tmp_path / "run"} resumes' in err
    assert err.count('\n') == 2


@pytest.mark.slow
@pytest.mark.parametrize('command', ['train', 'evaluate'])
def test_a_signal_at_any_moment_of_the_start_ends_the_program(command, trained, tmp_path):
    """Also inside an import, where Python's own KeyboardInterrupt would be lost."""
    words = {
        'train': (*LONG, f'--workdir={tmp_path / "run"}'),
        'evaluate': (f'--workdir={trained[0]}', '--split=train+test'),
    }[command]
    for pause in (0.15, 0.4, 0.6, 0.8, 1.0):
        process = start_python('run.py', command, *words)
        time.sleep(pause)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        # Before the first line of the program, the system ends it.
        assert process.returncode in (143, -signal.SIGTERM), err
        assert 'Traceback' not in err and 'warning' not in err, err


@pytest.mark.slow
@pytest.mark.parametrize('closed', ['stdout', 'stderr'])
def test_a_stream_that_is_closed_does_not_keep_a_run_from_saving(closed, tmp_path):
    workdir = tmp_path / 'run'
    close = {'stdout': '>&-', 'stderr': '2>&-'}[closed]
    words = [sys.executable, 'run.py', *LONG, '--config.checkpoints.every_steps=11']
    shell = ['bash', '-c', f'exec "$@" {close}', '-', *words, f'--workdir={workdir}']
    process = subprocess.Popen(shell, cwd=ROOT)
    while not any((workdir / 'checkpoints').glob('[0-9]*')):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_says_where_and_ends(number, status, tmp_path):
    workdir = tmp_path / 'run'
    process = start_training(*LONG, f'--workdir={workdir}')
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status and err == '', err
    message = re.search(r'stopped after step (\d+), which is saved;\nthe same command with', out)
    newest = max(int(path.name) for path in (workdir / 'checkpoints').iterdir())
    assert int(message[1]) == newest and f'--workdir={workdir} resumes' in out


HANGS = """
import sys, time
from mixer_dilated.cli import preemption
preemption.GRACE_SECONDS = float(sys.argv[1])
preemption.install_handlers()
preemption.on_signal("defer")
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ('pauses', 'patience'),
    [((), 2), ((0.7,), 1000), ((0.1,), 2)],
    ids=['one', 'a second', 'one that comes twice'],
)
def test_a_run_that_hangs_is_ended_by_time_or_a_second_signal(pauses, patience):
    """The process never looks whether it was asked to stop."""
    process = start_python('-c', HANGS, str(patience))
    assert process.stdout.readline() == 'ready\n'
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    for pause in pauses:
        time.sleep(pause)
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and 'the newest checkpoint is kept' in err
    assert patience == 1000 or time.monotonic() - start >= patience


def test_a_run_that_hangs_ends_though_nobody_reads_what_it_says():
    process = start_python('-c', HANGS, '1')
    assert process.stdout.readline() == 'ready\n'
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
