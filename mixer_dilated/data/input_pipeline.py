"""The input pipeline: chunks of examples on the devices, from any step on, in memory or streaming.

A training step is a gather. A chunk holds examples and an index into them, a row a step: in memory
the examples of the whole split and the permutations of the epoch; in a stream the batch decoded
next. An evaluation takes batch after batch, so that one program serves splits of every size.
"""

import functools
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int32
from ml_collections import ConfigDict

from mixer_dilated.data.batch_stream import BatchStream, DevicePrefetcher, IndexSampler
from mixer_dilated.data.datasets import load_examples
from mixer_dilated.data.disk_source import keep_on_disk
from mixer_dilated.data.examples import (
    Dataset,
    Examples,
    InMemoryDataSource,
    RandomAccessDataSource,
    checksums,
    count_examples,
)
from mixer_dilated.data.workers import memory_limit, num_workers
from mixer_dilated.parallel.mesh import process_local_indices, put_on_mesh, replicated
from mixer_dilated.random_keys import purpose_key, seed_keys

LABELS_AT_ONCE = 1000


class Chunk(NamedTuple):
    """The examples of one call of a compiled function.

    Attributes:
      examples: in training those of a whole split, (examples, …), the same for every seed, or in a
        stream (seeds, 1, batch, …); in evaluation (1, batch, …).
      index: int32, in training rows of a whole split (seeds, steps, batch), or None in a stream; in
        evaluation numbers of the examples (1, batch), -1 for those that only fill the last batch.
      first_step: the step of row 0, from 0: the first of the epoch in memory, the next in a stream.
      num_steps: steps to train, from `state.step` on.
    """

    examples: Examples
    index: jax.Array | None
    first_step: int = 0
    num_steps: int = 0


def streams(settings: ConfigDict, dataset: Dataset, count: int) -> bool:
    """Whether `config.input` has `count` images read when needed instead of kept in memory."""
    if settings.mode != 'auto':
        return settings.mode != 'memory'
    allowed = min(settings.memory_gib * 2**30, memory_limit() / 2)
    return count * math.prod(dataset.stored_shape) > allowed


def class_counts(data_source: RandomAccessDataSource, num_classes: int) -> np.ndarray | None:
    """int (classes,): examples of each class; None where all records would have to be read."""
    labels = getattr(data_source, 'all_labels', None)
    return None if labels is None else np.bincount(labels, minlength=num_classes)


class InMemoryPipeline:
    """The input pipeline of decoded examples, all of them on every device of a mesh.

    Attributes:
      data_source, labels: the same examples by number, and all labels, on the host.
      waited: seconds spent in waiting for batches so far.
    """

    waited = 0.0

    def __init__(self, examples: Examples, config: ConfigDict, mesh: Mesh):
        self.data_source, self.labels = InMemoryDataSource(examples), examples.labels
        self._config, self._mesh = config, mesh
        self._epoch = self._index = None
        self._permute = functools.lru_cache(2)(
            functools.partial(epoch_permutations, config.seed, config.num_seeds, len(self.labels))
        )

    @functools.cached_property
    def examples(self) -> Examples:
        """All of them on the devices, to train on."""
        return put_on_mesh(self.data_source.examples, replicated(self._mesh))

    def prepare(self) -> None:
        """Compiles what draws an epoch, draws the first, and puts the examples on the devices."""
        self._permute(0)
        jax.block_until_ready(self.examples)

    def train_chunks(self, step: int, num_steps: int, seconds: float | None) -> Iterator[Chunk]:
        """Chunks of the next `num_steps` batches after `step`, within the epoch.

        In each epoch a seed takes its own permutation of the examples; what does not fill a batch
        is left out. A stream that has to wait for `seconds` yields fewer.
        """
        config, steps = self._config, len(self.labels) // self._config.batch
        epoch = step // steps
        if epoch != self._epoch:
            permutations = self._permute(epoch)
            last = math.ceil(config.total_steps / steps) or config.num_epochs
            self._permute(min(epoch + 1, last - 1))  # computed while this one trains
            rows = np.asarray(permutations)[:, : steps * config.batch]
            rows = rows.reshape(config.num_seeds, steps, config.batch)
            self._epoch, self._index = epoch, put_on_mesh(rows, train_sharding(self._mesh))
        yield Chunk(self.examples, self._index, epoch * steps, num_steps)

    def eval_batches(self) -> Iterator[Chunk]:
        """Batches that hold every example once, in the stored order."""
        for index in eval_index(self._config, len(self.labels), self._mesh):
            examples = Examples(*(array[index] for array in self.data_source.examples))
            yield Chunk(*put_on_mesh((examples, index), eval_sharding(self._mesh)))

    def checksums(self) -> dict[str, int]:
        """Checksums of images and labels; {} in a stream, which has not seen all of them."""
        return checksums(self.data_source.examples)

    def close(self) -> None:
        """Ends the threads and processes that decode."""


