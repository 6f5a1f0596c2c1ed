"""Batches of examples that do not fit memory, decoded ahead with Grain, and put on the devices."""

import collections
import dataclasses
import functools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from mixer_dilated.data.examples import Examples, RandomAccessDataSource
from mixer_dilated.data.samplers import IndexSampler
from mixer_dilated.data.workers import (
    SLICE_BYTES,
    num_cores,
    raise_file_limit,
    signals_blocked,
    start_quiet_tracker,
    start_worker,
    worker_error,
)
from mixer_dilated.errors import UserError

MAX_SLICE_RECORDS = 64
MIN_SLICE_RECORDS = 16  # fewer take noticeably longer, each
READY_SLICES = 4  # in each queue of decoded ones; a process has two and works on one
ENDLESS = 2**40
POLL_SECONDS = 0.1

# Which seeds, and which examples, of a batch: their numbers, rising.
Part = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class BatchSlices:
    """The batches of a stream, cut into slices of a few records: a random access source of Grain.

    Several workers decode the slices of one batch, so a large batch is in memory once.

    Attributes:
      data_source: the examples.
      sampler: which of them make which batch.
      own: which seeds and examples of every batch.
      shape: how many.
      first_step: the batch to begin with.
      size: records a slice; the last of a batch may have fewer.
      first, every: of all slices the first, first + every, ….
    """

    data_source: RandomAccessDataSource
    sampler: IndexSampler
    own: Part
    shape: tuple[int, int]
    first_step: int
    size: int
    first: int = 0
    every: int = 1

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        slices = -(-math.prod(self.shape) // self.size)
        step, part = divmod(self.first + int(number) * self.every, slices)
        rows = self.sampler.batch(self.first_step + step)[np.ix_(*self.own)].reshape(-1)
        return tuple(self.data_source.read(rows[part * self.size : (part + 1) * self.size]))


class BatchStream:
    """Iterates over batches, `Examples` (seeds, batch, …), without end, in the sampler's order.

    Each of several hosts reads its own part of every batch.

    Args:
      data_source: the examples.
      sampler: which of them make which batch.
      first_step: the batch to begin with.
      workers: processes that decode; 0 for threads of this process.
      own: which seeds and examples of every batch are read; all if None.

    Raises:
      UserError: by `next`: a record that cannot be used, or a worker that has ended.
    """

    def __init__(
        self,
        data_source: RandomAccessDataSource,
        sampler: IndexSampler,
        *,
        first_step: int = 0,
        workers: int = 0,
        own: Part | None = None,
    ):
        self._sampler, self._step, self._stopped = sampler, first_step, False
        sampler.prepare(first_step)
        own = own or tuple(map(np.arange, sampler.batch(first_step).shape))
        shape = tuple(map(len, own))
        size = min(MAX_SLICE_RECORDS, SLICE_BYTES // math.prod(data_source.image_shape) or 1)
        share = -(-math.prod(shape) // (workers or num_cores()))
        size = min(size, max(share, MIN_SLICE_RECORDS), math.prod(shape))
        self._image_shape = data_source.image_shape
        self._slices = BatchSlices(data_source, sampler, own, shape, first_step, size)
        self._readers = (
            _start_workers(self._slices, workers) if workers else [_start_threads(self._slices)]
        )
        # Grain starts a worker when its first slice is asked for: so that all start at once.
        self._pool = ThreadPoolExecutor(len(self._readers))
        self._requests = [self._pool.submit(next, reader) for reader in self._readers]
        self._first = collections.deque(self._requests)
        self._turn = 0

    def __iter__(self) -> Iterator[Examples]:
        return self

    def __next__(self) -> Examples:
        self._sampler.prepare(self._step)
        shape, size = self._slices.shape, self._slices.size
        count = math.prod(shape)
        images = np.empty((count, *self._image_shape), np.uint8)
        labels = np.empty(count, np.int32)
        for start in range(0, count, size):
            if self._stopped:
                raise RuntimeError('the stream was stopped')
            part = slice(start, start + size)
            images[part], labels[part] = self._next_slice()
        self._step += 1
        return Examples(images.reshape(*shape, *self._image_shape), labels.reshape(shape))

    def stop(self) -> None:
        """Makes a pending `next` of another thread raise promptly: a batch may take long."""
        self._stopped = True

    def close(self) -> None:
        """Ends the workers; no `next` may be pending."""
        self._sampler.close()
        for request, reader in zip(self._requests, self._readers, strict=True):
            self._pool.submit(_close, reader, request)
        self._pool.shutdown()
        # Grain logs at the end of the interpreter what is still referenced.
        self._readers, self._requests, self._first = [], [], collections.deque()

    def _next_slice(self) -> tuple[np.ndarray, np.ndarray]:
        reader = self._readers[self._turn % len(self._readers)]
        self._turn += 1
        try:
            return self._first.popleft().result() if self._first else next(reader)
        except UserError:
            raise
        except Exception as error:
            raise worker_error(error) from error


def _close(reader: Iterator, request: Future) -> None:
    wait([request])  # closed while a worker starts, Grain would wait for it for ever
    reader.close()


def _start_threads(slices: BatchSlices) -> Iterator:
    import grain

    threads = num_cores() + 2  # cores stay busy while some wait for Python's lock
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + READY_SLICES)
    return iter(grain.MapDataset.source(slices).to_iter_dataset(options))


def _start_workers(slices: BatchSlices, workers: int) -> list[Iterator]:
    """An iterator for each process, which end side by side; Grain's own would one by one."""
    import absl.flags
    import grain

    if not absl.flags.FLAGS.is_parsed():  # Grain reads flags of its own, which have defaults
        absl.flags.FLAGS.mark_as_parsed()
    start_quiet_tracker()
    raise_file_limit()
    start = functools.partial(start_worker, folder=getattr(slices.sampler, 'folder', None))
    in_turn = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    options = grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=READY_SLICES)
    return [
        iter(
            grain.MapDataset.source(dataclasses.replace(slices, first=k, every=workers))
            .to_iter_dataset(in_turn)
            .mp_prefetch(options, worker_init_fn=start)
        )
        for k in range(workers)
    ]


class DevicePrefetcher:
    """Batches of a stream, some of which are on the devices before they are asked for.

    A thread takes them from the stream and places them. Its errors are raised by `next_batch`.

    Args:
      open_stream: called by the thread.
      place: puts a batch on the devices.
      prefetch: batches placed ahead.

    Attributes:
      waited: seconds that `next_batch` has waited.
    """

    def __init__(self, open_stream: Callable[[], BatchStream], place: Callable, prefetch: int):
        self.waited = 0.0
        self._open_stream, self._place, self._stream = open_stream, place, None
        self._ready = queue.Queue(prefetch)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._fill, name='prefetcher', daemon=True)
        self._thread.start()

    def next_batch(self, timeout: float | None = None) -> Any:
        """The next batch; None if it is not ready within `timeout` seconds."""
        start = time.perf_counter()
        try:
            batch, error = self._ready.get(timeout=timeout)
        except queue.Empty:
            return None
        finally:
            self.waited += time.perf_counter() - start
        if error is not None:
            self._ready.put((None, error))  # for the next call
            raise error
        return batch

    def close(self) -> None:
        """Ends the thread and the workers of its stream."""
        self._closing.set()
        if self._stream is not None:
            self._stream.stop()
        self._thread.join()

    def _fill(self) -> None:
        with signals_blocked():
            try:
                self._stream = self._open_stream()
                while not self._closing.is_set():
                    self._put((self._place(next(self._stream)), None))
            except BaseException as error:
                self._put((None, error))
            finally:
                if self._stream is not None:
                    self._stream.close()

    def _put(self, item: tuple) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(item, timeout=POLL_SECONDS)
                return
            except queue.Full:
                pass
