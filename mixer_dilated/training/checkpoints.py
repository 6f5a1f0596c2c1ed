"""Checkpoints: the state and the metrics so far, with orbax."""

import pathlib

import orbax.checkpoint as ocp
from flax.training.train_state import TrainState

from mixer_dilated.errors import InputError


class Checkpoints:
    """`workdir/checkpoints`: one folder an epoch, written in the background, the newest kept.

    Args:
      workdir: the run's folder.
      keep: newest checkpoints kept when another is saved; None to read only, nothing is written.
    """

    def __init__(self, workdir: pathlib.Path, keep: int | None = None):
        self.folder = (workdir / 'checkpoints').absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, read_only=keep is None, create=keep is not None
            ),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.wait_until_finished()
        self._manager.close()

    def any_there(self) -> bool:
        """Whether there is a checkpoint to restore."""
        return self._manager.latest_step() is not None

    def save(self, epoch: int, state: TrainState, history: list[dict]) -> None:
        """Writes the state after `epoch` epochs, and the metrics of all of them."""
        self._manager.save(
            epoch,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), history=ocp.args.JsonSave(history)
            ),
        )

    def restore(self, abstract_state: TrainState) -> tuple[TrainState, list[dict]] | None:
        """The newest state and its metrics, or None if there is no checkpoint.

        Args:
          abstract_state: shapes, dtypes and shardings that the state shall have.

        Raises:
          InputError: the newest checkpoint cannot be read.
        """
        epoch = self._manager.latest_step()
        if epoch is None:
            return None
        try:
            restored = self._manager.restore(
                epoch,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract_state), history=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, KeyError, OSError) as error:
            cause = ' '.join(str(error).split())[:200]
            raise InputError(
                f'{self.folder / str(epoch)}: this checkpoint cannot be read: {cause}; remove '
                'that folder to go on from the one before it'
            ) from error
        return restored.state, restored.history
