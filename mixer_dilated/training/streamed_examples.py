"""A split whose images are decoded when they are needed: `StreamedExamples`."""

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import ml_collections
import numpy as np
from jaxtyping import Int32, UInt8

from mixer_dilated.data.batch_order import IndexSampler, SequentialSampler, ShuffleSampler
from mixer_dilated.data.cores import num_cores
from mixer_dilated.data.datasets import load_examples
from mixer_dilated.data.examples import Examples, RandomAccessDataSource, num_examples
from mixer_dilated.data.stream import Part, Stream, room_for_workers
from mixer_dilated.parallel.mesh import purpose_key, seed_keys
from mixer_dilated.training.feed import DevicePrefetcher
from mixer_dilated.training.setup import Setup, streams

BLOCK = 64  # records that a thread reads in one go
MAX_CORES_FOR_THREADS = 4  # of sixteen, threads keep five busy


class StreamedExamples:
    """Stands where `Examples` do: `images` and `labels` can be asked for by number, and batches
    of them come as a `DevicePrefetcher`, one at a time.

    Args:
      records: of the split.
      settings: `config.input`.
    """

    def __init__(self, records: RandomAccessDataSource, settings: ml_collections.ConfigDict):
        self._records, self._prefetch = records, settings.prefetch
        self._workers = num_workers(settings.workers)
        self._feed = self._what = self._first_step = self._labels = None

    @property
    def images(self) -> '_Images':
        return _Images(self._records)

    @property
    def labels(self) -> '_Labels':
        return _Labels(self._records, self._labels)

    @property
    def waited(self) -> float:
        """Seconds that were spent in asking the present feed for batches."""
        return self._feed.waited if self._feed else 0.0

    def note_labels(self, labels: Int32[np.ndarray, ' examples']) -> None:
        """Keeps all labels, which a pass over the examples has shown."""
        self._labels = labels

    def epochs(
        self,
        draw: Callable[[int], np.ndarray],
        batch: int,
        first_step: int,
        place: Callable,
        own: Part,
    ) -> DevicePrefetcher:
        """Training batches from a step on, each epoch in its own order.

        A feed of the same `draw` that has come to this step goes on.

        Args:
          draw: epoch, from 0, to the order of the examples, int32 (seeds, examples).
          batch: examples a step and seed.
          first_step: of the whole run.
          place: puts `Examples` (seeds, batch, …) on the devices.
          own: which of the seeds and of the batch `place` is given.
        """
        what = ('epochs', draw)
        if self._what == what and self._first_step + self._feed.taken == first_step:
            return self._feed
        steps = len(self._records) // batch

        def order():
            return ShuffleSampler(draw, batch, steps, to_processes=self._workers > 0)

        return self._opened(what, order, first_step, place, own)

    def passes(self, batch: int, place: Callable, own: tuple[np.ndarray]) -> DevicePrefetcher:
        """Passes over all examples in the stored order, again and again; see `SequentialSampler`.

        A feed that stands at the beginning of a pass goes on.

        Args:
          batch: examples a step.
          place: puts `Examples` (1, batch, …) on the devices.
          own: which of the batch `place` is given.
        """
        if self._what == ('passes', batch):
            return self._feed
        return self._opened(
            ('passes', batch),
            lambda: SequentialSampler(len(self._records), batch),
            0,
            place,
            (np.arange(1), *own),
        )

    def close(self) -> None:
        """Ends what works in the background."""
        if self._feed:
            self._feed.close()
        self._feed = self._what = None

    def _opened(
        self,
        what: tuple,
        order: Callable[[], IndexSampler],
        first_step: int,
        place: Callable,
        own: Part,
    ) -> DevicePrefetcher:
        self.close()
        self._feed = DevicePrefetcher(
            lambda: Stream(
                self._records,
                order(),
                first_step=first_step,
                workers=self._workers,
                own=own,
            ),
            place,
            self._prefetch,
        )
        self._what, self._first_step = what, first_step
        return self._feed


class _Images:
    """Images by number: `images[3]`, `images[2:5]`, `images[[4, 1]]`, decoded at once."""

    def __init__(self, records: RandomAccessDataSource):
        self._records = records
        self.shape = (len(records), *records.image_shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> UInt8[np.ndarray, '...']:
        wanted = np.arange(len(self))[index]
        blocks = [wanted.reshape(-1)[i : i + BLOCK] for i in range(0, wanted.size, BLOCK)]
        with ThreadPoolExecutor(num_cores()) as threads:
            found = [part.images for part in threads.map(self._records.read, blocks)]
        images = np.concatenate([np.empty((0, *self.shape[1:]), np.uint8), *found])
        return images.reshape(*wanted.shape, *self.shape[1:])


class _Labels:
    """Labels by number, read without decoding an image; `numpy.asarray` has all of them."""

    def __init__(self, records: RandomAccessDataSource, known: np.ndarray | None):
        self._records, self._known = records, known

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index) -> Int32[np.ndarray, '...']:
        wanted = np.arange(len(self))[index]
        if self._known is not None:
            return self._known[wanted]
        return self._records.labels(wanted.reshape(-1)).reshape(wanted.shape)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        blocks = range(0, len(self), 1000)
        found = [self[start : start + 1000] for start in blocks] if self._known is None else None
        return np.asarray(np.concatenate(found) if found else self._known, dtype)


def num_workers(workers: int | str) -> int:
    """Processes that decode, by `config.input.workers`."""
    if workers != 'auto':
        return workers
    most = min(num_cores(), room_for_workers())
    return most if most > MAX_CORES_FOR_THREADS else 0


def epoch_orders(seed: int, num_seeds: int, count: int, epoch: int) -> np.ndarray:
    """The orders that `epoch.train_steps` draws, on the host.

    Args:
      seed, num_seeds: of the config.
      count: training examples.
      epoch: from 0.

    Returns:
      int32 (seeds, examples).
    """
    try:
        host = jax.local_devices(backend='cpu')[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the accelerator alone
        host = None
    with jax.default_device(host):
        return np.asarray(_orders(np.uint32(seed), np.int32(epoch), num_seeds, count))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _orders(seed: jax.Array, epoch: jax.Array, num_seeds: int, count: int) -> jax.Array:
    def order(seed_key):
        return jax.random.permutation(purpose_key(seed_key, 'permutation', epoch), count)

    return jax.lax.map(order, seed_keys(seed, num_seeds))


def open_examples(setup: Setup, split: str) -> Examples | StreamedExamples:
    """The examples of a split of a task's data, as `config.input` says: in memory, or streaming."""
    config = setup.config
    count = num_examples('split', split, setup.dataset.split_sizes)
    if streams(config.input, setup.dataset, count):
        return StreamedExamples(setup.dataset.records(split), config.input)
    return load_examples(setup.dataset, split, config.dataset)


@contextlib.contextmanager
def closing(*several: Examples | StreamedExamples):
    """Ends at its end what works for examples in the background."""
    try:
        yield
    finally:
        for examples in several:
            if isinstance(examples, StreamedExamples):
                examples.close()
