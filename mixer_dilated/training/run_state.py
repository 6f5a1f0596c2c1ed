"""The state of a run between two steps, which a checkpoint holds: arrays, metrics, checksums."""

import dataclasses
import json
import math
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.training.train_state import TrainState

from mixer_dilated.parallel.multihost import process_count, to_numpy


class TrainMetrics(NamedTuple):
    """Sums over the steps of an epoch so far; a skipped step counts in the last two only.

    Attributes:
      loss: float32, sum of the losses.
      correct: int32, examples.
      skipped: int32, steps whose loss or gradient was not finite; with `config.on_nonfinite` =
        'stop' accelerators apply them nevertheless, and the run ends.
      first_skipped: int32, the first of them, counted from 1 over the whole run; 0 if none.
    """

    loss: jax.Array
    correct: jax.Array
    skipped: jax.Array
    first_skipped: jax.Array

    @classmethod
    def empty(cls, shape: tuple[int, ...] = ()) -> 'TrainMetrics':
        """Of no step, on the host; shape (seeds,), or () for a single seed."""
        return cls(np.zeros(shape, np.float32), *(np.zeros(shape, np.int32) for _ in range(3)))

    def merge(self, step_metrics: dict[str, jax.Array], step_number: jax.Array) -> 'TrainMetrics':
        """The sums with the metrics of one `train_step` more, whose number counts from 1."""
        finite = step_metrics['finite']
        first = ~finite & (self.skipped == 0)
        return TrainMetrics(
            loss=self.loss + jnp.where(finite, step_metrics['loss'], 0),
            correct=self.correct + jnp.where(finite, step_metrics['correct'], 0),
            skipped=self.skipped + ~finite,
            first_skipped=jnp.where(first, step_number, self.first_skipped),
        )

    def compute(self, num_steps: int, batch: int) -> dict[str, np.ndarray]:
        """'loss' (mean over the steps), 'accuracy' and 'skipped', on the host.

        If all of `num_steps` were skipped, loss and accuracy are NaN.
        """
        sums = TrainMetrics(*map(np.asarray, self))
        counted = np.where(sums.skipped < num_steps, num_steps - sums.skipped, np.nan)
        return {
            'loss': sums.loss / counted,
            'accuracy': sums.correct / (counted * batch),
            'skipped': sums.skipped,
        }


@dataclasses.dataclass(frozen=True)
class RunState:
    """A run between two steps.

    The step, which is part of the state, is also the position in the data and in the random
    numbers: both follow from it and `config.seed`.
    """

    state: TrainState  # of every seed
    epoch_metrics: TrainMetrics  # over the steps of the present epoch, of every seed
    metrics: list[dict] = dataclasses.field(default_factory=list)  # rows of `metrics.jsonl`
    speed: list[dict] = dataclasses.field(default_factory=list)  # rows of `speed.jsonl`
    seconds: float = 0.0  # that the steps of the present epoch took so far

    @property
    def step(self) -> int:
        """Steps that are done, the same for every seed."""
        return int(np.asarray(self.state.step.addressable_data(0)).flat[0])

    @property
    def epochs_done(self) -> int:
        """Epochs whose metrics are known."""
        return self.metrics[-1]['epoch'] if self.metrics else 0

    @property
    def best_step(self) -> int | None:
        """Step of the epoch of the highest validation accuracy, mean over seeds; of ties that of
        the lowest loss. None if no epoch was evaluated.

        Runs of earlier versions have no validation split, and went by their test accuracy.
        """
        ranks = {}
        for row in self.metrics:
            split = 'val' if 'val_accuracy' in row else 'test'
            accuracy, loss = row[f'{split}_accuracy'], row[f'{split}_loss']
            if accuracy is not None:
                rank = accuracy, -math.inf if loss is None else -loss
                ranks.setdefault(row['step'], []).append(rank)
        means = {step: np.mean(of_seeds, axis=0).tolist() for step, of_seeds in ranks.items()}
        return max(means, key=means.get, default=None)

    @property
    def arrays(self) -> dict:
        return {'state': self.state, 'sums': self.epoch_metrics}

    @property
    def metadata(self) -> dict:
        return {'metrics': self.metrics, 'speed': self.speed, 'seconds': self.seconds}


def array_checksums(arrays, prefix: str = '') -> dict[str, int]:
    """CRC-32 of the bytes of every array, by its path in the tree, whose own path is `prefix`.

    Those that lie on the devices of several hosts are gathered one by one.
    """
    if process_count() == 1:
        arrays = jax.device_get(arrays)
    return {
        prefix + jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(to_numpy(leaf)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    }


def metadata_checksum(record: dict) -> int:
    """CRC-32 of a record of JSON without its checksums."""
    content = {name: value for name, value in record.items() if name != 'checksums'}
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def check_checksums(checksums: dict[str, int], recorded: dict[str, int]) -> None:
    """Raises ValueError, naming an array, where checksums differ from those recorded."""
    differing = [name for name in checksums if recorded.get(name) != checksums[name]]
    if differing:
        raise ValueError(f'the checksum of {differing[0]} is not the one recorded')
