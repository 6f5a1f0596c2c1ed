"""A study from a sweep to its folder: trains what is not trained yet, times, compares, writes."""

import collections
import contextlib
import json
import pathlib
from collections.abc import Mapping, Sequence

from mixer_dilated.config import differences
from mixer_dilated.errors import BusyError, UserError
from mixer_dilated.studies import results
from mixer_dilated.studies.trials import help_train, is_finished, train_all
from mixer_dilated.studies.observer import StudyProgress
from mixer_dilated.studies.resolution import resolution_rows, resolution_statistics
from mixer_dilated.studies.robustness import robustness_rows, robustness_statistics
from mixer_dilated.studies.sweep import PreparedCell, Sweep, prepare, reference_of
from mixer_dilated.studies.epoch_times import epoch_seconds
from mixer_dilated.files import read_json, write_json, write_json_lines
from mixer_dilated.training.run_folder import check_workdir, environment, lock_folder

# Epochs of each cell that are timed: of a few cells more than of many.
TIMED_ROUNDS, FEW_CELLS, TIMED_ROUNDS_OF_MANY = 9, 20, 3
# Programs that are held at once for timing; each takes some 450 of the 65 530 memory mappings that
# Linux gives a process.
TIMED_AT_ONCE = 40
OF_ALL_CELLS = ('statistics.json', 'robustness.jsonl', 'resolution.jsonl')


def run_study(
    sweep: Sweep,
    folder: pathlib.Path,
    *,
    command: str,
    progress: StudyProgress | None = None,
) -> dict | None:
    """Runs a study in a folder; a cell that an earlier process trained there is not trained again.

    Where another process makes the same study, this one helps to train its cells (see `cells.py`).

    Every cell is a run in `folder/cells/NAME`. When all are trained, their epochs are timed in
    turns (of many cells, those that are compared), and the table, the statistics and the sentences
    are written. The costs of a resolution study and the accuracies on corrupted images are measured
    anew each time.

    Args:
      sweep: what to compare.
      folder: the study's folder; made if it is not there.
      command: the command that makes it, for the report.
      progress: told how far the study is.

    Returns:
      The content of `statistics.json`; None if another process leads, which writes it.

    Raises:
      UserError: the sweep cannot be, the folder holds another study, or another process works
        in it at another one, or at one of kind 'resolution', which is not shared.
      NonFiniteError: the loss of some cells did not stay finite; all others are trained.
    """
    progress = progress or StudyProgress()
    cells = prepare(sweep)
    check_workdir(folder, 'study', 'study.json')
    description = _description(sweep, cells, command)
    while True:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock_folder(folder))
            except BusyError:
                if sweep.kind == 'resolution':
                    raise
            else:
                _claim(folder, description)
                progress.starts(cells)
                return _lead(sweep, cells, folder, progress)
        # Where it has helped, the process that led may be gone meanwhile.
        if not help_train(cells, folder, description, progress):
            return None


def _lead(
    sweep: Sweep, cells: list[PreparedCell], folder: pathlib.Path, progress: StudyProgress
) -> dict:
    """Everything, in a locked folder; returns the statistics, which are written."""
    if sweep.kind == 'resolution':
        rows = list(resolution_rows(cells, sweep.image_sizes, progress))
        write_json_lines(folder / 'resolution.jsonl', rows)
        found = resolution_statistics(cells, rows, _references(sweep, cells))
    else:
        found = _trained(sweep, cells, folder, progress)
    write_json(folder / 'statistics.json', found)
    return found


def _trained(
    sweep: Sweep, cells: list[PreparedCell], folder: pathlib.Path, progress: StudyProgress
) -> dict:
    """Trains and times the cells, writes the tables and returns the statistics."""
    possible = [cell for cell in cells if not cell.impossible]
    summaries, timing = {}, folder / 'timing.json'
    known = read_json(timing) if timing.exists() else {}
    for cell in possible:  # times of what had this name before are none of its own
        if not is_finished(folder, cell) and known.pop(cell.name, None):
            write_json(timing, known)
    for cell, summary, finished in train_all(possible, folder, progress):
        summaries[cell.name] = summary
        progress.cell_done(cell, summary, finished)
        results.write_table(folder, results.rows(cells, summaries, known))
    references = _references(sweep, cells)
    rounds = TIMED_ROUNDS if len(possible) <= FEW_CELLS else TIMED_ROUNDS_OF_MANY
    for group in timed_together(possible, references):
        if not known.keys() >= {cell.name for cell in group}:
            known |= epoch_seconds({cell.name: cell.setup for cell in group}, rounds, progress)
            write_json(timing, known)
    rows = results.rows(cells, summaries, known)
    results.write_table(folder, rows)
    statistics = results.statistics(sweep.kind, cells, rows, references, known)
    if sweep.kind == 'robustness':
        corrupted = list(robustness_rows(possible, folder, progress))
        write_json_lines(folder / 'robustness.jsonl', corrupted)
        statistics['verdicts'] += robustness_statistics(possible, corrupted, references)
    return statistics


def timed_together(
    cells: Sequence[PreparedCell], references: Mapping[str, str], at_once: int = TIMED_AT_ONCE
) -> list[list[PreparedCell]]:
    """Groups of cells whose epochs are timed in turns; what is compared is in one group.

    Args:
      cells: to be timed.
      references: {cell: cell that it is compared with}.
      at_once: the most cells in a group; if more are compared with the same cell, some of them are
        not in its group.
    """
    families = collections.defaultdict(list)
    for cell in cells:
        families[references.get(cell.name, cell.name)].append(cell)
    groups = [[]]
    for family in families.values():
        for start in range(0, len(family), at_once):
            part = family[start : start + at_once]
            if len(groups[-1]) + len(part) > at_once:
                groups.append([])
            groups[-1] += part
    return groups


def _references(sweep: Sweep, cells: Sequence[PreparedCell]) -> dict[str, str]:
    """{cell: cell that it is compared with}."""
    return {
        cell.name: found.name
        for cell in cells
        if not cell.impossible and (found := reference_of(cell, cells, sweep.reference))
    }


def _description(sweep: Sweep, cells: list[PreparedCell], command: str) -> dict:
    """The content of `study.json`."""
    return {
        'kind': sweep.kind,
        'title': sweep.title,
        'question': sweep.question,
        'command': command,
        'config': sweep.base.to_dict(),
        **environment(),
        'axes': [*cells[0].settings],
        'reference': dict(sweep.reference) if sweep.reference else None,
        'cells': [
            {
                'name': cell.name,
                'label': cell.label,
                'settings': dict(cell.settings),
                'changes': dict(cell.changes),
                'impossible': cell.impossible,
            }
            for cell in cells
        ],
    }


def _claim(folder: pathlib.Path, description: Mapping) -> None:
    """Makes the folder this study's own; another kind, other axes or settings are refused."""
    path = folder / 'study.json'
    if path.exists():
        there = read_json(path)
        for key in ('kind', 'axes'):
            if there.get(key) != description[key]:
                raise UserError(
                    f'--workdir={folder}: holds another study ({key} {there.get(key)!r}, here '
                    f'{description[key]!r}); name another folder'
                )
        differing = differences(there.get('config', {}), description['config'])
        if differing:
            raise UserError(
                f'--workdir={folder}: holds this study with other settings (key: there, '
                f'here): {"; ".join(differing)}. Name another folder, or give those settings'
            )
        if there.get('cells') != json.loads(json.dumps(description['cells'])):
            for name in OF_ALL_CELLS:  # they speak of cells that are no longer all
                (folder / name).unlink(missing_ok=True)
    write_json(path, description)
