"""Processes that decode: how many there is room for, how they start and how they end."""

import contextlib
import errno
import math
import multiprocessing.util
import os
import pathlib
import re
import resource
import shutil
import signal
import threading

from mixer_dilated.errors import UserError

SLICE_BYTES = 2**23  # of a slice of a batch, at most
# Shared memory, memory and open files that a worker takes.
WORKER_BYTES, WORKER_MEMORY, WORKER_FILES = 10 * SLICE_BYTES, 2**28, 30
MAX_CORES_FOR_THREADS = 4  # of sixteen, threads keep five busy
QUOTA = pathlib.Path('/sys/fs/cgroup/cpu.max')  # of a container: microseconds, of a period
MEMORY = QUOTA.with_name('memory.max')  # bytes


def num_cores() -> int:
    """Cores that this process may use, as a scheduler, `taskset` or a container's quota has it."""
    is_linux = hasattr(os, 'sched_getaffinity')
    cores = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # none, or 'max'
        quota, period = map(int, QUOTA.read_text().split())
        cores = min(cores, max(1, -(-quota // period)))
    return cores


def memory_limit() -> float:
    """Bytes that a container's limit allows; infinite where there is none."""
    with contextlib.suppress(OSError, ValueError):  # no such file, or 'max'
        return int(MEMORY.read_text())
    return math.inf


def num_workers(workers: int | str) -> int:
    """Processes that decode, by `config.input.workers`: 'auto' is one a core of more than four."""
    if workers != 'auto':
        return workers
    count = min(num_cores(), room_for_workers())
    return count if count > MAX_CORES_FOR_THREADS else 0


def room_for_workers() -> int:
    """Workers by memory, shared memory and open files, half of which are left to other streams."""
    limits = [2**16, int(min(memory_limit(), 2**60)) // WORKER_MEMORY]
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError):
        limits.append(shutil.disk_usage('/dev/shm').free // WORKER_BYTES)
    if files != resource.RLIM_INFINITY:
        limits.append(files // WORKER_FILES)
    return min(limits) // 2


def prepare_workers() -> None:
    """Raises the limit of open files to what is allowed, and starts the tracker of shared memory
    without its warning: a killed worker has its own line.
    """
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = os.environ.get('PYTHONWARNINGS', '')
    os.environ['PYTHONWARNINGS'] = 'ignore:resource_tracker:UserWarning'
    multiprocessing.resource_tracker.ensure_running()
    os.environ['PYTHONWARNINGS'] = before


def start_worker(index: int, count: int, folder: pathlib.Path) -> None:
    """Runs first in a worker, which ends with the training process and ignores signals. The folder
    is removed if the training process is killed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    # Skips the interpreter's shutdown, which would keep a run that stops waiting.
    multiprocessing.util.Finalize(None, os._exit, (0,), exitpriority=-100)


def _end_with_parent(folder: pathlib.Path) -> None:
    multiprocessing.parent_process().join()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


@contextlib.contextmanager
def signals_blocked():
    """Blocks SIGINT and SIGTERM in this thread and in the processes that it starts.

    A signal to the whole group would end them with a traceback while they still import.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_error(error: Exception) -> Exception:
    """A UserError where workers cannot start or one has ended; else the error itself."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        cause = (
            f'{os.strerror(error.errno)}; each worker takes about {WORKER_FILES} (`ulimit -n` '
            'prints the limit)'
        )
    elif os.strerror(errno.ENOSPC) in str(error):
        cause = f'no room in /dev/shm, of which each worker takes {WORKER_BYTES >> 20} MiB'
    elif exit_code := re.search(r'exit code (-?\d+)', str(error)):
        code, likely = int(exit_code[1]), 'memory or shared memory (/dev/shm) ran out'
        how = f'exit status {code}' if code > 0 else signal.strsignal(-code)
        if code > 0:
            likely = "a script without `if __name__ == '__main__':`, which each of them imports"
        cause = f'a process that decodes images has ended ({how}); perhaps {likely}'
    else:
        return error
    return UserError(
        f'config.input.workers: {cause}. What was saved is undamaged, and the same command '
        'resumes; set fewer workers, or 0 for threads'
    )
