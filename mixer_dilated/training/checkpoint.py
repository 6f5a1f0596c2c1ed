"""Checkpoints, with orbax: what is restored is what was saved, or it is set aside."""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import re
import time
import warnings
import zlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict
from orbax.checkpoint import checkpoint_managers as policies

from mixer_dilated.config import differences, resolve
from mixer_dilated.errors import AllHostsError, HostLostError, UserError
from mixer_dilated.parallel.multihost import (
    any_host,
    broadcast,
    on_all_hosts,
    on_primary,
    to_numpy,
)
from mixer_dilated.training.run_folder import SHARED_DISK_SECONDS, versions
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
        """Steps that are done."""
        return step_number(self.state)

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
        """What is on the devices."""
        return {'state': self.state, 'sums': self.sums}

    @property
    def record(self) -> dict:
        """What is not, as JSON takes it."""
        return {'metrics': self.metrics, 'speed': self.speed, 'seconds': self.seconds}


def step_number(state: TrainState) -> int:
    """Steps that are done, the same for every seed."""
    return int(np.asarray(state.step.addressable_data(0)).flat[0])


def fingerprints(arrays, record: dict) -> dict[str, int]:
    """`array_checksums`, and 'record': that of a record as JSON."""
    of_record = zlib.crc32(json.dumps(record, sort_keys=True).encode())
    return {**array_checksums(arrays), 'record': of_record}


def array_checksums(arrays, prefix: str = '') -> dict[str, int]:
    """CRC-32 of the bytes of every array, by its path in the tree.

    Args:
      arrays: a tree; of those that lie on the devices of several processes each is brought
        together in turn.
      prefix: its own path in a larger tree.
    """
    if jax.process_count() == 1:
        arrays = jax.device_get(arrays)
    return {
        prefix + jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(to_numpy(leaf)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    }


# Errors of the system that mean damage; others, as too many open files, pass.
DAMAGE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR)


@contextlib.contextmanager
def told_in_a_line(what: str):
    """Turns whatever a library raises when it writes into one line."""
    try:
        yield
    # Orbax and its storage raise errors of many kinds, some from the thread that writes.
    except Exception as error:
        raise UserError(
            f'{what}: {cause_of(error)}. The one before it is undamaged: when that is mended, the '
            'same command goes on from there'
        ) from error


def of_the_system(error: Exception) -> int | None:
    """The number of the system's error behind an error, if there is one."""
    of_storage = re.search(r"os_error_code='(\d+)'", str(error))
    if of_storage:
        return int(of_storage[1])
    return error.errno if isinstance(error, OSError) else None


def cause_of(error: Exception) -> str:
    """Why orbax could not read or write, in the system's own words if that refused."""
    number = of_the_system(error)
    if number:
        return os.strerror(number)
    return ' '.join(str(error).split())[:200] or type(error).__name__


