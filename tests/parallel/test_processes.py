"""Real processes on this machine that train together, with CPU collectives (gloo)."""

import itertools
import os
import re
import shutil
import signal
import socket
import time

import chex
import numpy as np
import pytest

from mixer_dilated.cli import distributed
from mixer_dilated.cli.main import main
from mixer_dilated.config import flat
from mixer_dilated.files import read_arrays
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import GIVEN_FLAGS, config_file, small_config, start_python
from tests.data.image_sets import put
from tests.training.runs import rows_of

pytestmark = pytest.mark.slow

TRAINED = {
    'num_seeds': 2,
    'num_epochs': 2,
    'dataset.val_split': 'train[300:400]',
    'dataset.test_split': 'test[:101]',  # the processes' batches of it are filled up
    'optimizer.name': 'sgd',  # as in mesh_runs.py
    'optimizer.base_lr': 0.1,
}
WAIT = 240  # seconds, in a test that fails
DONE = (0, '', '')  # of a process that is not the first


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        return listening.getsockname()[1]


class Processes:
    """Processes of one command, each with its number, compiled as for a user.

    `own` has words, and `homes` the HOME, by the number of the process; each has `devices`.
    """

    def __init__(
        self, *words: str, count: int = 2, own=(), homes=(), devices: int = 1, program=('run.py',)
    ):
        flags = [f'--coordinator=127.0.0.1:{free_port()}', f'--num_processes={count}']
        environment = {'JAX_PLATFORMS': 'cpu'}
        several = f'--xla_force_host_platform_device_count={devices}' if devices > 1 else ''
        # XLA exits at once where its flags are blanks alone.
        environment['XLA_FLAGS'] = f'{GIVEN_FLAGS} {several}'.strip()
        self.all = []
        for k in range(count):
            more = [f'--process_id={k}', *dict(own).get(k, [])]
            home = {'HOME': str(homes[k])} if homes else {}
            process = start_python(*program, *words, *flags, *more, env=environment | home)
            self.all.append(process)

    def wait(self) -> list[tuple[int, str, str]]:
        """Exit status, output and errors of each."""
        try:
            outputs = [process.communicate(timeout=WAIT) for process in self.all]
        finally:
            for process in self.all:
                process.kill()
        return [(process.returncode, *o) for process, o in zip(self.all, outputs, strict=True)]


def run_two(*words: str, **settings) -> tuple[str, str]:
    """Output and errors of the first of two processes that succeed."""
    (status, out, err), other = Processes(*words, **settings).wait()
    assert (status, other) == (0, DONE), err
    return out, err


def check_refusal(*command: str, words: str, status: int = 2, **settings) -> None:
    """That two processes end with a status, and the first alone with an error of some words."""
    (first_status, _, err), other = Processes(*command, **settings).wait()
    assert first_status == status and other == (status, '', '')
    assert re.search(words, err.splitlines()[-1]) and 'Traceback' not in err


