"""A run that is interrupted, by whatever, ends with the bits of one that was left alone.

MIXER_SOAK=100 is the long form: so many interruptions, in runs of half a minute. The first words of
a test's name say by what, its last the seed of the moment.

An interruption is a context manager of the surroundings of a run. It yields the exit statuses that
the run may have then, and puts things right again when the run has ended.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from mixer_dilated.files import read_json_lines
from tests.conftest import config_file, start_python
from tests.data.test_workers import workers_of
from tests.parallel.test_processes import Processes
from tests.training.wall_clock import preload_clock

pytestmark = pytest.mark.slow

SOAK = int(os.environ.get('MIXER_SOAK', '0'))
EPOCHS, PAUSE = (300, 30) if SOAK else (30, 5)
WAIT = 300  # seconds, in a test that fails
CHANGES = {
    'one seed': {},
    'eight seeds': {'num_seeds': 8},
    'stream': {'input.mode': 'stream', 'input.workers': 1},
    'two processes': {'num_seeds': 2},
    'sweep': {'num_epochs': EPOCHS // 2},
}
# Epochs take a tenth of a second more, at which no processor works.
SLOW = """
import os, runpy, time
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'  # as several processes set it before they import JAX
from mixer_dilated.training.metrics import MetricsWriter
write = MetricsWriter.write
MetricsWriter.write = lambda *args: (time.sleep(0.05), write(*args), time.sleep(0.05))
runpy.run_path('run.py', run_name='__main__')
"""
SWEEP = """
from mixer_dilated.studies.sweep import Sweep, grid
from tests.conftest import small_config

def get_sweep():
    trials = grid({{'model.hidden_dim': (8, 12)}})
    base = small_config(**{changes})
    return Sweep(title='Interrupted', question='Is it resumed?', base=base, trials=trials)
