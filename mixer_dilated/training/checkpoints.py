"""Checkpoints, with orbax: what is read back is what was saved, or it is set aside."""

import os
import pathlib
import time
import warnings

import ml_collections
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from mixer_dilated.errors import InputError, LostError, SharedError
from mixer_dilated.training.agreement import (
    any_says,
    first_numbers,
    first_says,
    on_every,
    on_first,
)
from mixer_dilated.training.checkpoint_reader import CheckpointReader
from mixer_dilated.training.environment import versions
from mixer_dilated.training.orbax_errors import cause_of, told_in_a_line
from mixer_dilated.training.snapshot import Snapshot, fingerprints

DAMAGED = 'damaged_checkpoints'
SEEN_WITHIN_SECONDS = 30  # by all processes, on a shared disk


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
        self._config = config
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
        if kind is LostError:  # what is written together will not be finished
            return
        self._reader.close()
        if self._manager is None:
            return
        try:
            self.wait()
        except InputError:
            if kind is None:
                raise
        finally:
            self._manager.close()

    def any_there(self) -> bool:
        """Whether there is a checkpoint to restore, or one that was."""
        return bool(self._steps()) or first_says(self._damaged.exists())

    def save(self, snapshot: Snapshot) -> None:
        """Begins to write a snapshot, which is not changed by what is done to its arrays next.

        Args:
          snapshot: of a step that has no checkpoint yet; else nothing is done.

        Raises:
          InputError: it cannot be written, or the one before could not.
        """
        if snapshot.step == self._newest:
            return
        if self._config.checkpoints.keep_best:
            self._best.step = snapshot.best_step
        record = {
            **snapshot.record,
            'config': self._config.to_dict(),
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
        """Returns when what was saved is on disk. Raises InputError if it cannot be written."""
        with told_in_a_line(f'{self.folder}: a checkpoint cannot be written'):
            self._manager.wait_until_finished()

    def restore(self, abstract: Snapshot, *, expected: bool = False) -> Snapshot | None:
        """The newest snapshot that is undamaged, or None if there is none to expect.

        A damaged one is told of, and moved to `damaged_checkpoints` unless this only reads.

        Args:
          abstract: shapes, dtypes and shardings that the arrays shall have.
          expected: whether there must have been one.

        Raises:
          InputError: none is left that is undamaged.
        """
        steps = self._steps()
        for step in steps:
            found = self._undamaged(step, abstract)
            if found:
                self._newest = step
                return found
        if steps or first_says(expected or self._damaged.exists()):
            raise SharedError(
                f'{self.folder}: the run was under way, and no undamaged checkpoint is left; to '
                'train anew from the start, name a new folder or remove this one'
            )
        return None

    def restore_best(self, abstract: Snapshot) -> Snapshot:
        """The snapshot of the highest test accuracy; arguments and errors as `restore`."""
        newest = self.restore(abstract, expected=True)
        step = newest.best_step
        there = step in self._steps()
        found = self._undamaged(step, abstract) if there else None
        if not found:
            raise SharedError(
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
          InputError: there is none.
        """
        for step in self._reader.steps():
            found, error = self._reader.tried(self._reader.params, step)
            if found:
                return found
            self._tell_damaged(step, error)
        raise InputError(f'{self.folder}: no undamaged checkpoint there; train the run first')

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters, of every seed, as 'head/kernel', in the newest snapshot that
        tells them, though its arrays may be damaged; {} if none does.

        Raises:
          InputError: it is of another config than the folder says.
        """
        return on_every(self._parameter_shapes, self._steps())

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
        steps = first_numbers(self._reader.steps())
        on_every(self._wait_for, steps)
        return steps

    def _wait_for(self, steps: list[int]) -> None:
        """Returns when this process sees snapshots, which a shared disk may show it late."""
        until = time.monotonic() + SEEN_WITHIN_SECONDS
        while not set(steps) <= set(self._reader.steps()):
            if time.monotonic() > until:
                raise InputError(
                    f'{self.folder}: this process does not see the checkpoints that process 0 '
                    'does; name a folder on a disk that all processes share'
                )
            time.sleep(0.1)

    def _undamaged(self, step: int, abstract: Snapshot) -> Snapshot | None:
        """A snapshot, which all processes find whole; None, which is told, if it is damaged."""
        tried, reader = self._reader.tried, self._reader
        found, error = on_every(tried, reader.arrays_and_record, step, abstract)
        if not any_says(error is not None):
            found, error = on_every(tried, reader.checked, step, found)
        if any_says(error is not None):
            self._tell_damaged(step, error or RuntimeError('so another process finds'))
            return None
        return found

    def _tell_damaged(self, step: int, error: Exception) -> None:
        folder, cause = self.folder / str(step), cause_of(error)
        if self._read_only:
            warnings.warn(f'{folder}: damaged, passed over: {cause}', stacklevel=4)
            return
        if self._config.checkpoints.other_versions:
            raise InputError(
                f'{folder}: cannot be read: {cause}; that may be for want of the versions that '
                'wrote it (versions.json): go on with those, or name a new folder'
            ) from error
        aside = self._damaged / f'{step}-{time.time_ns()}'
        on_first(_set_aside, folder, aside)
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
