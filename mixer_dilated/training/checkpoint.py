"""Checkpoints, with orbax: what is restored is what was saved, or it is set aside."""

import contextlib
import logging
import pathlib
import time
import warnings

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from mixer_dilated.config import resolve
from mixer_dilated.config_differences import differences, differences_on_resume
from mixer_dilated.errors import AllHostsError, HostLostError, UserError
from mixer_dilated.parallel.multihost import (
    any_host,
    broadcast,
    on_all_hosts,
    on_primary,
    process_count,
    wait_until_visible,
)
from mixer_dilated.paths import is_bucket, orbax_path
from mixer_dilated.training.orbax_errors import (
    catch_damage,
    error_cause,
    open_manager,
    write_errors,
)
from mixer_dilated.training.run_folder import check_is_last, versions
from mixer_dilated.training.run_state import (
    RunState,
    array_checksums,
    check_checksums,
    metadata_checksum,
)

DAMAGED = 'damaged_checkpoints'
# In orbax's warnings that a manager only reads, and of a file that is not needed.
NOTES = ('read_only=True', 'is read only', 'Metadata file does not exist')


def _is_needed(record: logging.LogRecord) -> bool:
    return not any(note in str(record.msg) for note in NOTES)


class Checkpoints:
    """`workdir/checkpoints`: a folder a checkpoint, named by its step, written in the background.

    Every folder appears whole or not at all, and holds checksums of its content. With `read_only`
    nothing is changed, and nothing can be saved.

    Attributes:
      newest: step of the newest checkpoint that was restored or saved; None if there is none.
    """

    def __init__(self, workdir: pathlib.Path, config: ConfigDict, *, read_only: bool = False):
        logging.getLogger('absl').addFilter(_is_needed)
        self.folder = orbax_path(workdir / 'checkpoints')
        self.config, self.newest = config, None
        self._damaged = workdir / DAMAGED
        self._best, self._writer = _KeepStep(), None
        if not read_only:
            keep = [policies.LatestN(config.checkpoints.keep), self._best]
            self._writer = open_manager(
                self.folder,
                preservation_policy=policies.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=True,  # of a run that was killed while it saved
                # By the wall clock, which may be set, or pass a night in which a machine sleeps.
                async_options=ocp.options.AsyncOptions(timeout_secs=7 * 24 * 3600),
            )
        # Each host reads by itself: a checkpoint that one finds damaged keeps no other waiting.
        host = jax.process_index() if process_count() > 1 else 0
        alone = ocp.options.MultiprocessingOptions(host, {host}, f'reader-{host}')
        self._reader = open_manager(
            self.folder, read_only=True, create=False, multiprocessing_options=alone
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        logging.getLogger('absl').removeFilter(_is_needed)
        if kind is HostLostError:  # what hosts write together will not be finished
            return
        self._reader.close()
        if self._writer is None:
            return
        try:
            with write_errors(self.folder), contextlib.ExitStack() as stack:
                stack.callback(self._writer.close)  # which raises again what the next line does
                self._writer.wait_until_finished()
        except UserError:
            if kind is None:
                raise

    def has_any(self) -> bool:
        """Whether the run has saved a checkpoint, even one that was set aside as damaged."""
        return bool(self._steps()) or broadcast(self._damaged.exists())

    def save(self, run: RunState) -> None:
        """Begins to write a checkpoint, which later changes of its arrays do not affect.

        Nothing is done if its step has one. Raises UserError if it, or the last, cannot be written.
        """
        if run.step == self.newest:
            return
        if self.config.checkpoints.keep_best:
            self._best.step = run.best_step
        record = {**run.metadata, 'config': self.config.to_dict(), 'versions': versions()}
        record['checksums'] = {**array_checksums(run.arrays), 'record': metadata_checksum(record)}
        items = {'arrays': ocp.args.StandardSave(run.arrays), 'record': ocp.args.JsonSave(record)}
        with write_errors(self.folder):
            if not is_bucket(self.folder):
                self.folder.stat()  # orbax would make a folder that is gone again
            self._writer.save(run.step, args=ocp.args.Composite(**items))
        self.newest = run.step

    def wait(self) -> None:
        """Returns when what was saved is on disk. Raises UserError if it cannot be written."""
        with write_errors(self.folder):
            self._writer.wait_until_finished()

    def restore(self, abstract: RunState, *, expected: bool = False) -> RunState | None:
        """The newest checkpoint that restores and whose checksums hold; None if none was saved.

        A damaged one is a warning, and is moved to `damaged_checkpoints` unless this only reads.
        Raises UserError if none is left, or none is there though one is `expected`.
        """
        steps = self._steps()
        for step in steps:
            if run := self._restore_step(step, abstract):
                self.newest = step
                self._check_is_last(step, steps)
                return run
        if steps or broadcast(expected or self._damaged.exists()):
            raise AllHostsError(
                f'{self.folder}: the run was under way, and no undamaged checkpoint is left; to '
                'train anew from the start, name a new folder or remove this one'
            )
        return None

    def restore_best(self, abstract: RunState) -> RunState:
        """The checkpoint of the highest validation accuracy; arguments and errors as `restore`."""
        kept = self.config.checkpoints.keep_best
        step = self.restore(abstract, expected=True).best_step if kept else None
        run = self._restore_step(step, abstract) if step in self._steps() else None
        if run:
            return run
        which = f', step {step},' if step else ''
        raise AllHostsError(
            f'{self.folder}: the checkpoint of the highest validation accuracy{which} is not '
            'there; to keep it, train in a new folder with --config.checkpoints.keep_best=True '
            'and --config.dataset.val_split=SPLIT'
        )

    def params(self) -> dict:
        """The parameters of the newest undamaged checkpoint, of every seed, nested, on the host.

        One process reads them alone, wherever they were trained. Raises UserError without any.
        """
        steps = self._local_steps()
        for step in steps:
            params, error = catch_damage(self._path(step), self._read_params, step)
            if params:
                self._check_is_last(step, steps)
                return params
            self._set_aside(step, error)
        raise UserError(f'{self.folder}: no undamaged checkpoint there; train the run first')

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """{'head/kernel': shape} of all parameters, of every seed, in the newest checkpoint that
        tells them, though its arrays may be damaged; {} if none does.
        """
        for step in self._local_steps():
            try:
                record = self._read(step).record
                check_checksums({'record': metadata_checksum(record)}, record['checksums'])
                params = flatten_dict(self._array_metadata(step)['state']['params'], sep='/')
            except Exception:  # raised again when it is restored
                continue
            self._check_config(step, record['config'])
            return {name: tuple(leaf.shape) for name, leaf in params.items()}
        return {}

    def _restore_step(self, step: int, abstract: RunState) -> RunState | None:
        """A checkpoint that all hosts find undamaged, else None."""
        result = abstract.arrays
        for function in (self._read, self._check_restored):
            result, error = on_all_hosts(catch_damage, self._path(step), function, step, result)
            if any_host(error is not None):
                self._set_aside(step, error or RuntimeError('damaged on another host'))
                return None
        return result

    def _read(self, step: int, abstract=None):
        """The record of a checkpoint, and its arrays if their shapes are given."""
        items = {'record': ocp.args.JsonRestore()}
        if abstract is not None:
            items['arrays'] = ocp.args.StandardRestore(abstract)
        return self._reader.restore(step, args=ocp.args.Composite(**items))

    def _check_restored(self, step: int, restored) -> RunState:
        record, arrays = restored.record, restored.arrays
        checksums = {**array_checksums(arrays), 'record': metadata_checksum(record)}
        check_checksums(checksums, record['checksums'])
        self._check_config(step, record['config'])
        metadata = {name: record[name] for name in ('metrics', 'speed', 'seconds')}
        return RunState(arrays['state'], arrays['sums'], **metadata)

    def _read_params(self, step: int) -> dict:
        # As NumPy arrays: the devices that had them need not be here.
        leaves = self._array_metadata(step)
        abstract = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), leaves)
        restored = self._read(step, abstract)
        params = restored.arrays['state']['params']
        self._check_config(step, restored.record['config'])
        checksums = array_checksums(params, prefix="['state'].params")
        check_checksums(checksums, restored.record['checksums'])
        return params

    def _array_metadata(self, step: int) -> dict:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.metadata(self._path(step) / 'arrays').item_metadata.tree

    def _check_config(self, step: int, recorded: dict) -> None:
        try:
            differing = differences_on_resume(resolve(recorded, warn=False), self.config)
        except UserError:  # of an earlier version, with keys that are gone
            differing = differences(recorded, self.config)
        if differing:
            raise UserError(
                f'{self._path(step)}: of another config than that of the folder (key: in the '
                f'checkpoint, in config.json): {"; ".join(differing)}. Put the config.json that '
                'was there back'
            )

    def _path(self, step: int) -> pathlib.Path:
        return self.folder / str(step)

    def _check_is_last(self, step: int, steps: list[int]) -> None:
        if self._writer is None and step == steps[0]:  # of a damaged one is warned
            check_is_last(self._damaged.parent, self.config, step)

    def _set_aside(self, step: int, error: Exception) -> None:
        folder, cause = self._path(step), error_cause(error)
        if self._writer is None:
            warnings.warn(f'{folder}: damaged, passed over: {cause}', stacklevel=4)
            return
        aside = self._damaged / f'{step}-{time.time_ns()}'
        on_primary(_rename, folder, aside)
        self._writer.reload()
        self.newest = max(self._steps(), default=None)
        warnings.warn(f'{folder}: damaged ({cause}); set aside as {aside}', stacklevel=4)

    def _local_steps(self) -> list[int]:
        self._reader.reload()  # it does not see by itself what was saved since
        return sorted(self._reader.all_steps(), reverse=True)

    def _steps(self) -> list[int]:
        """Steps of the checkpoints on disk, the newest first, as the first host sees them."""
        steps = broadcast(self._local_steps())
        on_all_hosts(
            wait_until_visible,
            lambda: set(steps) <= set(self._local_steps()),
            f'{self.folder}: this process does not see the checkpoints that process 0 does; name '
            'a folder on a disk that all processes share',
        )
        return steps


class _KeepStep:
    """A preservation policy of orbax: keeps the checkpoint of one step."""

    step = None

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


def _rename(folder: pathlib.Path, target: pathlib.Path) -> None:
    if is_bucket(folder):  # s3fs renames no folders
        _copy_files(folder, target)
        folder.rmtree()
    else:
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)


def _copy_files(folder: pathlib.Path, target: pathlib.Path) -> None:
    for path in folder.iterdir():
        copy = _copy_files if path.is_dir() else type(path).copy
        copy(path, target / path.name)
