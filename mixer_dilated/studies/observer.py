"""What a study reports while it runs: `StudyObserver`."""

import contextlib
import pathlib
from collections.abc import Iterator

from mixer_dilated.studies.sweep import PreparedTrial
from mixer_dilated.training.run_progress import Progress


class StudyObserver:
    """Called while a study runs; this one does nothing, others print."""

    def on_rung(self, what: str, folder: pathlib.Path) -> None:
        """The next study of successive halving begins, 'rung 1 of 3' or 'final study'."""

    def on_start(self, trials: list[PreparedTrial]) -> None:
        """The study's trials are known, invalid ones among them."""

    def on_help(self) -> None:
        """Another process leads this study; this one trains trials that none has begun."""

    def on_wait(self, folders: list[pathlib.Path]) -> None:
        """Other processes train what is left, in these folders; called every half second."""

    @contextlib.contextmanager
    def trial(self, trial: PreparedTrial, finished: bool) -> Iterator[Progress]:
        """Around the training of a trial, or the reading of a finished one; yields the observer of
        its epochs."""
        yield Progress()

    def on_trial_end(self, trial: PreparedTrial, summary: dict, finished: bool) -> None:
        """A trial is trained, or was before."""

    def on_timing_start(self, num_trials: int, rounds: int) -> None:
        """`rounds` epochs of each trial are timed next, after one untimed."""

    def on_epoch_timed(self) -> None:
        """One of these epochs is done."""

    def on_measured(self, what: str, done: int, total: int) -> None:
        """Part of another measurement is done."""
