"""Batches of examples that do not fit memory, decoded ahead with Grain, and put on the devices."""

import contextlib
import functools
import math
import os
import pathlib
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Int

from mixer_dilated.data import workers as processes
from mixer_dilated.data.examples import Examples, RandomAccessDataSource
from mixer_dilated.errors import UserError
from mixer_dilated.files import error_context
from mixer_dilated.parallel.mesh import make_global_array

MAX_SLICE_RECORDS = 64
MIN_SLICE_RECORDS = 16  # fewer take noticeably longer, each
READY_SLICES = 4  # in each of the two queues of a worker, which works on one more
ENDLESS = 2**40
POLL_SECONDS = 0.1
EPOCH_POLL_SECONDS = 0.01


class IndexSampler:
    """The rows of every batch, from step 0 on without end.

    The training process draws the rows of an epoch one epoch ahead. Worker processes, which get the
    sampler by pickle, map a file of them into memory: they need neither JAX nor a copy each.

    Args:
      rows_of_epoch: epoch, from 0, to (seeds, examples).
      batch: examples a step and seed.
      steps: batches an epoch; examples beyond are left out.

    Attributes:
      folder: of the files; None unless worker processes share the sampler.
    """

    def __init__(self, rows_of_epoch: Callable[[int], np.ndarray], batch: int, steps: int):
        self._rows_of_epoch, self._batch, self._steps = rows_of_epoch, batch, steps
        self._epochs, self._closed, self.folder = {}, False, None

    def share(self) -> None:
        """Has the rows written to files from now on, for worker processes to read."""
        with error_context(os.environ.get('TMPDIR', '/tmp')):
            self.folder = pathlib.Path(tempfile.mkdtemp(prefix='mixer_dilated-epochs-'))

    def __getstate__(self):
        return {**self.__dict__, '_rows_of_epoch': None, '_epochs': {}}  # in a worker

    def batch(self, step: int) -> Int[np.ndarray, 'seeds batch']:
        """Rows of the batch of a step; waits until `prepare` has drawn its epoch."""
        epoch, number = divmod(step, self._steps)
        while (rows := self._epochs.get(epoch)) is None:
            in_worker = self._rows_of_epoch is None
            if self._closed or (in_worker and not self.folder.exists()):
                raise RuntimeError('the stream was closed')
            if in_worker and self._file(epoch).exists():
                self._epochs = {epoch: np.load(self._file(epoch), mmap_mode='r')}
            else:
                time.sleep(EPOCH_POLL_SECONDS)
        return rows[:, number * self._batch : (number + 1) * self._batch]

    def prepare(self, step: int) -> None:
        """Draws the epoch of a step and the next; called before the step's batch is taken."""
        epoch = step // self._steps
        if self._epochs and epoch == min(self._epochs):
            return
        epochs = {}
        for number in (epoch, epoch + 1):
            epochs[number] = self._epochs.get(number)
            if epochs[number] is None:
                epochs[number] = np.asarray(self._rows_of_epoch(number))
                if self.folder:
                    self._write(self._file(number), epochs[number])
        self._epochs = epochs
        if self.folder:
            self._file(epoch - 1).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes the files, and ends waiting for an epoch."""
        self._closed = True
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, file: pathlib.Path, rows: np.ndarray) -> None:
        unfinished = file.with_suffix('.unfinished')
        with error_context(self.folder), unfinished.open('wb') as opened:
            np.save(opened, rows)
        unfinished.rename(file)

    def _file(self, epoch: int) -> pathlib.Path:
        return self.folder / f'epoch-{epoch}.npy'


class BatchStream:
    """Iterates over batches, `Examples` (seeds, batch, …), without end, in the sampler's order.

    Each of several hosts reads its own part of every batch. Grain decodes slices of a few records,
    so that several workers decode one batch, and a large batch is in memory once.

    Args:
      data_source, sampler: the examples, and which of them make which batch.
      first_step: the batch to begin with.
      workers: processes that decode; 0 for threads of this process.
      own: which seeds and examples of every batch are read, numbers along each axis; all if None.
        Axes between the first and the last are kept, (seeds, steps, batch, …).

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
        own: tuple[np.ndarray, ...] | None = None,
    ):
        self._sampler, self._step, self._stopped = sampler, first_step, False
        try:
            if workers:
                sampler.share()
            sampler.prepare(first_step)
        except BaseException:
            sampler.close()
            raise
        own = own or tuple(map(np.arange, sampler.batch(first_step).shape))
        self._shape, self._image_shape = tuple(map(len, own)), data_source.image_shape
        self._count = math.prod(self._shape)
        size = min(MAX_SLICE_RECORDS, processes.SLICE_BYTES // math.prod(self._image_shape) or 1)
        share = -(-self._count // (workers or processes.num_cores()))
        self._size = min(size, max(share, MIN_SLICE_RECORDS), self._count)
        per_batch = -(-self._count // self._size)
        read = functools.partial(_read_slice, data_source, sampler, own, self._size, per_batch)
        self._slices = _decode_ahead(read, first_step * per_batch, workers, sampler.folder)

    def __iter__(self) -> Iterator[Examples]:
        return self

    def __next__(self) -> Examples:
        self._sampler.prepare(self._step)
        images = np.empty((self._count, *self._image_shape), np.uint8)
        labels = np.empty(self._count, np.int32)
        for start in range(0, self._count, self._size):
            if self._stopped:
                raise RuntimeError('the stream was stopped')
            part = slice(start, start + self._size)
            images[part], labels[part] = self._next_slice()
        self._step += 1
        shape = self._shape
        return Examples(images.reshape(*shape, *self._image_shape), labels.reshape(shape))

    def stop(self) -> None:
        """Makes a pending `next` of another thread raise promptly: a batch may take long."""
        self._stopped = True

    def close(self) -> None:
        """Ends the workers; no `next` may be pending."""
        self._sampler.close()
        if self._slices is not None:
            self._slices.close()
        self._slices = None  # Grain logs at the end of the interpreter what is still referenced

    def _next_slice(self) -> tuple[np.ndarray, np.ndarray]:
        try:
            return next(self._slices)
        except UserError:
            raise
        except Exception as error:
            raise processes.worker_error(error) from error


def _read_slice(
    data_source: RandomAccessDataSource,
    sampler: IndexSampler,
    own: tuple[np.ndarray, ...],
    size: int,
    per_batch: int,
    number: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a slice of `size` records; the last one of a batch may have fewer."""
    step, part = divmod(number, per_batch)
    rows = sampler.batch(step)[np.ix_(own[0], own[-1])].reshape(-1)
    return tuple(data_source.read(rows[part * size : (part + 1) * size]))


def _decode_ahead(
    read: Callable[[int], tuple], first: int, workers: int, folder: pathlib.Path | None
) -> Iterator[tuple]:
    """`read(first)`, `read(first + 1)`, …, in threads or in worker processes."""
    import absl.flags
    import grain

    numbers = grain.MapDataset.range(first, ENDLESS).map(read)
    if not workers:
        threads = processes.num_cores() + 2  # cores stay busy while some wait for Python's lock
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 4)
        return iter(numbers.to_iter_dataset(options))
    if not absl.flags.FLAGS.is_parsed():  # Grain reads its own flags, which have defaults
        absl.flags.FLAGS.mark_as_parsed()
    processes.prepare_workers()
    slices = numbers.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=READY_SLICES)
    start = functools.partial(processes.start_worker, folder=folder)
    return iter(slices.mp_prefetch(options, worker_init_fn=start))


class DevicePrefetcher:
    """Batches of a stream, `prefetch` of which are on the devices before they are asked for.

    A thread takes those of this host from the stream, which it closes at the end, and shards the
    batch of all hosts, whose first axes are `shape`. Its errors are raised by `next_batch`.

    Attributes:
      waited: seconds that `next_batch` has waited.
    """

    def __init__(
        self, stream: BatchStream, sharding: NamedSharding, shape: tuple[int, ...], prefetch: int
    ):
        self.waited = 0.0
        self._stream, self._sharding, self._shape = stream, sharding, shape
        self._ready = queue.Queue(prefetch)
        self._thread = threading.Thread(target=self._fill, name='prefetcher', daemon=True)
        self._thread.start()

    def next_batch(self, timeout: float | None = None) -> Examples | None:
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
        self._stream.stop()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):  # makes room for what the thread puts there
                self._ready.get(timeout=POLL_SECONDS)

    def _fill(self) -> None:
        with processes.signals_blocked():
            try:
                for batch in self._stream:
                    arrays = (make_global_array(a, self._sharding, self._shape) for a in batch)
                    self._ready.put((Examples(*arrays), None))
            except BaseException as error:
                self._ready.put((None, error))
            finally:
                self._stream.close()