def assert_same_results(folder, other):
    """Metrics, weights and predictions agree to 1e-5."""
    for row, expected in zip(rows_of(folder), rows_of(other), strict=True):
        assert row.keys() == expected.keys()
        np.testing.assert_allclose([*row.values()], [*expected.values()], rtol=1e-5, atol=1e-5)
    for name in ('weights.npz', 'predictions.npz'):
        arrays, expected = read_arrays(folder / name), read_arrays(other / name)
        chex.assert_trees_all_close(arrays, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """What one process with one device makes of `TRAINED`, in memory."""
    folder = tmp_path_factory.mktemp('alone') / 'run'
    train_and_evaluate(small_config(**TRAINED), folder)
    return folder


def test_two_processes_have_the_numbers_of_one(tmp_path, alone):
    """Each has two devices, streams its share of every batch and keeps its of the parameters."""
    changes = {**TRAINED, 'input.mode': 'stream', 'mesh.data': 4, 'mesh.fsdp': True}
    changes |= {'input.workers': 1, 'checkpoints.keep_best': True}
    folder = tmp_path / 'run'
    words = (config_file(tmp_path, **changes), f'--workdir={folder}')
    out, err = run_two(*words, devices=2)
    assert err == '' and 'epoch 2/2' in out and 'test accuracy' in out and 'Gloo' not in out
    assert_same_results(folder, alone)
    best = ('--checkpoint=best', '--split=train[300:400]', '--calibrate=train[400:500]')
    out, _ = run_two('evaluate', f'--workdir={folder}', *best, devices=2)
    accuracies = np.reshape([row['val_accuracy'] for row in rows_of(folder)], (2, 2))
    assert re.search(rf'\naccuracy +{accuracies.mean(1).max():.4f} ±', out)
    assert 'train[400:500], 100 examples' in out
    weights = tmp_path / 'weights.npz'
    assert main(['convert', str(folder), str(weights)], 0.0) == 0 and weights.exists()
    assert 'finished' in run_two(*words, devices=2)[0]
    # As if it had been stopped before its end, with its newest checkpoint damaged.
    (folder / 'summary.json').unlink()
    array = next((folder / 'checkpoints' / str(newest(folder)) / 'arrays' / 'd').iterdir())
    array.write_bytes(array.read_bytes()[:-1])
    out, err = run_two(*words, devices=2)
    assert 'continues after step 9' in out
    assert f'{newest(folder)}: damaged' in err and len(err.splitlines()) == 1
    assert_same_results(folder, alone)


def test_processes_share_three_seeds_on_three_devices_each(tmp_path):
    """The part of the stream that a process reads is no block of it: seeds are split unevenly."""
    changes = {**TRAINED, 'num_seeds': 3, 'input.mode': 'stream', 'input.workers': 0}
    train_and_evaluate(small_config(**changes), tmp_path / 'alone')
    words = (config_file(tmp_path, **changes), f'--workdir={tmp_path / "run"}')
    assert run_two(*words, devices=3)[1] == ''
    assert_same_results(tmp_path / 'run', tmp_path / 'alone')


def newest(folder) -> int:
    return max((int(path.name) for path in folder.glob('checkpoints/[1-9]*[0-9]')), default=0)


def signal_after_a_checkpoint(count: int, victim: int, number: int, folder, *words: str):
    """Sends one of some processes a signal when there is a checkpoint more; how all end."""
    processes, before = Processes(*words, count=count), newest(folder)
    end = time.monotonic() + WAIT
    while newest(folder) == before:
        assert time.monotonic() < end and all(p.poll() is None for p in processes.all)
        time.sleep(0.02)
    processes.all[victim].send_signal(number)
    signalled = time.monotonic()
    ends = processes.wait()
    assert time.monotonic() - signalled < distributed.HEARTBEAT_SECONDS
    return ends


def test_a_run_goes_on_with_another_number_of_processes_after_each_end(tmp_path):
    """Four, one killed; two, the first killed; two, one asked to stop; at last one alone."""
    changes = {**TRAINED, 'num_epochs': 30, 'checkpoints.every_steps': 20}
    changes['optimizer.base_lr'] = 0.01  # rounding must not grow over 270 steps
    folder = tmp_path / 'run'
    words = (config_file(tmp_path, **changes), f'--workdir={folder}')
    for count, victim in ((4, 3), (2, 0)):
        ends = signal_after_a_checkpoint(count, victim, signal.SIGKILL, folder, *words)
        assert ends.pop(victim)[0] == -signal.SIGKILL
        for status, _, err in ends:
            assert status == 2 and 'Traceback' not in err
            assert re.match(r'error: process \d: another process', err.splitlines()[-1])
    (status, out, err), other = signal_after_a_checkpoint(2, 1, signal.SIGTERM, folder, *words)
    assert (status, err) == (143, '') and other == (143, '', '')
    assert f'stopped after step {newest(folder)}, which is saved' in out
    train_and_evaluate(small_config(**changes), folder)
    train_and_evaluate(small_config(**changes), tmp_path / 'never stopped')
    assert_same_results(folder, tmp_path / 'never stopped')


def test_what_one_process_refuses_ends_all_and_is_printed_once(tmp_path):
    config = config_file(tmp_path, **TRAINED)
    (tmp_path / 'letter.txt').write_text('not of a run')
    check_refusal(config, f'--workdir={tmp_path}', words='not empty')
    command = (config, f'--workdir={tmp_path / "run"}')
    check_refusal(*command, own={1: ['--config.seed=7']}, words='different configs')
    assert not (tmp_path / 'run').exists()
    own = {k: ['--config.optimizer.base_lr=1e12'] for k in (0, 1)}
    check_refusal(*command, own=own, words='not finite', status=3)


@pytest.fixture
def homes(tmp_path):
    """A home of each of two processes."""
    folders = [tmp_path / name for name in ('first', 'second')]
    for folder in folders:
        folder.mkdir()
    return folders


def test_what_the_second_process_lacks_is_printed_by_the_first(tmp_path, homes, alone):
    """Weights of a run in the home of the first; once it is there, both begin with it."""
    shutil.copytree(alone, homes[0] / 'run')
    config = config_file(tmp_path, **{**TRAINED, 'num_epochs': 1}, init_from='~/run')
    command = (config, f'--workdir={tmp_path / "run"}')
    check_refusal(*command, homes=homes, words='^error: process 1: .*second/run')
    shutil.copytree(alone, homes[1] / 'run')
    out, err = run_two(*command, homes=homes)
    assert err == '' and 'begins with ~/run' in out


def test_a_run_without_a_checkpoint_is_refused_once(tmp_path, alone):
    copy = shutil.copytree(alone, tmp_path / 'run')
    for file in (copy / 'checkpoints').rglob('*'):
        if file.is_file():
            os.truncate(file, min(50, file.stat().st_size))
    command = ('evaluate', f'--workdir={copy}')
    first, other = Processes(*command).wait()  # after warnings of each checkpoint
    assert first[0] == 2 and 'no undamaged checkpoint' in first[2] and other == (2, '', '')
    shutil.rmtree(copy / 'checkpoints')
    check_refusal(*command, words='no checkpoint there')


def test_processes_that_see_other_data_do_not_evaluate(tmp_path, homes):
    """Folders of images of the same name, of which that of the second lacks a class."""
    for home, classes in zip(homes, ('abc', 'ab'), strict=True):
        for split, name, k in itertools.product(('train', 'test'), classes, range(12)):
            put(home / 'images' / split / name / f'{k}.png', 10 * k)
    dataset = {'name': 'folder:images', 'data_dir': str(homes[0]), 'image_size': 8, 'channels': 1}
    changes = flat({'dataset': {**dataset, 'train_split': 'train', 'test_split': 'test'}})
    config = small_config(**changes, num_epochs=1, batch=12, batch_eval=12)
    train_and_evaluate(config, tmp_path / 'run')
    command = ('evaluate', f'--workdir={tmp_path / "run"}', '--data_dir=~')
    check_refusal(*command, homes=homes, words='different examples')


def test_processes_that_do_not_come_together_say_why(tmp_path):
    words = (config_file(tmp_path, **TRAINED), f'--workdir={tmp_path / "run"}')
    first, second = Processes(*words, own={1: ['--num_processes=3', '--process_id=2']}).all
    try:
        out, err = second.communicate(timeout=WAIT)
        assert first.poll() is None  # waits for the second
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 2 and not out and len(err.splitlines()) == 1
    assert 'process 0 was started with another --num_processes' in err
