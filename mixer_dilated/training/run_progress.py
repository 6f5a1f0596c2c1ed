"""What a run tells while it trains: `Progress`."""

import pathlib

import numpy as np

from mixer_dilated.training.setup import Setup


class Progress:
    """Observes a run, and may ask it to stop; this one is silent."""

    def on_start(self, setup: Setup) -> None:
        """The config fits; next the data is opened and the functions are compiled."""

    def on_restore(self) -> None:
        """From here to `on_train_end` the run polls `stop_requested`; else a signal may end it."""

    def on_already_finished(self, workdir: pathlib.Path) -> None:
        """The folder holds this run, finished; its summary is returned."""

    def on_initial_params(self, initial: dict) -> None:
        """The weights of `config.init_from` are loaded; gets the content of `initial.json`."""

    def on_ready(self, setup: Setup, step: int, counts: np.ndarray | None) -> None:
        """Training starts, after `step` steps, on examples whose `class_counts` are given."""

    def on_epoch_end(self, rows: list[dict], speed: dict) -> None:
        """An epoch is done; gets its rows of `metrics.jsonl`, one a seed, and of `speed.jsonl`."""

    def on_train_end(self) -> None:
        """All epochs are done and saved."""

    def stop_requested(self) -> bool:
        """Whether the run should save and stop; polled about once a second."""
        return False
