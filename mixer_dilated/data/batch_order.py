"""Which examples make which batch of a stream."""

import collections
import pathlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Int

POLL_SECONDS = 0.01  # seconds between two looks for a file


class IndexSampler(Protocol):
    """The numbers of the examples of every batch, from 0 on without end.

    It goes to other processes by pickle.
    """

    def batch(self, step: int) -> Int[np.ndarray, 'seeds batch']:
        """Of one batch."""

    def entering(self, step: int) -> None:
        """Told by the process that takes the batches before it asks for one."""

    def close(self) -> None:
        """Ends waiting for what will not come."""


class SequentialSampler:
    """Passes over all examples in the stored order, for evaluation, as a `IndexSampler`.

    The last batch of a pass is filled up with the last example.

    Args:
      num_examples: of the split.
      batch: examples a step.
    """

    def __init__(self, num_examples: int, batch: int):
        self._num_examples, self._batch = num_examples, batch
        self.steps = -(-num_examples // batch)

    def batch(self, step: int) -> Int[np.ndarray, '1 batch']:
        start = step % self.steps * self._batch
        return np.minimum(np.arange(start, start + self._batch), self._num_examples - 1)[None]

    def entering(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass


class ShuffleSampler:
    """An order for each epoch, drawn by the process that trains, as a `IndexSampler`.

    Threads of that process draw it too. Other processes read it from a file, which is written an
    epoch ahead and mapped into memory: they need neither JAX nor a copy each.

    Args:
      draw: epoch, from 0, to int32 (seeds, examples).
      batch: examples a step and seed.
      steps: batches an epoch; examples beyond are left out.
      to_processes: whether files are written.
    """

    def __init__(self, draw: Callable[[int], np.ndarray], batch: int, steps: int, to_processes):
        self._draw, self._batch, self._steps = draw, batch, steps
        self._orders, self._lock = collections.OrderedDict(), threading.Lock()
        self._entered = None
        self.folder = (
            pathlib.Path(tempfile.mkdtemp(prefix='mixer_dilated-order-')) if to_processes else None
        )

    def __getstate__(self):
        return {'_draw': None, '_batch': self._batch, '_steps': self._steps, 'folder': self.folder}

    def __setstate__(self, state):
        self.__dict__.update(state, _orders=collections.OrderedDict(), _lock=threading.Lock())

    def batch(self, step: int) -> Int[np.ndarray, 'seeds batch']:
        epoch, number = divmod(step, self._steps)
        return self._order(epoch)[:, number * self._batch : (number + 1) * self._batch]

    def entering(self, step: int) -> None:
        epoch = step // self._steps
        if self.folder is None or epoch == self._entered:
            return
        for coming in (epoch, epoch + 1):
            file = self._file(coming)
            if not file.exists():
                unfinished = file.with_suffix('.unfinished')
                with unfinished.open('wb') as opened:
                    np.save(opened, self._order(coming), allow_pickle=False)
                unfinished.rename(file)
        if epoch:
            self._file(epoch - 1).unlink(missing_ok=True)
        self._entered = epoch

    def close(self) -> None:
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _order(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._orders:
                self._orders[epoch] = self._draw(epoch) if self._draw else self._read(epoch)
                while len(self._orders) > 2:
                    self._orders.popitem(last=False)
            return self._orders[epoch]

    def _read(self, epoch: int) -> np.ndarray:
        file = self._file(epoch)
        while not file.exists():
            if not self.folder.exists():
                raise RuntimeError('the stream was closed')
            time.sleep(POLL_SECONDS)
        return np.load(file, mmap_mode='r', allow_pickle=False)

    def _file(self, epoch: int) -> pathlib.Path:
        return self.folder / f'epoch-{epoch}.npy'
