"""The processes that decode a stream: how many there are, what they give, how they end."""

import contextlib
import errno
import multiprocessing
import os
import pathlib
import shutil
import signal
import threading
import time
import types

import chex
import numpy as np
import pytest

from mixer_dilated.data import workers
from mixer_dilated.data.batch_stream import BatchStream, IndexSampler
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.input_pipeline import StreamingPipeline, streams
from tests.conftest import config_file, refuses, run_python, small_config, start_python
from tests.data.test_input_pipeline import numbered, open_pipeline, shuffled, take
from tests.tfds_files import encoded, grey, open_set, write_set


@pytest.mark.parametrize(
    ('cores', 'mebibytes', 'expected'),
    [(1, 2**20, 0), (4, 2**20, 0), (5, 2**20, 5), (16, 2**20, 16), (8, 640, 0), (8, 1024, 6)],
)
def test_a_host_decodes_in_a_process_a_core_as_far_as_it_has_shared_memory(
    cores, mebibytes, expected, monkeypatch
):
    usage = shutil.disk_usage('.')._replace(free=mebibytes * 2**20)
    monkeypatch.setattr(workers, 'num_cores', lambda: cores)
    monkeypatch.setattr(workers.shutil, 'disk_usage', lambda _: usage)
    assert workers.num_workers('auto') == expected
    assert workers.num_workers(0) == 0 and workers.num_workers(3) == 3


@pytest.mark.parametrize(('quota', 'allowed'), [('150000 100000', 2), ('1000 100000', 1)])
def test_a_quota_of_a_container_counts_as_cores(quota, allowed, tmp_path, monkeypatch):
    without = workers.num_cores()
    monkeypatch.setattr(workers, 'QUOTA', tmp_path / 'cpu.max')
    for text, expected in (('max 100000', without), (quota, min(without, allowed))):
        workers.QUOTA.write_text(text)
        assert workers.num_cores() == expected


@pytest.mark.slow
@pytest.mark.parametrize('seconds', [0, 0.5])
def test_a_stream_can_be_closed_while_its_workers_start(seconds):
    with open_pipeline(StreamingPipeline, numbered(8), batch=4, **{'input.workers': 3}) as inputs:
        list(inputs.train_chunks(0, 1, 0.01))
        time.sleep(seconds)
        closing = threading.Thread(target=inputs.close, daemon=True)
        closing.start()
        closing.join(60)
        assert not closing.is_alive()


def test_a_limit_of_memory_of_a_container_counts_for_workers_and_for_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, 'MEMORY', tmp_path / 'memory.max')
    monkeypatch.setattr(workers, 'num_cores', lambda: 99)
    dataset = types.SimpleNamespace(stored_shape=(8, 8, 1))
    settings = small_config().input
    for text, room, in_memory in (('max', 99, 2**25), (str(2**31), 4, 2**24)):
        workers.MEMORY.write_text(text)
        assert min(workers.room_for_workers(), 99) == room
        assert not streams(settings, dataset, in_memory)
        assert streams(settings, dataset, in_memory + 1)


@pytest.mark.parametrize(
    ('number', 'words'), [(errno.EMFILE, 'Too many open files'), (errno.ENOSPC, '/dev/shm')]
)
def test_what_workers_have_no_room_for_names_the_key_to_change(number, words):
    with refuses('config.input.workers: ', words):
        raise workers.worker_error(OSError(number, os.strerror(number), '/psm_1'))


SCRIPT = """
import numpy as np
from mixer_dilated.data.examples import Examples, InMemoryDataSource
from mixer_dilated.data.batch_stream import BatchStream, IndexSampler

if __name__ == '__main__':
    records = InMemoryDataSource(Examples(np.zeros((64, 2, 2, 1), 'u1'), np.arange(64)))
    order = IndexSampler(lambda epoch: np.arange(64)[None], 8, 8)
    stream = BatchStream(records, order, workers=1)
    next(stream)
    print(order.folder, flush=True)
    while True:
        next(stream)
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_reported(tmp_path):
    (tmp_path / 'script.py').write_text(SCRIPT.replace("__name__ == '__main__'", 'True'))
    done = run_python(tmp_path / 'script.py')
    assert "exit status 1); perhaps a script without `if __name__ == '__main__':`" in done.stderr


def workers_of(pid):
    """Processes below another that decode, by what Linux tells of all processes."""
    pids = []
    for status in pathlib.Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            words = status.read_text().rpartition(')')[2].split()
            command = (status.parent / 'cmdline').read_text()
            if int(words[1]) == pid and words[0] != 'Z' and 'spawn_main' in command:
                pids.append(int(status.parent.name))
    return pids


def alive(pids):
    return [pid for pid in pids if pathlib.Path(f'/proc/{pid}').exists()]


def test_workers_give_the_batches_of_threads_and_end_with_an_error_in_one_of_them(tmp_path):
    sets = [(encoded(grey(k)), k % 10) for k in range(64)]
    sets[50] = (sets[50][0][:60], 0)  # cut off
    folder, rows = write_set(tmp_path, sets), shuffled(64, num_seeds=1)
    records, order = open_set(tmp_path).data_source('train'), IndexSampler(rows, 8, 8)
    first = int(np.flatnonzero(rows(0)[0] == 50)[0]) // 8  # the batch with the broken one
    with contextlib.closing(BatchStream(records, order, workers=2)) as stream:
        for step in range(first):
            batch = Examples(*(array[0] for array in next(stream)))
            chex.assert_trees_all_equal(batch, records.read(order.batch(step)[0]))
        with refuses(f"{folder}, split 'train', record 50: "):
            next(stream)
    assert not multiprocessing.active_children() and not order.folder.exists()


@contextlib.contextmanager
def killed_at_the_end(run):
    try:
        yield
    finally:
        run.kill()
        run.communicate()


@pytest.mark.slow
def test_a_signal_to_all_processes_saves_and_leaves_none_behind(tmp_path):
    changes = {'num_epochs': 100_000, 'eval_every': 100_000}
    changes |= {'input.mode': 'stream', 'input.workers': 2}
    words = [config_file(tmp_path, **changes), f'--workdir={tmp_path / "run"}']
    run = start_python('run.py', *words, start_new_session=True)
    with killed_at_the_end(run):
        for line in run.stdout:
            if line.startswith('epoch'):
                break
        pids = workers_of(run.pid)
        os.killpg(run.pid, signal.SIGTERM)  # as a cluster does
        rest, errors = run.communicate(timeout=60)
        assert run.returncode == 143 and errors == '' and 'which is saved' in rest
        assert len(pids) == 2 and not alive(pids)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_reported_and_the_others_end():
    order = IndexSampler(shuffled(64, num_seeds=1), 8, 8)
    with contextlib.closing(BatchStream(numbered(64), order, workers=2)) as stream:
        next(stream)
        pids = workers_of(os.getpid())
        os.kill(pids[0], signal.SIGKILL)
        with refuses('Killed'):
            take(stream, 1000)
    assert len(pids) == 2 and not alive(pids)


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_worker_and_no_file_behind(tmp_path):
    (tmp_path / 'script.py').write_text(SCRIPT)
    run = start_python(tmp_path / 'script.py')
    with killed_at_the_end(run):
        folder = pathlib.Path(run.stdout.readline().strip())
        (worker,) = workers_of(run.pid)
        assert folder.is_dir()
    end = time.monotonic() + 60
    while alive([worker]) or folder.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
