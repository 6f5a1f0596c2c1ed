"""A bucket as the folder of a run, and what is said where its client is not installed.

The buckets are emulators' of Google Cloud Storage and S3; orbax, TensorStore and clients are the
real ones.
"""

import importlib.metadata
import json
import os
import signal
import subprocess

import pytest

from mixer_dilated import bucket_clients, files
from mixer_dilated.training.train import _set_up
from tests.conftest import (
    ROOT,
    config_file,
    refuses,
    run_cli,
    run_python,
    small_config,
    start_python,
)

CONFIG = '--config=configs/digits_dilated.py'
WITHOUT_CLIENT = """
import importlib.util, sys, time
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in {'gcsfs', 's3fs'} else found(name)
from mixer_dilated.cli.main import main
sys.exit(main(sys.argv[1:], time.perf_counter()))
"""


@pytest.mark.parametrize(
    ('words', 'values'),
    [
        *(
            ([*words, f'--workdir={store}://bucket/run'], [f'{store}://bucket/run', client])
            for words in ([CONFIG], ['evaluate'], ['predict', 'a.png'])
            for store, client in (('gs', 'pip install gcsfs'), ('s3', 'pip install s3fs'))
        ),
        ([CONFIG, '--workdir=gs://'], ['--workdir=gs://', 'names no bucket']),
        ([CONFIG, '--workdir=hdfs://host/run'], ['--workdir=hdfs://host/run', 'gs://…, s3://…']),
        ([CONFIG, '--config.init_from=gs://bucket/a.npz'], ['gs://bucket/a.npz', 'install gcsfs']),
        ([CONFIG, '--config.init_from=https://host/a.txt'], ['https://host/a.txt', '.npz']),
        (
            ['predict', '--workdir=runs/a', 'a.png', '--csv=gs://bucket/a.csv'],
            ['--csv=gs://bucket/a.csv'],
        ),
    ],
)
def test_without_a_client_a_bucket_is_refused_before_anything_is_made(words, values, tmp_path):
    """And an address of another kind, and a bucket for what is written locally."""
    ended = run_python('-c', WITHOUT_CLIENT, *words, cwd=tmp_path)
    lines = ended.stderr.splitlines()
    assert (ended.returncode, len(lines), ended.stdout) == (2, 1, ''), ended
    assert all(value in lines[0] for value in values) and not os.listdir(tmp_path)


@pytest.fixture(scope='module', params=['gs', 's3'])
def bucket(request):
    """(scheme, environment, file system of the client) of a bucket named 'bucket'."""
    pytest.importorskip({'gs': 'gcsfs', 's3': 's3fs'}[request.param])
    import fsspec

    from tests.bucket_server import serve

    with serve(request.param, 'bucket') as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        files = fsspec.filesystem(request.param, use_listings_cache=False)
        yield request.param, environment, files


def succeed(environment, *words: str) -> subprocess.CompletedProcess:
    ended = run_cli(*words, **environment)
    assert ended.returncode == 0, ended.stderr
    return ended


def stop_after_first_epoch(environment, *words: str) -> str:
    """Sends SIGTERM to a run after its first epoch; what it printed to stderr."""
    with start_python('run.py', *words, env=environment) as process:
        next(line for line in process.stdout if line.startswith('epoch '))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    return errors


