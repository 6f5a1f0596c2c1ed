"""Samplers: which examples make which batch."""

import collections
import functools
import pathlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np
from jaxtyping import Int, Int32

from mixer_dilated.parallel.mesh import purpose_key, seed_keys

POLL_SECONDS = 0.01


class IndexSampler(Protocol):
    """The rows of every batch, from step 0 on without end. Worker processes get it by pickle."""

    def batch(self, step: int) -> Int[np.ndarray, 'seeds batch']:
        """Rows of the batch of one step."""

    def prepare(self, step: int) -> None:
        """Called by the training process before it takes the batch of a step."""

    def close(self) -> None:
        """Frees what workers read, and ends their waiting for it."""


class SequentialSampler:
    """Passes over all examples in the stored order, for evaluation.

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

    def prepare(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass


class ShuffleSampler:
    """A permutation of the examples for each epoch and seed.

    The training process draws it. Worker processes map a file of it into memory, which is written
    an epoch ahead: they need neither JAX nor a copy each.

    Args:
      permute: epoch, from 0, to int32 (seeds, examples).
      batch: examples a step and seed.
      steps: batches an epoch; examples beyond are left out.
      to_processes: whether files are written.
    """

    def __init__(self, permute: Callable[[int], np.ndarray], batch: int, steps: int, to_processes):
        self._permute, self._batch, self._steps = permute, batch, steps
        self._epochs, self._lock = collections.OrderedDict(), threading.Lock()
        self.folder = None
        if to_processes:
            self.folder = pathlib.Path(tempfile.mkdtemp(prefix='mixer_dilated-epochs-'))

    def __getstate__(self):
        return {'_batch': self._batch, '_steps': self._steps, 'folder': self.folder}

    def __setstate__(self, state):
        self.__dict__.update(state, _epochs=collections.OrderedDict(), _lock=threading.Lock())
        self._permute = self._read  # in a worker

    def batch(self, step: int) -> Int[np.ndarray, 'seeds batch']:
        epoch, row = divmod(step, self._steps)
        return self._permutations(epoch)[:, row * self._batch : (row + 1) * self._batch]

    def prepare(self, step: int) -> None:
        if self.folder is None or (step % self._steps and self._epochs):
            return
        epoch = step // self._steps
        for coming in (epoch, epoch + 1):
            file = self._file(coming)
            if not file.exists():
                unfinished = file.with_suffix('.unfinished')
                with unfinished.open('wb') as opened:
                    np.save(opened, self._permutations(coming), allow_pickle=False)
                unfinished.rename(file)
        if epoch:
            self._file(epoch - 1).unlink(missing_ok=True)

    def close(self) -> None:
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _permutations(self, epoch: int) -> Int32[np.ndarray, 'seeds examples']:
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = np.asarray(self._permute(epoch))
                while len(self._epochs) > 2:
                    self._epochs.popitem(last=False)
            return self._epochs[epoch]

    def _read(self, epoch: int) -> np.ndarray:
        file = self._file(epoch)
        while not file.exists():
            if not self.folder.exists():
                raise RuntimeError('the stream was closed')
            time.sleep(POLL_SECONDS)
        return np.load(file, mmap_mode='r', allow_pickle=False)

    def _file(self, epoch: int) -> pathlib.Path:
        return self.folder / f'epoch-{epoch}.npy'


def epoch_permutations(
    seed: int, num_seeds: int, num_examples: int, epoch: int
) -> Int32[jax.Array, 'seeds examples']:
    """Each seed's permutation of the examples in an epoch, on the host, computed asynchronously.

    Args:
      seed, num_seeds: of the config.
      num_examples: of the training split.
      epoch: from 0.
    """
    try:
        host = jax.local_devices(backend='cpu')[0]
    except RuntimeError:  # JAX_PLATFORMS names the accelerator alone
        host = None
    with jax.default_device(host):
        return _permutations(np.uint32(seed), np.int32(epoch), num_seeds, num_examples)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _permutations(seed, epoch, num_seeds: int, num_examples: int) -> jax.Array:
    def permutation(seed_key):
        return jax.random.permutation(purpose_key(seed_key, 'permutation', epoch), num_examples)

    return jax.lax.map(permutation, seed_keys(seed, num_seeds))
