"""A wall clock that a test sets, for processes that it starts; Linux, with a compiler of C."""

import pathlib
import shutil
import subprocess

import pytest

CLOCK = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* CLOCK_AHEAD is a file of the seconds that the wall clock is ahead, which may change. */
int clock_gettime(clockid_t clock, struct timespec *t) {
  static volatile long *ahead;
  if (!ahead) ahead = mmap(0, 8, PROT_READ, MAP_SHARED, open(getenv("CLOCK_AHEAD"), O_RDONLY), 0);
  int status = syscall(SYS_clock_gettime, clock, t);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) t->tv_sec += *ahead;
  return status;
}
"""


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
