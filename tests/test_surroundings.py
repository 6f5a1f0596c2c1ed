"""Surroundings that fail: disks that are full, broken or read-only."""

import errno
import os
import re

import pytest

from mixer_dilated.training.metrics import MetricsWriter
from mixer_dilated.training.run_state import RunState
from tests.conftest import raising, refuses, run_cli, run_python

SMALL = ('num_epochs=2', 'model.num_blocks=1', 'checkpoints.every_steps=8', 'checkpoints.keep=1000')
TRAIN = ('--config=configs/digits_dilated.py', *(f'--config.{change}' for change in SMALL))


def error_line(done):
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith('warning: ')]
    assert done.returncode == 2 and line.startswith('error: '), done.stderr
    return line


# MIXER_LONG=1 fills the disk at more moments.
@pytest.mark.slow
@pytest.mark.parametrize('size', ['8k', '100k', '1m'] if os.environ.get('MIXER_LONG') else ['1m'])
def test_a_full_disk_is_reported_and_the_run_goes_on_when_there_is_room(size, disk, tmp_path):
    undisturbed = tmp_path / 'undisturbed'
    assert run_cli(*TRAIN, f'--workdir={undisturbed}').returncode == 0
    workdir = disk(f'size={size}') / 'run'
    line = error_line(run_cli(*TRAIN, f'--workdir={workdir}'))
    assert 'No space left on device' in line and str(workdir) in line
    disk('size=30m', again=True)
    done = run_cli(*TRAIN, f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr
    assert ('continues after step' in done.stdout) == (size == '1m')
    for name in ('metrics.jsonl', 'weights.npz', 'predictions.npz'):
        assert (workdir / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.slow
def test_a_read_only_disk_is_reported(disk):
    folder = disk('ro')
    done = run_cli(*TRAIN, f'--workdir={folder / "run"}')
    assert 'cannot be written: Read-only file system' in error_line(done)


LIMITED = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
runpy.run_path('run.py', run_name='__main__')
"""


@pytest.mark.slow
def test_files_of_a_limited_size_are_reported(tmp_path):
    """As on a disk with quotas; needs no right to mount anything."""
    words = ('-c', LIMITED, *TRAIN, f'--workdir={tmp_path / "run"}')
    done = run_python(*words, env={'JAX_ENABLE_COMPILATION_CACHE': 'false'})
    assert re.search('cannot be written: .*[Tt]oo large', error_line(done))


def test_a_disk_that_is_full_for_the_events_ends_the_run_there(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    writer = MetricsWriter(tmp_path, RunState(None, None))
    monkeypatch.setattr(type(writer._events), 'write_event', raising(full))
    row = {'epoch': 1, 'step': 3, 'seed': 0, 'train_loss': 0.5}
    with refuses('tensorboard: cannot be written: No space left'):
        writer.write([row], {'seconds': 1.0})
