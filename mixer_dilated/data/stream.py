"""Batches of a split that does not fit memory, decoded ahead by Grain: `Stream`."""

import collections
import contextlib
import dataclasses
import errno
import functools
import math
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import pathlib
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from mixer_dilated.data.batch_order import IndexSampler
from mixer_dilated.data.cores import num_cores
from mixer_dilated.data.examples import Examples, RandomAccessDataSource
from mixer_dilated.errors import UserError

CHUNK_BYTES, CHUNK_RECORDS = 2**23, 64  # the most that are decoded in one go
FEWEST_RECORDS = 16  # fewer take noticeably longer, each
READY_CHUNKS = 4  # that each queue of decoded ones holds; a process has two and works on one
ENDLESS = 2**40
# What a process that decodes takes at most of shared memory, and of open files of its parent.
WORKER_BYTES, WORKER_FILES = 10 * CHUNK_BYTES, 30

# Which seeds, and which examples, of a batch: their numbers, rising.
Part = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The batches of a stream cut into chunks of a few records: what is decoded in one go.

    Several processes or threads decode one batch side by side, and a large batch is never in
    memory more than once. It is a random access source of Grain.

    Attributes:
      records: of the split.
      order: which of them make which batch.
      own: which seeds and examples of every batch.
      shape: how many.
      first_step: the batch to begin with.
      first, every: of all chunks from there on, only these: the first, first + every, ….
      size: records a chunk; the last of a batch may have fewer.
    """

    records: RandomAccessDataSource
    order: IndexSampler
    own: Part
    shape: tuple[int, int]
    first_step: int
    size: int
    first: int = 0
    every: int = 1

    @property
    def in_batch(self) -> int:
        """Chunks of a batch."""
        return -(-math.prod(self.shape) // self.size)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        step, part = divmod(self.first + int(number) * self.every, self.in_batch)
        own = self.order.batch(self.first_step + step)[np.ix_(*self.own)].reshape(-1)
        return tuple(self.records.read(own[part * self.size : (part + 1) * self.size]))


class Stream:
    """Iterates over batches: `Examples` with axes (seeds, examples) first, without end.

    The order of the batches is that of `order`, however many workers decode them. Each of several
    processes that train together reads its share of every batch alone.

    Args:
      records: of the split.
      order: which records make which batch.
      first_step: the batch to begin with.
      workers: processes that decode; 0 for threads of this process.
      own: which seeds and examples of every batch are read; all if None.

    Raises:
      UserError: when it is iterated over: a record that cannot be used, or a worker that has
        ended.
    """

    def __init__(
        self,
        records: RandomAccessDataSource,
        order: IndexSampler,
        *,
        first_step: int = 0,
        workers: int = 0,
        own: Part | None = None,
    ):
        self._order, self._step, self._stopped = order, first_step, False
        order.entering(first_step)
        own = own or tuple(map(np.arange, order.batch(first_step).shape))
        shape = tuple(map(len, own))
        size = min(CHUNK_RECORDS, CHUNK_BYTES // math.prod(records.image_shape) or 1)
        share = -(-math.prod(shape) // (workers or num_cores()))
        size = min(size, max(share, FEWEST_RECORDS), math.prod(shape))
        self._image_shape = records.image_shape
        self._chunks = Chunks(records, order, own, shape, first_step, size)
        self._readers = _processes(self._chunks, workers) if workers else [_threads(self._chunks)]
        # Grain starts a process when its first chunk is asked for: so that all start at once.
        self._asking = ThreadPoolExecutor(len(self._readers))
        self._asked = [self._asking.submit(next, each) for each in self._readers]
        self._first = collections.deque(self._asked)
        self._turn = 0

    def __iter__(self) -> Iterator[Examples]:
        return self

    def __next__(self) -> Examples:
        self._order.entering(self._step)
        count, size = math.prod(self._chunks.shape), self._chunks.size
        images = np.empty((count, *self._image_shape), np.uint8)
        labels = np.empty(count, np.int32)
        for start in range(0, count, size):
            if self._stopped:
                raise RuntimeError('the stream was stopped')
            part = slice(start, start + size)
            images[part], labels[part] = self._next_chunk()
        self._step += 1
        seeds_first = self._chunks.shape
        return Examples(
            images.reshape(*seeds_first, *self._image_shape), labels.reshape(seeds_first)
        )

    def stop(self) -> None:
        """Ends soon, with an error, what another thread waits for: a batch may take long."""
        self._stopped = True

    def close(self) -> None:
        """Ends the workers; nobody may be waiting for a batch."""
        self._order.close()
        for asked, reader in zip(self._asked, self._readers, strict=True):  # each takes its time
            self._asking.submit(_close, reader, asked)
        self._asking.shutdown()
        # Grain's last words come too late.
        self._readers, self._asked, self._first = [], [], collections.deque()

    def _next_chunk(self) -> tuple[np.ndarray, np.ndarray]:
        reader = self._readers[self._turn % len(self._readers)]
        self._turn += 1
        try:
            return self._first.popleft().result() if self._first else next(reader)
        except UserError:
            raise
        except Exception as error:
            raise _told(error) from error


def _close(reader: Iterator, asked: Future) -> None:
    """Closes a reader when its first chunk is there: Grain would lose it, and wait for it for ever.

    While a worker starts it does not hear that it shall end.
    """
    wait([asked])
    reader.close()


def _threads(chunks: Chunks) -> Iterator:
    """Chunks decoded by threads of this process."""
    import grain

    threads = num_cores() + 2  # cores stay busy while some wait for Python's lock
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + READY_CHUNKS)
    return iter(grain.MapDataset.source(chunks).to_iter_dataset(options))


def _processes(chunks: Chunks, workers: int) -> list[Iterator]:
    """Chunks decoded by processes: an iterator for each, to be asked in turns.

    Grain could take turns itself, but it would end one process after the other.
    """
    import absl.flags
    import grain

    if not absl.flags.FLAGS.is_parsed():  # Grain looks at flags of its own; they have defaults
        absl.flags.FLAGS.mark_as_parsed()
    _start_quiet_tracker()
    _allow_files()
    readers = []
    begin = functools.partial(_begin_worker, folder=getattr(chunks.order, 'folder', None))
    for k in range(workers):
        own = dataclasses.replace(chunks, first=k, every=workers)
        in_turn = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        options = grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=READY_CHUNKS)
        decoded = grain.MapDataset.source(own).to_iter_dataset(in_turn)
        readers.append(iter(decoded.mp_prefetch(options, worker_init_fn=begin)))
    return readers


def _allow_files() -> None:
    """Raises the number of files this process may open to what it may raise it to."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not everywhere, not always
        import resource

        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))


