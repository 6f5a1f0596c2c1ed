"""What a study tells while it runs."""

import contextlib
import pathlib
from collections.abc import Iterator

from mixer_dilated.studies.sweep import PreparedCell
from mixer_dilated.training.train import Progress


class StudyProgress:
    """Told how far a study is; this one keeps silent, others print."""

    def starts(self, cells: list[PreparedCell]) -> None:
        """The study's cells are known, those that cannot be among them."""

    def helps(self) -> None:
        """Another process makes this study; this one trains cells that none has begun."""

    def waits(self, folders: list[pathlib.Path]) -> None:
        """The cells that are left, in these folders, are in other processes' hands; told now and
        then."""

    @contextlib.contextmanager
    def cell(self, cell: PreparedCell, finished: bool) -> Iterator[Progress]:
        """Around the training of one cell; yields what is told of its epochs.

        Args:
          cell: which.
          finished: an earlier process trained it; it is only read.
        """
        yield Progress()

    def cell_done(self, cell: PreparedCell, summary: dict, finished: bool) -> None:
        """A cell is trained, or was before."""

    def times(self, num_cells: int, rounds: int) -> None:
        """All cells are trained; their epochs are timed next: `rounds` of each and one before."""

    def epoch_timed(self) -> None:
        """One of these epochs is done."""

    def measured(self, what: str, done: int, total: int) -> None:
        """Part of another measurement is done."""