class StreamingPipeline:
    """The input pipeline of examples decoded when they are needed, used as `InMemoryPipeline`."""

    def __init__(self, data_source: RandomAccessDataSource, config: ConfigDict, mesh: Mesh):
        self.data_source, self._config, self._mesh = data_source, config, mesh
        self._workers = num_workers(config.input.workers)
        if config.input.workers == 'auto' and isinstance(data_source, InMemoryDataSource):
            self._workers = 0  # each would have a copy, and nothing is decoded
        self._prefetcher = self._next_step = None  # the step; of an evaluation, 'eval'

    @functools.cached_property
    def labels(self) -> Int32[np.ndarray, ' examples']:
        count = len(self.data_source)
        blocks = np.array_split(np.arange(count), -(-count // LABELS_AT_ONCE))
        return np.concatenate([self.data_source.labels(block) for block in blocks])

    @property
    def waited(self) -> float:
        return self._prefetcher.waited if self._prefetcher else 0.0

    def prepare(self) -> None:
        """Does nothing: a stream begins at the step that is asked for."""

    def train_chunks(self, step: int, num_steps: int, seconds: float | None) -> Iterator[Chunk]:
        config, count = self._config, len(self.data_source)
        if self._next_step != step:
            permute = functools.partial(epoch_permutations, config.seed, config.num_seeds, count)
            sampler = IndexSampler(permute, config.batch, count // config.batch)
            shape = (config.num_seeds, 1, config.batch)
            self._open(sampler, step, train_sharding(self._mesh), shape)
            self._next_step = step
        start = time.perf_counter()
        for number in range(step, step + num_steps):
            timeout = seconds and max(0.0, start + seconds - time.perf_counter())
            examples = self._prefetcher.next_batch(timeout)
            if examples is None:
                return
            self._next_step = number + 1
            yield Chunk(examples, None, number, 1)

    def eval_batches(self) -> Iterator[Chunk]:
        count, sharding = len(self.data_source), eval_sharding(self._mesh)
        batches = eval_index(self._config, count, self._mesh)
        if self._next_step != 'eval':
            rows = np.where(batches < 0, count - 1, batches).reshape(1, -1)
            sampler = IndexSampler(lambda _: rows, batches.shape[2], len(batches))
            self._open(sampler, 0, sharding, batches.shape[1:])
            self._next_step = 'eval'
        for index in batches:
            yield Chunk(self._prefetcher.next_batch(), put_on_mesh(index, sharding))

    def checksums(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        if self._prefetcher:
            self._prefetcher.close()
        self._prefetcher = self._next_step = None

    def _open(
        self, sampler: IndexSampler, step: int, sharding: NamedSharding, shape: tuple[int, ...]
    ) -> None:
        self.close()
        own = process_local_indices(sharding, shape)
        stream = BatchStream(
            self.data_source, sampler, first_step=step, workers=self._workers, own=own
        )
        self._prefetcher = DevicePrefetcher(stream, sharding, shape, self._config.input.prefetch)


InputPipeline = InMemoryPipeline | StreamingPipeline


def open_input(config: ConfigDict, dataset: Dataset, split: str, mesh: Mesh) -> InputPipeline:
    """The input pipeline of a split, in memory, on disk or streaming as `config.input` selects;
    UserError if the examples cannot be read, or have no room.
    """
    count = count_examples('split', split, dataset.split_sizes)
    if streams(config.input, dataset, count):
        source = keep_on_disk(dataset, split, config.input, config.dataset.cache_dir)
        return StreamingPipeline(source, config, mesh)
    examples = load_examples(dataset, split, config.dataset.cache_dir)
    return InMemoryPipeline(examples, config, mesh)


def epoch_permutations(
    seed: int, num_seeds: int, num_examples: int, epoch: int
) -> Int32[jax.Array, 'seeds examples']:
    """Each seed's permutation of an epoch, from 0, on the host, computed asynchronously."""
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


def eval_index(config: ConfigDict, count: int, mesh: Mesh) -> Int32[np.ndarray, 'batches 1 batch']:
    """Numbers of the examples of each batch of an evaluation, -1 for those that only fill the last.

    A batch has `config.batch_eval` examples, or all, rounded up to the devices.
    """
    devices = mesh.shape['data']
    batch = -(-min(config.batch_eval, count) // devices) * devices
    index = np.arange(-(-count // batch) * batch, dtype=np.int32)
    index[count:] = -1  # which as an index is the last example
    return index.reshape(-1, 1, batch)


def train_sharding(mesh: Mesh) -> NamedSharding:
    """Of arrays (seeds, steps, batch, …)."""
    return NamedSharding(mesh, PartitionSpec('seeds', None, 'data'))


def eval_sharding(mesh: Mesh) -> NamedSharding:
    """Of arrays (1, batch, …) that all seeds share."""
    return NamedSharding(mesh, PartitionSpec(None, 'data'))
