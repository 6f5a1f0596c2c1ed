"""What a run tells while it runs."""

import pathlib

from mixer_dilated.training.task import Task


class Progress:
    """Told how far a run is; this one keeps silent, others print."""

    def starts(self, task: Task) -> None:
        """The config fits; data and programs are made ready next."""

    def already_finished(self, workdir: pathlib.Path) -> None:
        """The folder holds this very run, finished; its summary is returned as it is."""

    def compiled(self, task: Task, epochs_done: int) -> None:
        """All is ready; `epochs_done` epochs were done by an earlier process."""

    def epoch_done(self, rows: list[dict]) -> None:
        """An epoch is trained, and evaluated if it is its turn; `rows` are its metrics by seed."""