@pytest.mark.slow
def test_a_run_in_a_bucket_stops_resumes_and_is_read(bucket, tmp_path):
    scheme, environment, files = bucket
    run, local = f'{scheme}://bucket/a/run', tmp_path / 'local'
    train = config_file(tmp_path, num_epochs=20)
    errors = stop_after_first_epoch(environment, train, f'--workdir={run}')
    assert f'{run}: a bucket has no locks' in errors
    steps = sorted(map(int, map(os.path.basename, files.ls(f'{run}/checkpoints'))))
    assert len(steps) == 2 and not files.exists(f'{run}/summary.json')

    # The newest checkpoint is damaged: the one before it is restored.
    damaged = f'{run}/checkpoints/{steps[-1]}'
    for name in files.find(f'{damaged}/arrays'):
        files.pipe(name, files.cat(name)[:10])
    resumed = succeed(environment, train, f'--workdir={run}')
    assert 'continues after step' in resumed.stdout
    assert f'{damaged}: damaged' in resumed.stderr and files.find(f'{run}/damaged_checkpoints')

    # What is there is what a run that was not stopped leaves in a local folder.
    succeed({}, train, f'--workdir={local}')
    for name in ('metrics.jsonl', 'predictions.npz', 'weights.npz', 'config.json'):
        assert files.cat(f'{run}/{name}') == (local / name).read_bytes(), name
    assert len(files.cat(f'{run}/speed.jsonl').splitlines()) == 20
    events = files.ls(f'{run}/tensorboard')
    assert len(events) == 2 and all(files.size(name) > 100 for name in events)
    assert not (ROOT / f'{scheme}:').exists()

    again = succeed(environment, train, f'--workdir={run}')
    assert 'holds this run, finished' in again.stdout
    evaluated = succeed(environment, 'evaluate', f'--workdir={run}', '--calibrate=train[300:400]')
    correct = json.loads((local / 'summary.json').read_text())['results'][0]['test_correct']
    assert f'{correct} of 100' in evaluated.stdout and files.exists(f'{run}/calibration.json')
    assert f'report: {run}/report.html' in succeed(environment, 'report', run).stdout
    assert files.cat(f'{run}/report.html').startswith(b'<!') and files.glob(f'{run}/*.png')
    succeed(environment, 'export', f'--workdir={run}', f'--output={tmp_path / "exported"}')

    # Its weights begin another run, as the folder and as a file.
    for name in ('a.npz', 'a.safetensors'):
        succeed(environment, 'convert', run, str(tmp_path / name))
        files.put(str(tmp_path / name), f'bucket/{name}')
        succeed(environment, 'convert', f'{scheme}://bucket/{name}', str(tmp_path / f'2-{name}'))
    next_run = ['--config.transfer.head=keep', '--config.num_epochs=1']
    next_run += [f'--config.init_from={run}', f'--workdir={scheme}://bucket/b']
    begun = succeed(environment, train, *next_run)
    assert f'begins with {run}; test {correct / 100:.4f}' in begun.stdout


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_one_line(bucket, tmp_path):
    scheme, environment, _ = bucket
    ended = run_cli(config_file(tmp_path), f'--workdir={scheme}://nowhere/run', **environment)
    assert ended.returncode == 2 and f'{scheme}://nowhere/run' in ended.stderr.splitlines()[-1]
    assert 'cannot be written' in ended.stderr and 'defect' not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ('scheme', 'change'),
    [
        ('s3', {'AWS_ACCESS_KEY_ID': '', 'AWS_EC2_METADATA_DISABLED': 'true'}),
        ('s3', {'AWS_ENDPOINT_URL': 'http://localhost:1'}),  # where nobody listens
        ('gs', {'STORAGE_EMULATOR_HOST': 'http://localhost:1', 'GOOGLE_CLOUD_PROJECT': 'project'}),
    ],
    ids=['no credentials', 'no storage', 'no storage of Google'],
)
def test_a_bucket_that_cannot_be_reached_is_one_line(scheme, change, tmp_path):
    pytest.importorskip({'gs': 'gcsfs', 's3': 's3fs'}[scheme])
    environment = {'AWS_ACCESS_KEY_ID': 'key', 'AWS_SECRET_ACCESS_KEY': 'secret', **change}
    ended = run_cli(config_file(tmp_path), f'--workdir={scheme}://bucket/run', **environment)
    lines = ended.stderr.splitlines()
    assert (ended.returncode, len(lines), ended.stdout) == (2, 1, ''), ended
    assert 'the bucket cannot be used' in lines[0]


def test_an_orbax_that_does_not_reach_s3_is_named_before_anything_is_made(monkeypatch):
    pytest.importorskip('s3fs')
    monkeypatch.setattr(bucket_clients, '_teach_s3', lambda: False)
    path = files.as_path('s3://bucket/run')
    with refuses(path, f'orbax-checkpoint {importlib.metadata.version("orbax-checkpoint")}'):
        _set_up(path, small_config(), None, is_new=True)


@pytest.mark.slow
def test_a_study_in_a_bucket_is_refused(bucket):
    scheme, environment, _ = bucket
    ended = run_cli('table1', f'--workdir={scheme}://bucket/study', **environment)
    assert ended.returncode == 2 and f'--workdir={scheme}://bucket/study' in ended.stderr
