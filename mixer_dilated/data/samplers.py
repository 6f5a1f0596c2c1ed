"""Which examples make which batch: the rows of every epoch, as files that workers share."""

import functools
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Int, Int32

from mixer_dilated.parallel.mesh import purpose_key, seed_keys

POLL_SECONDS = 0.01


class IndexSampler:
    """The rows of every batch, from step 0 on without end.

    The training process draws the rows of an epoch and writes them to a file, one epoch ahead.
    Threads and worker processes, which get the sampler by pickle, map the file into memory: they
    need neither JAX nor a copy each.

    Args:
      rows_of_epoch: epoch, from 0, to (seeds, examples).
      batch: examples a step and seed.
      steps: batches an epoch; examples beyond are left out.

    Attributes:
      folder: of the files.
    """

    def __init__(self, rows_of_epoch: Callable[[int], np.ndarray], batch: int, steps: int):
        self._rows_of_epoch, self._batch, self._steps = rows_of_epoch, batch, steps
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='mixer_dilated-epochs-'))
        self._epochs = {}

    def __getstate__(self):
        return {**self.__dict__, '_rows_of_epoch': None, '_epochs': {}}

    def batch(self, step: int) -> Int[np.ndarray, 'seeds batch']:
        """Rows of the batch of a step; waits until `prepare` has written its epoch."""
        epoch, number = divmod(step, self._steps)
        return self._read(epoch)[:, number * self._batch : (number + 1) * self._batch]

    def prepare(self, step: int) -> None:
        """Writes the epoch of a step and the next; called before the step's batch is taken."""
        epoch = step // self._steps
        for number in (epoch, epoch + 1):
            file = self._file(number)
            if not file.exists():
                unfinished = file.with_suffix('.unfinished')
                with unfinished.open('wb') as opened:
                    np.save(opened, self._rows_of_epoch(number), allow_pickle=False)
                unfinished.rename(file)
        if epoch:
            self._file(epoch - 1).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes the files, which ends waiting for them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            file = self._file(epoch)
            while not file.exists():
                if not self.folder.exists():
                    raise RuntimeError('the stream was closed')
                time.sleep(POLL_SECONDS)
            known = {number: rows for number, rows in self._epochs.items() if number > epoch - 2}
            self._epochs = {**known, epoch: np.load(file, mmap_mode='r', allow_pickle=False)}
        return self._epochs[epoch]

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


def sequential_rows(num_examples: int, batch: int) -> Int[np.ndarray, '1 rows']:
    """All examples in the stored order, the last batch filled up with the last example."""
    steps = -(-num_examples // batch)
    return np.minimum(np.arange(steps * batch), num_examples - 1)[None]