"""


@dataclasses.dataclass
class Surroundings:
    """Where a run is: its disk, its folder there, its processes, a clock and chance."""

    disk: pathlib.Path
    workdir: pathlib.Path
    processes: list[subprocess.Popen]
    ahead: pathlib.Path
    draw: random.Random


@contextlib.contextmanager
def send(run: Surroundings, number: int, *, status: int) -> Iterator[tuple[int, ...]]:
    run.draw.choice(run.processes).send_signal(number)
    yield (status,)


@contextlib.contextmanager
def fill_disk(run: Surroundings) -> Iterator[tuple[int, ...]]:
    filler = run.disk / 'filler'
    with contextlib.suppress(OSError), filler.open('wb', buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield (2,)
    filler.unlink()


@contextlib.contextmanager
def make_read_only(run: Surroundings) -> Iterator[tuple[int, ...]]:
    """Files that are open stay writable, as a disk of which somebody writes cannot be remounted."""
    subprocess.run(['mount', '--bind', run.disk, run.disk], check=True)
    try:
        subprocess.run(['mount', '-o', 'remount,bind,ro', run.disk], check=True)
        yield (2,)
    finally:
        subprocess.run(['umount', run.disk], check=True)


@contextlib.contextmanager
def move_folder(run: Surroundings, *, remove: bool = False) -> Iterator[tuple[int, ...]]:
    moved = run.workdir.rename(run.disk / 'moved')
    if remove:
        shutil.rmtree(moved)
    yield (2,)
    # TensorStore makes the folder again of a checkpoint that it is writing.
    left = {path.parent for path in run.workdir.rglob('*') if path.is_file()}
    assert all('.orbax-checkpoint-tmp' in str(folder) for folder in left), left
    assert run.workdir.exists() == bool(left)
    if not remove:
        if left:
            shutil.rmtree(run.workdir)
        moved.rename(run.workdir)


@contextlib.contextmanager
def kill_worker(run: Surroundings) -> Iterator[tuple[int, ...]]:
    os.kill(run.draw.choice(workers_of(run.processes[0].pid)), signal.SIGKILL)
    yield (2,)


@contextlib.contextmanager
def suspend(run: Surroundings) -> Iterator[tuple[int, ...]]:
    process = run.draw.choice(run.processes)
    process.send_signal(signal.SIGSTOP)
    time.sleep(PAUSE)
    process.send_signal(signal.SIGCONT)
    yield (0,)


@contextlib.contextmanager
def set_clock(run: Surroundings, *, hours: int) -> Iterator[tuple[int, ...]]:
    with run.ahead.open('r+b') as file:  # never empty: processes have it mapped
        file.write((3600 * hours).to_bytes(8, 'little', signed=True))
    yield (0,)


INTERRUPTIONS = {
    'KILL': functools.partial(send, number=signal.SIGKILL, status=-signal.SIGKILL),
    'TERM': functools.partial(send, number=signal.SIGTERM, status=128 + signal.SIGTERM),
    'INT': functools.partial(send, number=signal.SIGINT, status=128 + signal.SIGINT),
    'full': fill_disk,
    'read-only': make_read_only,
    'removed': functools.partial(move_folder, remove=True),
    'moved': move_folder,
    'suspended': suspend,
    **{f'clock{hours:+}h': functools.partial(set_clock, hours=hours) for hours in (1, -1, 24, -24)},
    'worker': kill_worker,
}


EVERY = [
    (name, kind)
    for kind, name in itertools.product(CHANGES, INTERRUPTIONS)
    if name != 'worker' or kind == 'stream'
]
CASES = [*itertools.islice(itertools.cycle(EVERY), SOAK)] or [('KILL', 'stream')]


def start(kind, folder, workdir):
    flags = [f'--workdir={workdir}', f'--config={folder / "config.py"}']
    if kind == 'two processes':
        return Processes(*flags, program=('-c', SLOW)).all
    if kind == 'sweep':
        flags = ['sweep', f'--sweep={folder / "sweep.py"}', flags[0]]
    return [start_python('-c', SLOW, *flags)]


def wait(processes):
    try:
        errors = [process.communicate(timeout=WAIT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, err) for process, err in zip(processes, errors, strict=True)]


def results(workdir):
    """Everything that must not depend on how often a run, or the trials of a sweep, stopped."""
    if cells := [*workdir.glob('cells/*')]:
        rows = read_json_lines(workdir / 'results.jsonl')
        rows = [{**row, 'epoch_seconds': None} for row in rows]
        return {'rows': rows} | {cell.name: results(cell) for cell in cells}
    summary = json.loads((workdir / 'summary.json').read_text())
    newest = max((workdir / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    record = json.loads((newest / 'record' / 'metadata').read_text())
    return {
        'metrics': (workdir / 'metrics.jsonl').read_bytes(),
        'predictions': (workdir / 'predictions.npz').read_bytes(),
        'weights': (workdir / 'weights.npz').read_bytes(),
        'arrays': {name: crc for name, crc in record['checksums'].items() if name != 'record'},
        'rows': record['metrics'],
        'summary': {k: v for k, v in summary.items() if k not in ('seconds', 'checksum')},
    }


def count_rows(workdir):
    files = [workdir / 'metrics.jsonl', *workdir.glob('cells/*/metrics.jsonl')]
    return sum(file.read_bytes().count(b'\n') for file in files if file.exists())


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    """By kind: a folder with the config, the results, and how many rows of metrics there are."""

    @functools.cache
    def run(kind):
        folder = tmp_path_factory.mktemp('undisturbed')
        changes = {'model.dropout_rate': 0.1, 'checkpoints.every_steps': 40}
        changes |= {'num_epochs': EPOCHS, **CHANGES[kind]}
        config_file(folder, **changes)
        (folder / 'sweep.py').write_text(SWEEP.format(changes=changes))
        ends = wait(start(kind, folder, folder / 'run'))
        assert all(end == (0, '') for end in ends), ends
        return folder, results(folder / 'run'), count_rows(folder / 'run')

    return run


@pytest.mark.parametrize(('name', 'kind', 'seed'), [(*case, k) for k, case in enumerate(CASES)])
def test_an_interrupted_run_resumes_to_the_same_bits(
    name, kind, seed, undisturbed, request, tmp_path, monkeypatch
):
    folder, expected, num_rows = undisturbed(kind)
    on_disk = name in ('full', 'read-only')
    place = request.getfixturevalue('disk')('size=60m') if on_disk else tmp_path
    workdir, draw = place / 'run', random.Random(seed)
    with monkeypatch.context() as patch:
        if name.startswith('clock'):
            preload_clock(tmp_path, patch)
        processes = start(kind, folder, workdir)
    run = Surroundings(place, workdir, processes, tmp_path / 'ahead', draw)
    try:
        wait_for_a_moment(run, num_rows, has_workers=name == 'worker')
        with INTERRUPTIONS[name](run) as statuses:
            ends = wait(processes)
    finally:
        for process in processes:
            process.kill()
    check_ends(ends, statuses)
    if any(status for status, _ in ends):
        ends = wait(start(kind, folder, workdir))
        assert all(end == (0, '') for end in ends), ends
    found = results(workdir)
    assert [part for part in expected if found.get(part) != expected[part]] == []


def wait_for_a_moment(run, num_rows, *, has_workers):
    """One in five while the run starts, the others while it trains."""
    until(run.workdir.exists, run)
    if run.draw.random() < 0.2:
        time.sleep(run.draw.uniform(0, 3))
    else:
        rows = run.draw.uniform(0.02, 0.6) * num_rows
        until(lambda: count_rows(run.workdir) > rows, run)
    if has_workers:
        until(lambda: workers_of(run.processes[0].pid), run)


def until(condition, run):
    end = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > end or any(process.poll() is not None for process in run.processes):
            pytest.fail(f'the run did not come so far: {wait(run.processes)}')
        time.sleep(0.01)


def check_ends(ends, statuses):
    """An error is one line; of two processes, one may also end because the other has."""
    allowed = (*statuses, 2, 128 + signal.SIGTERM) if len(ends) > 1 else statuses
    for status, err in ends:
        lines = [line for line in err.splitlines() if not line.startswith('warning: ')]
        assert status in allowed and 'Traceback' not in err, ends
        if status == 2 and len(ends) == 1:
            assert len(lines) == 1 and lines[0].startswith('error: '), err