class CheckpointReader:
    """Reads a folder of checkpoints, by itself: one that is damaged here keeps no other process
    waiting.

    Args:
      folder: `workdir/checkpoints`.
      config: the run's config.
    """

    def __init__(self, folder: pathlib.Path, config: ml_collections.ConfigDict):
        self.folder, self.config = folder, config
        alone = jax.process_index()
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                read_only=True,
                create=False,
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=alone,
                    active_processes={alone},
                    barrier_sync_key_prefix=f'reader-{alone}',
                ),
            ),
        )

    def close(self) -> None:
        """Ends what reads."""
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the snapshots on disk, the newest first."""
        self._manager.reload()  # it does not see by itself what was saved since it looked
        return sorted(self._manager.all_steps(), reverse=True)

    def tried(self, function: Callable, step: int, *args) -> tuple:
        """What a function of a step returns, and None; or None and the error that says that the
        snapshot is damaged.

        Raises:
          UserError: the function does, or the system does not let the files be read.
        """
        try:
            return function(step, *args), None
        except UserError:
            raise
        # The libraries raise a dozen kinds of error on damaged files; all mean the same.
        except Exception as error:
            if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
                raise
            if of_the_system(error) not in (None, *DAMAGE):
                raise UserError(
                    f'{self.folder / str(step)}: cannot be read: {cause_of(error)}; when that is '
                    'mended, the same command goes on'
                ) from error
            return None, error

    def arrays_and_record(self, step: int, abstract: RunState):
        """What a snapshot holds, as this process reads it; for `checked`.

        Args:
          step: which snapshot.
          abstract: shapes, dtypes and shardings that the arrays shall have.
        """
        return self._manager.restore(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardRestore(abstract.arrays), record=ocp.args.JsonRestore()
            ),
        )

    def checked(self, step: int, found) -> RunState:
        """The snapshot of what `arrays_and_record` found, which all processes check together.

        Raises:
          ValueError: it is not what was saved.
          UserError: it is of another config than the folder says.
        """
        record = dict(found.record)
        noted = record.pop('checksums')
        _check_checksums(fingerprints(found.arrays, record), noted)
        self.check_config(step, record['config'])
        return RunState(
            *(found.arrays[name] for name in ('state', 'sums')),
            *(record[name] for name in ('metrics', 'speed', 'seconds')),
        )

    def params(self, step: int) -> dict:
        """The parameters of a snapshot, of every seed, nested, on the host; errors as `checked`."""
        # As NumPy's: the devices that had them need not be here.
        to_numpy = jax.tree.map(
            lambda leaf: np.empty(leaf.shape, leaf.dtype), self._described_arrays(step)
        )
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardRestore(to_numpy), record=ocp.args.JsonRestore()
            ),
        )
        params = found.arrays['state']['params']
        self.check_config(step, found.record['config'])
        checksums = array_checksums(params, prefix="['state'].params")
        _check_checksums(checksums, found.record['checksums'])
        return params

    def described(self, step: int) -> tuple[dict, dict]:
        """Config and shapes of the parameters of a snapshot, which may have damaged arrays."""
        found = self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))
        record = dict(found.record)
        noted = record.pop('checksums')
        _check_checksums(fingerprints({}, record), noted)
        params = flatten_dict(self._described_arrays(step)['state']['params'], sep='/')
        return record['config'], {name: tuple(leaf.shape) for name, leaf in params.items()}

    def check_config(self, step: int, there: dict) -> None:
        """Raises UserError if a snapshot is of another config than the folder says."""
        with contextlib.suppress(UserError):  # of an earlier version, with keys that are no more
            there = resolve(there)
        differing = differences(there, self.config)
        if differing:
            raise UserError(
                f'{self.folder / str(step)}: of another config than that of the folder (key: in '
                f'the checkpoint, in config.json): {"; ".join(differing)}. Put the config.json '
                'that was there back'
            )

    def _described_arrays(self, step: int) -> dict:
        """Shapes and dtypes of all arrays of a snapshot, nested."""
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.metadata(self.folder / str(step) / 'arrays').item_metadata.tree


def _check_checksums(found: dict[str, int], noted: dict[str, int]) -> None:
    differing = [name for name in found if noted.get(name) != found[name]]
    if differing:
        raise ValueError(f'the checksum of {differing[0]} is not the one noted')


DAMAGED = 'damaged_checkpoints'


class Checkpoints:
    """`workdir/checkpoints`: a folder a snapshot, named by its step, written in the background.

    Every folder appears whole or not at all, and holds checksums of its content.

    Args:
      workdir: the run's folder.
      config: the run's config.
      read_only: whether nothing is changed, and nothing can be saved.
    """

    def __init__(
        self, workdir: pathlib.Path, config: ml_collections.ConfigDict, *, read_only: bool = False
    ):
        self.folder = (workdir / 'checkpoints').absolute()
        self._damaged = workdir / DAMAGED
        self.config = config
        self._read_only = read_only
        self._best = _Best()
        keep = [policies.LatestN(config.checkpoints.keep), self._best]
        self._manager = (
            None
            if read_only
            else ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(keep),
                    cleanup_tmp_directories=True,  # of a run that was killed while it saved
                ),
            )
        )
        self._reader = CheckpointReader(self.folder, config)
        self._newest = None

    @property
    def newest(self) -> int | None:
        """Step of the newest snapshot that was restored or saved; None if there is none."""
        return self._newest

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is HostLostError:  # what is written together will not be finished
            return
        self._reader.close()
        if self._manager is None:
            return
        try:
            self.wait()
        except UserError:
            if kind is None:
                raise
        finally:
            self._manager.close()

    def any_there(self) -> bool:
        """Whether there is a checkpoint to restore, or one that was."""
        return bool(self._steps()) or broadcast(self._damaged.exists())

    def save(self, snapshot: RunState) -> None:
        """Begins to write a snapshot, which is not changed by what is done to its arrays next.

        Args:
          snapshot: of a step that has no checkpoint yet; else nothing is done.

        Raises:
          UserError: it cannot be written, or the one before could not.
        """
        if snapshot.step == self._newest:
            return
        if self.config.checkpoints.keep_best:
            self._best.step = snapshot.best_step
        record = {
            **snapshot.record,
            'config': self.config.to_dict(),
            'versions': versions(),
        }
        checked = {**record, 'checksums': fingerprints(snapshot.arrays, record)}
        with told_in_a_line(f'{self.folder}: a checkpoint cannot be written'):
            self._manager.save(
                snapshot.step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(snapshot.arrays),
                    record=ocp.args.JsonSave(checked),
                ),
            )
        self._newest = snapshot.step

    def wait(self) -> None:
        """Returns when what was saved is on disk. Raises UserError if it cannot be written."""
        with told_in_a_line(f'{self.folder}: a checkpoint cannot be written'):
            self._manager.wait_until_finished()

    def restore(self, abstract: RunState, *, expected: bool = False) -> RunState | None:
        """The newest snapshot that is undamaged, or None if there is none to expect.

        A damaged one is told of, and moved to `damaged_checkpoints` unless this only reads.

        Args:
          abstract: shapes, dtypes and shardings that the arrays shall have.
          expected: whether there must have been one.

        Raises:
          UserError: none is left that is undamaged.
        """
        steps = self._steps()
        for step in steps:
            found = self._undamaged(step, abstract)
            if found:
                self._newest = step
                return found
        if steps or broadcast(expected or self._damaged.exists()):
            raise AllHostsError(
                f'{self.folder}: the run was under way, and no undamaged checkpoint is left; to '
                'train anew from the start, name a new folder or remove this one'
            )
        return None

    def restore_best(self, abstract: RunState) -> RunState:
        """The snapshot of the highest test accuracy; arguments and errors as `restore`."""
        newest = self.restore(abstract, expected=True)
        step = newest.best_step
        there = step in self._steps()
        found = self._undamaged(step, abstract) if there else None
        if not found:
            raise AllHostsError(
                f'{self.folder}: the checkpoint of the highest test accuracy'
                + (f', step {step},' if step else '')
                + ' is not there; train in a new folder with '
                '--config.checkpoints.keep_best=True to keep it'
            )
        return found

    def params(self) -> dict:
        """The parameters of the newest undamaged snapshot, of every seed, nested, on the host.

        One process reads them alone, wherever they were trained.

        Raises:
          UserError: there is none.
        """
        for step in self._reader.steps():
            found, error = self._reader.tried(self._reader.params, step)
            if found:
                return found
            self._tell_damaged(step, error)
        raise UserError(f'{self.folder}: no undamaged checkpoint there; train the run first')

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters, of every seed, as 'head/kernel', in the newest snapshot that
        tells them, though its arrays may be damaged; {} if none does.

        Raises:
          UserError: it is of another config than the folder says.
        """
        return on_all_hosts(self._parameter_shapes, self._steps())

    def _parameter_shapes(self, steps: list[int]) -> dict[str, tuple[int, ...]]:
        for step in steps:
            try:
                config, shapes = self._reader.described(step)
            # Whatever is wrong with it is told when it is restored.
            except Exception:
                continue
            self._reader.check_config(step, config)
            return shapes
        return {}

    def _steps(self) -> list[int]:
        """Steps of the snapshots on disk, the newest first, as the first process sees them."""
        steps = broadcast(self._reader.steps())
        on_all_hosts(self._wait_for, steps)
        return steps

    def _wait_for(self, steps: list[int]) -> None:
        """Returns when this process sees snapshots, which a shared disk may show it late."""
        until = time.monotonic() + SHARED_DISK_SECONDS
        while not set(steps) <= set(self._reader.steps()):
            if time.monotonic() > until:
                raise UserError(
                    f'{self.folder}: this process does not see the checkpoints that process 0 '
                    'does; name a folder on a disk that all processes share'
                )
            time.sleep(0.1)

    def _undamaged(self, step: int, abstract: RunState) -> RunState | None:
        """A snapshot, which all processes find whole; None, which is told, if it is damaged."""
        tried, reader = self._reader.tried, self._reader
        found, error = on_all_hosts(tried, reader.arrays_and_record, step, abstract)
        if not any_host(error is not None):
            found, error = on_all_hosts(tried, reader.checked, step, found)
        if any_host(error is not None):
            self._tell_damaged(step, error or RuntimeError('so another process finds'))
            return None
        return found

    def _tell_damaged(self, step: int, error: Exception) -> None:
        folder, cause = self.folder / str(step), cause_of(error)
        if self._read_only:
            warnings.warn(f'{folder}: damaged, passed over: {cause}', stacklevel=4)
            return
        if self.config.checkpoints.other_versions:
            raise UserError(
                f'{folder}: cannot be read: {cause}; that may be for want of the versions that '
                'wrote it (versions.json): go on with those, or name a new folder'
            ) from error
        aside = self._damaged / f'{step}-{time.time_ns()}'
        on_primary(_set_aside, folder, aside)
        self._manager.reload()
        self._newest = max(self._steps(), default=None)
        warnings.warn(f'{folder}: damaged ({cause}); set aside as {aside}', stacklevel=4)


def _set_aside(folder: pathlib.Path, aside: pathlib.Path) -> None:
    aside.parent.mkdir(exist_ok=True)
    os.rename(folder, aside)


class _Best:
    """Orbax's question which checkpoints to preserve, answered: that of one step."""

    step = None

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        return [each.step == self.step for each in checkpoints]
