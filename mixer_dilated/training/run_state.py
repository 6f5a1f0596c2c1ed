"""The state of a run between two steps: what a checkpoint holds, and its checksums."""

import dataclasses
import json
import zlib

import jax
import numpy as np
from flax.training.train_state import TrainState

from mixer_dilated.parallel.multihost import to_numpy
from mixer_dilated.training.step import TrainMetrics


@dataclasses.dataclass(frozen=True)
class RunState:
    """A run between two steps.

    The step, which is part of the state, is also the position in the data and in the random
    numbers: both follow from it and `config.seed`.

    Attributes:
      state: parameters, optimizer state and step of every seed.
      sums: of the steps of the present epoch, of every seed.
      metrics: rows of `metrics.jsonl` of the epochs that are done.
      speed: rows of `speed.jsonl` of these epochs.
      seconds: that the steps of the present epoch took so far.
    """

    state: TrainState
    sums: TrainMetrics
    metrics: list[dict] = dataclasses.field(default_factory=list)
    speed: list[dict] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

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
        """Step of the epoch of the highest test accuracy, mean over the seeds; the first of ties.

        None if no epoch was evaluated.
        """
        accuracies = {}
        for row in self.metrics:
            if row['test_accuracy'] is not None:
                accuracies.setdefault(row['step'], []).append(row['test_accuracy'])
        return max(accuracies, key=lambda step: sum(accuracies[step]), default=None)

    @property
    def arrays(self) -> dict:
        """On the devices."""
        return {'state': self.state, 'sums': self.sums}

    @property
    def record(self) -> dict:
        """Of JSON."""
        return {'metrics': self.metrics, 'speed': self.speed, 'seconds': self.seconds}


def array_checksums(arrays, prefix: str = '') -> dict[str, int]:
    """CRC-32 of the bytes of every array, by its path in the tree.

    Args:
      arrays: a tree; of those that lie on the devices of several hosts each is gathered in turn.
      prefix: its own path in a larger tree.
    """
    if jax.process_count() == 1:
        arrays = jax.device_get(arrays)
    return {
        prefix + jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(to_numpy(leaf)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    }


def record_checksum(record: dict) -> int:
    """CRC-32 of a record of JSON without its checksums."""
    content = {name: value for name, value in record.items() if name != 'checksums'}
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def check_checksums(checksums: dict[str, int], recorded: dict[str, int]) -> None:
    """Raises ValueError, naming an array, where checksums differ from those recorded."""
    differing = [name for name in checksums if recorded.get(name) != checksums[name]]
    if differing:
        raise ValueError(f'the checksum of {differing[0]} is not the one recorded')
