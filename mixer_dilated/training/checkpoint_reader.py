"""What one process reads of a run's checkpoints, and how it sees that one is damaged."""

import contextlib
import pathlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from mixer_dilated.config import differences, resolve
from mixer_dilated.errors import InputError
from mixer_dilated.training.orbax_errors import DAMAGE, cause_of, of_the_system
from mixer_dilated.training.snapshot import Snapshot, array_checksums, fingerprints


class CheckpointReader:
    """Reads a folder of checkpoints, by itself: one that is damaged here keeps no other process
    waiting.

    Args:
      folder: `workdir/checkpoints`.
      config: the run's config.
    """

    def __init__(self, folder: pathlib.Path, config: ml_collections.ConfigDict):
        self.folder, self._config = folder, config
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
          InputError: the function does, or the system does not let the files be read.
        """
        try:
            return function(step, *args), None
        except InputError:
            raise
        # The libraries raise a dozen kinds of error on damaged files; all mean the same.
        except Exception as error:
            if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
                raise
            if of_the_system(error) not in (None, *DAMAGE):
                raise InputError(
                    f'{self.folder / str(step)}: cannot be read: {cause_of(error)}; when that is '
                    'mended, the same command goes on'
                ) from error
            return None, error

    def arrays_and_record(self, step: int, abstract: Snapshot):
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

    def checked(self, step: int, found) -> Snapshot:
        """The snapshot of what `arrays_and_record` found, which all processes check together.

        Raises:
          ValueError: it is not what was saved.
          InputError: it is of another config than the folder says.
        """
        record = dict(found.record)
        noted = record.pop('checksums')
        _check_checksums(fingerprints(found.arrays, record), noted)
        self.check_config(step, record['config'])
        return Snapshot(
            *(found.arrays[name] for name in ('state', 'sums')),
            *(record[name] for name in ('metrics', 'speed', 'seconds')),
        )

    def params(self, step: int) -> dict:
        """The parameters of a snapshot, of every seed, nested, on the host; errors as `checked`."""
        # As NumPy's: the devices that had them need not be here.
        on_host = jax.tree.map(
            lambda leaf: np.empty(leaf.shape, leaf.dtype), self._described_arrays(step)
        )
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardRestore(on_host), record=ocp.args.JsonRestore()
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
        """Raises InputError if a snapshot is of another config than the folder says."""
        with contextlib.suppress(InputError):  # of an earlier version, with keys that are no more
            there = resolve(there)
        differing = differences(there, self._config)
        if differing:
            raise InputError(
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
