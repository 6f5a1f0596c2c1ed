"""Real processes on this machine that train together, with CPU collectives (gloo)."""

import functools
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mixer_dilated.cli import distributed
from mixer_dilated.cli.arguments import Arguments
from mixer_dilated.cli.main import main
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import ROOT, small_config
from tests.tfds_files import encoded, grey

pytestmark = pytest.mark.slow

TRAINED = {
    'num_seeds': 2,
    'num_epochs': 2,
    'dataset.test_split': 'test[:101]',  # the processes' batches of it are filled up
    'optimizer.name': 'sgd',  # as in tests/test_devices.py
    'optimizer.base_lr': 0.1,
}
WAIT = 120  # seconds, in a test that fails


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        return listening.getsockname()[1]


def config_file(folder, **changes):
    path = folder / 'config.py'
    path.write_text(
        'from ml_collections import ConfigDict\n\n\ndef get_config():\n'
        f'    return ConfigDict({small_config(**changes).to_dict()!r})\n'
    )
    return path


class Processes:
    """Processes of one command, each with its number.

    `own` has words, and `environments` variables, by the number of the process.
    """

    def __init__(self, count: int, *words: str, own=None, environments=None):
        flags = [f'--coordinator=127.0.0.1:{free_port()}', f'--num_processes={count}']
        environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
        self.all = [
            subprocess.Popen(
                [
                    sys.executable,
                    'run.py',
                    *words,
                    *flags,
                    f'--process_id={k}',
                    *(own or {}).get(k, []),
                ],
                cwd=ROOT,
                env={**environment, **(environments or {}).get(k, {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for k in range(count)
        ]

    def ends(self) -> list[tuple[int, str, str]]:
        """Exit status, output and errors of each."""
        try:
            told = [process.communicate(timeout=WAIT) for process in self.all]
        finally:
            for process in self.all:
                process.kill()
        return [(process.returncode, *each) for process, each in zip(self.all, told, strict=True)]


def rows_of(folder):
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def assert_same_results(folder, other):
    """Metrics, weights and predictions agree to 1e-5."""
    for row, expected in zip(rows_of(folder), rows_of(other), strict=True):
        assert row.keys() == expected.keys()
        np.testing.assert_allclose([*row.values()], [*expected.values()], rtol=1e-5, atol=1e-5)
    for name in ('weights.npz', 'predictions.npz'):
        found, wanted = np.load(folder / name), np.load(other / name)
        for key in wanted:
            np.testing.assert_allclose(found[key], wanted[key], rtol=1e-5, atol=1e-5)


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
    flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=2'
    two = functools.partial(Processes, 2, environments={k: {'XLA_FLAGS': flags} for k in (0, 1)})
    path, folder = config_file(tmp_path, **changes), tmp_path / 'run'
    words = (f'--config={path}', f'--workdir={folder}')
    (status, out, err), other = two(*words).ends()
    assert (status, err) == (0, '') and other == (0, '', '')
    assert 'epoch 2/2' in out and 'test accuracy' in out and 'Gloo' not in out
    assert_same_results(folder, alone)
    best = ('--checkpoint=best', '--calibrate=train[300:400]')
    evaluated, other = two('evaluate', f'--workdir={folder}', *best).ends()
    assert other == (0, '', '')
    accuracies = np.reshape([row['test_accuracy'] for row in rows_of(folder)], (2, 2))
    assert re.search(rf'\naccuracy +{accuracies.mean(1).max():.4f} ±', evaluated[1])
    assert 'fitted on    train[300:400], 100 examples' in evaluated[1]
    weights = tmp_path / 'weights.npz'
    assert main(['convert', str(folder), str(weights)], 0.0) == 0 and weights.exists()
    again = two(*words).ends()
    assert 'finished' in again[0][1] and again[1] == (0, '', '')
    # As if it had been stopped before its end, with its newest checkpoint damaged.
    (folder / 'summary.json').unlink()
    array = next((folder / 'checkpoints' / str(newest(folder)) / 'arrays' / 'd').iterdir())
    array.write_bytes(array.read_bytes()[:-1])
    (status, out, err), other = two(*words).ends()
    assert status == 0 and other == (0, '', '') and 'continues after step 9' in out
    assert len(err.splitlines()) == 1 and f'{newest(folder)}: damaged' in err
    assert_same_results(folder, alone)


def test_processes_share_three_seeds_on_three_devices_each(tmp_path):
    """The part of the stream that a process reads is no block of it: seeds are split unevenly."""
    changes = {**TRAINED, 'num_seeds': 3, 'input.mode': 'stream', 'input.workers': 0}
    train_and_evaluate(small_config(**changes), tmp_path / 'alone')
    flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=3'
    words = (f'--config={config_file(tmp_path, **changes)}', f'--workdir={tmp_path / "run"}')
    environments = {k: {'XLA_FLAGS': flags} for k in (0, 1)}
    (status, _, err), other = Processes(2, *words, environments=environments).ends()
    assert (status, err) == (0, '') and other == (0, '', '')
    assert_same_results(tmp_path / 'run', tmp_path / 'alone')


def newest(folder) -> int:
    return max((int(path.name) for path in folder.glob('checkpoints/[1-9]*[0-9]')), default=0)


def signalled_after_a_checkpoint(count: int, victim: int, number: int, folder, *words: str):
    """Sends one of some processes a signal when there is a checkpoint more; how all end."""
    processes, before, end = Processes(count, *words), newest(folder), time.monotonic() + WAIT
    while newest(folder) == before:
        assert time.monotonic() < end and all(each.poll() is None for each in processes.all)
        time.sleep(0.02)
    processes.all[victim].send_signal(number)
    signalled = time.monotonic()
    ends = processes.ends()
    assert time.monotonic() - signalled < distributed.HEARTBEAT_SECONDS
    return ends


def test_a_run_goes_on_with_another_number_of_processes_after_each_end(tmp_path):
    """Four, one killed; two, the first killed; two, one told to stop; at last one alone."""
    changes = {**TRAINED, 'num_epochs': 30, 'checkpoints.every_steps': 20}
    changes['optimizer.base_lr'] = 0.01  # rounding must not grow over 270 steps
    path, folder = config_file(tmp_path, **changes), tmp_path / 'run'
    words = (f'--config={path}', f'--workdir={folder}')
    for count, victim in ((4, 3), (2, 0)):
        ends = signalled_after_a_checkpoint(count, victim, signal.SIGKILL, folder, *words)
        assert ends.pop(victim)[0] == -signal.SIGKILL
        for status, _, err in ends:
            last = err.splitlines()[-1]
            assert status == 2 and 'Traceback' not in err
            assert re.match(r'error: process \d: another process has ended', last)
            assert 'the same command resumes from it' in last
    (status, out, err), other = signalled_after_a_checkpoint(2, 1, signal.SIGTERM, folder, *words)
    assert (status, err) == (143, '') and other == (143, '', '')
    assert f'stopped after step {newest(folder)}, which is saved' in out
    train_and_evaluate(small_config(**changes), folder)
    train_and_evaluate(small_config(**changes), tmp_path / 'never stopped')
    assert_same_results(folder, tmp_path / 'never stopped')


def test_what_one_process_refuses_ends_all_and_is_told_once(tmp_path):
    path = config_file(tmp_path, **TRAINED)
    (tmp_path / 'letter.txt').write_text('not of a run')
    (status, _, err), other = Processes(2, f'--config={path}', f'--workdir={tmp_path}').ends()
    assert status == 2 and 'not empty, and not the folder of a run' in err
    assert len(err.splitlines()) == 1 and other == (2, '', '')
    own = {1: ['--config.seed=7']}
    words = (f'--config={path}', f'--workdir={tmp_path / "run"}')
    (status, _, err), other = Processes(2, *words, own=own).ends()
    assert status == 2 and 'started with different configs' in err and other == (2, '', '')
    assert not (tmp_path / 'run').exists()
    own = {k: ['--config.optimizer.base_lr=1e12'] for k in (0, 1)}
    (status, _, err), other = Processes(2, *words, own=own).ends()
    assert status == 3 and 'the loss or its gradient is not finite' in err and other == (3, '', '')


def test_what_the_second_process_lacks_is_told_by_the_first(tmp_path, alone):
    """Weights of a run in the home of the first; once it is there, both begin with it."""
    homes = [tmp_path / name for name in ('first', 'second')]
    for home in homes:
        home.mkdir()
    shutil.copytree(alone, homes[0] / 'run')
    path = config_file(tmp_path, **{**TRAINED, 'num_epochs': 1}, init_from='~/run')
    words = (f'--config={path}', f'--workdir={tmp_path / "run"}')
    environments = {k: {'HOME': str(home)} for k, home in enumerate(homes)}
    (status, _, err), other = Processes(2, *words, environments=environments).ends()
    assert status == 2 and re.match('error: process 1: .*second/run', err) and other == (2, '', '')
    shutil.copytree(alone, homes[1] / 'run')
    (status, out, err), other = Processes(2, *words, environments=environments).ends()
    assert (status, err) == (0, '') and 'begins with ~/run' in out and other == (0, '', '')


def test_a_run_without_a_checkpoint_is_told_once(tmp_path, alone):
    shutil.copytree(alone, tmp_path / 'run')
    words = ('evaluate', f'--workdir={tmp_path / "run"}')
    shutil.rmtree(tmp_path / 'run' / 'checkpoints')
    (status, _, err), other = Processes(2, *words).ends()
    assert status == 2 and 'no checkpoint there' in err and other == (2, '', '')
    for file in (alone / 'checkpoints').rglob('*'):
        if file.is_file():
            copy = tmp_path / 'run' / file.relative_to(alone)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes()[:50])
    (status, _, err), other = Processes(2, *words).ends()
    assert status == 2 and 'no undamaged checkpoint is left' in err and other == (2, '', '')


def test_processes_that_see_other_data_do_not_evaluate(tmp_path):
    """Folders of pictures of the same name, of which that of the second lacks a class."""
    homes = [tmp_path / name for name in ('first', 'second')]
    for home, classes in zip(homes, ('abc', 'ab'), strict=True):
        for split, name, k in itertools.product(('train', 'test'), classes, range(12)):
            folder = home / 'pictures' / split / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f'{k}.png').write_bytes(encoded(grey(k)))
    changes = {'dataset.name': 'folder:pictures', 'dataset.data_dir': str(homes[0])}
    changes |= {'dataset.image_size': 8}
    changes |= {'dataset.channels': 1, 'num_epochs': 1, 'batch': 12, 'batch_eval': 12}
    changes |= {'dataset.train_split': 'train', 'dataset.test_split': 'test'}
    train_and_evaluate(small_config(**changes), tmp_path / 'run')
    words = ('evaluate', f'--workdir={tmp_path / "run"}', '--data_dir=~')
    environments = {k: {'HOME': str(home)} for k, home in enumerate(homes)}
    (status, _, err), other = Processes(2, *words, environments=environments).ends()
    assert status == 2 and 'found different examples' in err and other == (2, '', '')


@pytest.mark.parametrize(
    ('flags', 'told'),
    [
        (['--process_id=0'], '--coordinator is missing'),
        (['--coordinator=here:1', '--process_id=0'], '--num_processes is missing'),
        (
            ['--coordinator=here', '--num_processes=2', '--process_id=0'],
            '--coordinator=here: allowed',
        ),
        (['--coordinator=a:1', '--num_processes=2', '--process_id=2'], 'allowed are 0 to 1'),
        (['--coordinator=a:1', '--num_processes=2', '--process_id=-1'], 'integer from 0'),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, told, capsys):
    assert main(['--config=configs/digits_dilated.py', *flags], 0.0) == 2
    assert told in capsys.readouterr().err


def test_processes_that_do_not_come_together_are_told_why(tmp_path):
    path = config_file(tmp_path, **TRAINED)
    words = (f'--config={path}', f'--workdir={tmp_path / "run"}')
    several = Processes(2, *words, own={1: ['--num_processes=3', '--process_id=2']})
    first, second = several.all
    try:
        out, err = second.communicate(timeout=WAIT)
        assert first.poll() is None  # waits for the second
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 2 and not out and len(err.splitlines()) == 1
    assert 'process 0 was started with another --num_processes; start all of them' in err


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (
            '1:80] absl::Status: DEADLINE_EXCEEDED: x\n\nRPC',
            'not all of them were there within 5 m',
        ),
        ('absl::Status: ALREADY_EXISTS: a newer incarnation\n', 'another one has the same --proc'),
        ('UNKNOWN: Gloo context initialization failed: timed out', 'each other; open all ports'),
        (
            'RuntimeError:  something\nelse',
            'together: RuntimeError: something else; start the same',
        ),
    ],
)
def test_what_jax_says_of_processes_that_do_not_come_becomes_a_line(words, told):
    settings = {'coordinator_address': 'a:1'} if 'absl' in words else None
    assert told in distributed._init_error(settings, words)


@pytest.mark.parametrize(
    ('environment', 'joins'),
    [
        ({'SLURM_STEP_NODELIST': 'n[1-2]', 'SLURM_STEP_NUM_TASKS': '2'}, True),
        ({'SLURM_STEP_NODELIST': 'n1', 'SLURM_STEP_NUM_TASKS': '1'}, False),
        ({'SLURM_NTASKS': '2'}, False),  # a batch script, outside of srun
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, True),
        ({'TPU_WORKER_HOSTNAMES': 'localhost'}, False),
        ({'TPU_SKIP_MDS_QUERY': '1'}, False),
        ({}, True),  # a Cloud TPU host, which JAX asks for the others
    ],
)
def test_processes_of_slurm_and_cloud_tpu_find_each_other(monkeypatch, environment, joins):
    asked = []
    for name in (
        'SLURM_STEP_NODELIST',
        'SLURM_STEP_NUM_TASKS',
        'TPU_WORKER_HOSTNAMES',
        'TPU_SKIP_MDS_QUERY',
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '3')  # put back at the end
    no_tpu = any(name.startswith('SLURM') for name in environment)
    monkeypatch.setattr(
        distributed.importlib.util, 'find_spec', lambda name: None if no_tpu else name
    )
    monkeypatch.setattr(jax.distributed, 'initialize', lambda **settings: asked.append(settings))
    distributed.init_distributed(Arguments())
    assert [settings.get('coordinator_address', '') for settings in asked] == [''] * joins