def _start_quiet_tracker() -> None:
    """Starts the process that frees the shared memory of processes that were killed.

    It does so without a warning: that a worker was killed is told in a line of our own.
    """
    before = os.environ.get('PYTHONWARNINGS')
    os.environ['PYTHONWARNINGS'] = 'ignore:resource_tracker:UserWarning'
    try:
        multiprocessing.resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ['PYTHONWARNINGS']
        else:
            os.environ['PYTHONWARNINGS'] = before


def _begin_worker(index: int, count: int, folder: pathlib.Path | None) -> None:
    """Called in a worker before it decodes: it lives as long as the process that trains.

    Signals, which reach the whole group of a terminal, are for that process to see to.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    # The last that a process does, after its queues are empty: to take the interpreter and all
    # libraries apart would keep a run that stops waiting.
    multiprocessing.util.Finalize(None, os._exit, (0,), exitpriority=-100)


def _end_with_parent(folder: pathlib.Path | None) -> None:
    multiprocessing.parent_process().join()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


@contextlib.contextmanager
def signals_blocked():
    """Processes that this thread starts meanwhile have SIGINT and SIGTERM blocked from the first.

    Else a signal to the group would end them with a traceback while they still import.
    """
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _told(error: Exception) -> Exception:
    """An UserError if the error says that workers cannot be had, or one has ended; else itself."""
    hint = (
        'What was saved is undamaged, and the same command goes on; fewer workers take less, and '
        'with 0 there are none'
    )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return UserError(
            f'config.input.workers: {os.strerror(error.errno)}; each process that decodes takes '
            f'about {WORKER_FILES} (`ulimit -n` says how many there may be). {hint}'
        )
    found = re.search(r'exit code (-?\d+)', str(error))
    if not found:
        return error
    code = int(found[1])
    if code > 0:
        cause = f'exit status {code}'
        perhaps = "a script without `if __name__ == '__main__':`, which each of them imports"
    else:
        cause = signal.strsignal(-code)
        perhaps = 'memory or shared memory (/dev/shm) ran out'
    return UserError(
        f'config.input.workers: a process that decodes images has ended ({cause}); perhaps '
        f'{perhaps}. {hint}'
    )


def room_for_workers() -> int:
    """Processes that can decode at the same time, by shared memory and files that may be open.

    Half of either is left to others, such as the stream of the test examples.
    """
    found = [math.inf]
    with contextlib.suppress(OSError):
        found.append(shutil.disk_usage('/dev/shm').free // WORKER_BYTES)
    with contextlib.suppress(ImportError):
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if files != resource.RLIM_INFINITY:
            found.append(files // WORKER_FILES)
    return int(min(*found, 2**16) // 2)
