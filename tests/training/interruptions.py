"""What befalls a run from outside, and how to put it right again; each is a context manager.

Each gets the surroundings of a run (`Surroundings`) at the moment when it is to happen, and yields
the exit statuses that the run may have then. The context ends when the run has.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.data.test_workers import workers_of

HOUR, DAY = 3600, 86400
CLOCK = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Seconds that the wall clock is ahead, in the file CLOCK_AHEAD; it is shared, and may change. */
static long ahead(void) {
  static volatile long *seconds;
  if (!seconds) {
    int file = open(getenv("CLOCK_AHEAD"), O_RDONLY);
    seconds = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
  }
  return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
  int status = syscall(SYS_clock_gettime, clock, t);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) t->tv_sec += ahead();
  return status;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  int status = syscall(SYS_gettimeofday, t, zone);
  t->tv_sec += ahead();
  return status;
}

time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t) *t = now.tv_sec;
  return now.tv_sec;
}
"""


@dataclasses.dataclass
class Surroundings:
    """Where a run is: its disk, its folder there, its processes, a clock and chance."""

    disk: pathlib.Path
    workdir: pathlib.Path
    processes: list[subprocess.Popen]
    ahead: pathlib.Path
    draw: random.Random
    pause: float  # seconds that a process is suspended

    def any_process(self) -> subprocess.Popen:
        return self.draw.choice(self.processes)


def send(number: int, *statuses: int):
    """An interruption: a signal to one of the processes."""

    @contextlib.contextmanager
    def interruption(run: Surroundings) -> Iterator[tuple[int, ...]]:
        run.any_process().send_signal(number)
        yield statuses

    return interruption


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
def remove_folder(run: Surroundings) -> Iterator[tuple[int, ...]]:
    with move_folder(run):
        shutil.rmtree(run.disk / 'moved')
        yield (2,)
        (run.disk / 'moved').mkdir()


@contextlib.contextmanager
def move_folder(run: Surroundings) -> Iterator[tuple[int, ...]]:
    run.workdir.rename(run.disk / 'moved')
    yield (2,)
    assert not run.workdir.exists()
    (run.disk / 'moved').rename(run.workdir)


@contextlib.contextmanager
def kill_worker(run: Surroundings) -> Iterator[tuple[int, ...]]:
    os.kill(run.draw.choice(workers_of(run.processes[0].pid)), signal.SIGKILL)
    yield (2,)


@contextlib.contextmanager
def suspend(run: Surroundings) -> Iterator[tuple[int, ...]]:
    process = run.any_process()
    process.send_signal(signal.SIGSTOP)
    time.sleep(run.pause)
    process.send_signal(signal.SIGCONT)
    yield (0,)


def set_clock(seconds: int):
    @contextlib.contextmanager
    def interruption(run: Surroundings) -> Iterator[tuple[int, ...]]:
        run.ahead.write_bytes(seconds.to_bytes(8, 'little', signed=True))
        yield (0,)

    return interruption


def preload_clock(folder: pathlib.Path, patch: pytest.MonkeyPatch) -> None:
    """Lets processes that start have the clock that `set_clock` sets; skips without a compiler."""
    if not shutil.which('cc'):
        pytest.skip('no compiler of C')
    source, library, ahead = folder / 'clock.c', folder / 'clock.so', folder / 'ahead'
    source.write_text(CLOCK)
    subprocess.run(['cc', '-shared', '-fPIC', '-O1', '-o', library, source], check=True)
    ahead.write_bytes(bytes(8))
    patch.setenv('LD_PRELOAD', str(library))
    patch.setenv('CLOCK_AHEAD', str(ahead))


INTERRUPTIONS = {
    'KILL': send(signal.SIGKILL, -signal.SIGKILL),
    'TERM': send(signal.SIGTERM, 128 + signal.SIGTERM),
    'INT': send(signal.SIGINT, 128 + signal.SIGINT),
    'full': fill_disk,
    'read-only': make_read_only,
    'removed': remove_folder,
    'moved': move_folder,
    'suspended': suspend,
    'clock+1h': set_clock(HOUR),
    'clock-1h': set_clock(-HOUR),
    'clock+1d': set_clock(DAY),
    'clock-1d': set_clock(-DAY),
    'worker': kill_worker,
}
