"""What a run tells while it runs, and whether it should stop."""

import pathlib

from mixer_dilated.training.task import Task


class Progress:
    """Told how far a run is; this one keeps silent, others print."""

    def starts(self, task: Task) -> None:
        """The config fits; data and programs are made ready next."""

    def restores(self) -> None:
        """From here on a stop is asked for with `stop_requested`, and nothing else ends it."""

    def already_finished(self, workdir: pathlib.Path) -> None:
        """The folder holds this very run, finished; its summary is returned as it is."""

    def initialised(self, initial: dict) -> None:
        """The run begins with weights of `config.init_from`; content of `initial.json`."""

    def compiled(self, task: Task, step: int) -> None:
        """All is ready; `step` steps were done by an earlier process."""

    def epoch_done(self, rows: list[dict], speed: dict) -> None:
        """An epoch is trained, and evaluated if it is its turn.

        Args:
          rows: its rows of `metrics.jsonl`, one a seed.
          speed: its row of `speed.jsonl`.
        """

    def trained(self) -> None:
        """All epochs are done and saved."""

    def stop_requested(self) -> bool:
        """Whether the run should save what it has and stop; asked about once a second."""
        return False
