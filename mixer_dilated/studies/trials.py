"""Trains the cells of a study, which several processes may share.

The first process leads: it trains, waits for the cells that others train, and compares. A later one
helps: it trains cells that no process has begun. The lock of a cell's folder says who trains it.
"""

import json
import pathlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence

import jax

from mixer_dilated.config import differences
from mixer_dilated.errors import BusyError, NonFiniteError, UserError
from mixer_dilated.studies.observer import StudyProgress
from mixer_dilated.studies.sweep import PreparedCell
from mixer_dilated.files import read_json
from mixer_dilated.training.run_folder import is_locked
from mixer_dilated.training.train import train_and_evaluate

POLL_SECONDS = 0.5  # seconds, at cells that other processes train
GRACE_SECONDS = 10  # seconds, for the first process to say what it studies
# What of `study.json` processes that share a study have in common.
SHARED = ('kind', 'axes', 'reference', 'cells', 'versions')


def train_all(
    cells: Sequence[PreparedCell], folder: pathlib.Path, progress: StudyProgress
) -> Iterator[tuple[PreparedCell, dict, bool]]:
    """Trains every cell, or waits until another process has.

    Args:
      cells: those that can be.
      folder: the study's.
      progress: told how far the study is.

    Yields:
      A cell, its summary, and whether it was trained before.

    Raises:
      NonFiniteError: the loss of some cells did not stay finite; all others are trained.
    """
    left, not_finite = list(cells), []
    while left:
        free = [cell for cell in left if not is_locked(_run(folder, cell))]
        if not free:
            progress.waits([_run(folder, cell) for cell in left])
            time.sleep(POLL_SECONDS)
        for cell in free:
            finished = is_finished(folder, cell)
            try:
                summary = _train(cell, folder, finished, progress, not_finite)
            except BusyError:  # another process was faster
                continue
            left.remove(cell)
            if summary:
                yield cell, summary, finished
    _raise_not_finite(not_finite, len(cells))


def help_train(
    cells: Sequence[PreparedCell],
    folder: pathlib.Path,
    description: Mapping,
    progress: StudyProgress,
) -> int:
    """Trains cells that no process has begun, while another leads; returns how many.

    Args:
      cells: all of the study.
      folder: the study's.
      description: content of `study.json`, as this process would write it.
      progress: told how far the study is.

    Raises:
      UserError: the other process works at another study.
      NonFiniteError: as in `train_all`.
    """
    _check_same(folder, description)
    free = [cell for cell in cells if not cell.impossible and _is_free(folder, cell)]
    if free:
        progress.starts(cells)
        progress.helps()
    trained, not_finite = 0, []
    for cell in free:
        if not _is_free(folder, cell):  # no longer
            continue
        try:
            summary = _train(cell, folder, False, progress, not_finite)
        except BusyError:
            continue
        if summary:
            progress.cell_done(cell, summary, False)
            trained += 1
    _raise_not_finite(not_finite, len(free))
    return trained


def is_finished(folder: pathlib.Path, cell: PreparedCell) -> bool:
    """Whether a cell of the study in a folder is trained."""
    return (_run(folder, cell) / 'summary.json').exists()


def _run(folder: pathlib.Path, cell: PreparedCell) -> pathlib.Path:
    return folder / 'cells' / cell.name


def _is_free(folder: pathlib.Path, cell: PreparedCell) -> bool:
    return not (is_finished(folder, cell) or is_locked(_run(folder, cell)))


def _train(
    cell: PreparedCell,
    folder: pathlib.Path,
    finished: bool,
    progress: StudyProgress,
    not_finite: list[str],
) -> dict | None:
    """The summary of a cell; None, and its label in `not_finite`, if its loss did not stay so."""
    try:
        with progress.cell(cell, finished) as epochs:
            return train_and_evaluate(
                cell.setup.config, _run(folder, cell), name=cell.label, progress=epochs
            )
    except NonFiniteError as error:
        not_finite.append(cell.label)
        warnings.warn(f'{cell.label}: {error}', stacklevel=3)
        return None
    finally:
        jax.clear_caches()  # no cell needs the programs of another


def _raise_not_finite(labels: Sequence[str], num_cells: int) -> None:
    if labels:
        raise NonFiniteError(
            f'the loss of {len(labels)} of {num_cells} cells did not stay finite '
            f'({", ".join(labels)}); the others are trained. Change those cells in the sweep '
            'file, or go on with --config.on_nonfinite=skip'
        )


def _check_same(folder: pathlib.Path, description: Mapping) -> None:
    """Raises UserError unless the process that leads has said that it makes the same study."""
    here = json.loads(json.dumps(description))
    until = time.monotonic() + GRACE_SECONDS
    while True:
        there = read_json(folder / 'study.json') if (folder / 'study.json').exists() else {}
        differing = [key for key in SHARED if there.get(key) != here[key]]
        differing += differences(there.get('config', {}), here['config'])
        if not differing:
            return
        if time.monotonic() > until:
            raise UserError(
                f'--workdir={folder}: another process works here at another study (what differs: '
                f'{"; ".join(differing)}); give the same command to help it, or name '
                'another folder'
            )
        time.sleep(POLL_SECONDS)
