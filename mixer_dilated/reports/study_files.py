"""The files of a study, read and checked: what its report is made from."""

import dataclasses
import pathlib
from collections.abc import Mapping

import ml_collections

from mixer_dilated.config import changed, resolve
from mixer_dilated.errors import UserError
from mixer_dilated.reports.checked_files import (
    NUMBER,
    OPTIONAL,
    check,
    damaged,
    read_object,
    read_rows,
)
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.reports.run_files import Run, read_run

KINDS = ('table1', 'sweep', 'little_data', 'resolution', 'robustness')
_STUDY = {
    **dict.fromkeys(('kind', 'title', 'question', 'command'), str),
    **dict.fromkeys(('axes', 'cells'), list),
}
_CELL = {**dict.fromkeys(('name', 'label', 'impossible'), str), 'settings': dict}
_ROBUSTNESS = {
    'cell': str,
    'corruption': str,
    'strength': NUMBER,
    'seed': int,
    'accuracy': NUMBER,
}
_RESOLUTION = {
    'cell': str,
    'batch': int,
    **dict.fromkeys(('image_size', 'num_tokens', 'flops_per_image', 'memory_bytes'), NUMBER),
    **dict.fromkeys(('step_seconds', 'step_seconds_low', 'step_seconds_high'), NUMBER),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a study.

    Attributes:
      name, label, settings, impossible: as in `study.json`.
      config: its resolved config; None where it is impossible, or the study does not say.
      run: its run; None where it is impossible, not finished, or trains nothing.
    """

    name: str
    label: str
    settings: dict
    impossible: str
    config: ml_collections.ConfigDict | None
    run: Run | None


@dataclasses.dataclass(frozen=True)
class Study:
    """A study, finished or not.

    Attributes:
      folder: where it lies.
      kind, title, question, command, axes: as in `study.json`.
      config: what its cells share, versions and device it was begun with; None and {} where the
        study does not say.
      reference: name of the cell that others are compared with, or None.
      cells: all cells, in the study's order.
      epoch_seconds: {cell: seconds} of those that were timed.
      statistics: content of `statistics.json`, {} if it is not there yet.
      robustness, resolution: rows of the files of that name, [] if not there.
    """

    folder: pathlib.Path
    kind: str
    title: str
    question: str
    command: str
    axes: list[str]
    config: ml_collections.ConfigDict | None
    versions: dict
    device: dict
    reference: str | None
    cells: list[Cell]
    epoch_seconds: dict[str, float]
    statistics: dict
    robustness: list[dict]
    resolution: list[dict]

    @property
    def finished(self) -> list[Cell]:
        """Cells that have a run."""
        return [cell for cell in self.cells if cell.run]


def read_study(folder: pathlib.Path) -> Study:
    """The study in a folder, as far as it is.

    Raises:
      UserError: a file is damaged.
    """
    path = folder / 'study.json'
    content = read_object(path)
    check(path, content, _STUDY)
    if content['kind'] not in KINDS:
        raise UserError(f'{path}: kind {content["kind"]!r}: allowed are {", ".join(KINDS)}')
    base = _base_config(path, content)
    cells = []
    for each in content['cells']:
        check(path, each, _CELL)
        if '/' in each['name'] or each['name'] in ('', '.', '..'):
            raise UserError(f'{path}: {each["name"]!r} is no name of a cell')
        there = folder / 'cells' / each['name']
        trained = not each['impossible'] and (there / 'summary.json').is_file()
        run = read_run(there) if trained else None
        config = run.config if run else _cell_config(path, base, each)
        cells.append(Cell(**{key: each[key] for key in _CELL}, config=config, run=run))
    if not cells:
        raise UserError(f'{path}: a study without cells; start the study anew')
    statistics_path = folder / 'statistics.json'
    found = read_object(statistics_path) if statistics_path.exists() else {}
    _check_statistics(statistics_path, found)
    return Study(
        folder=folder,
        **{key: content[key] for key in ('kind', 'title', 'question', 'command', 'axes')},
        config=base,
        **{key: content.get(key, {}) for key in ('versions', 'device')},
        reference=_reference_name(content.get('reference'), cells),
        cells=cells,
        epoch_seconds=_epoch_seconds(folder / 'results.jsonl'),
        statistics=found,
        robustness=_rows_if_there(folder / 'robustness.jsonl', _ROBUSTNESS, cells),
        resolution=_rows_if_there(folder / 'resolution.jsonl', _RESOLUTION, cells),
    )


def _base_config(path: pathlib.Path, content: Mapping) -> ml_collections.ConfigDict | None:
    try:
        return resolve(content['config'], warn=False) if 'config' in content else None
    except (UserError, AttributeError) as error:
        raise UserError(f'{path}: config: {error}') from None


def _cell_config(
    path: pathlib.Path, base: ml_collections.ConfigDict | None, cell: Mapping
) -> ml_collections.ConfigDict | None:
    if base is None or cell['impossible'] or 'changes' not in cell:
        return None
    try:
        return changed(base, cell['changes'])
    except (UserError, AttributeError) as error:
        raise UserError(f'{path}: {cell["name"]}: {error}') from None


def _reference_name(reference, cells: list[Cell]) -> str | None:
    """The reference cell, which may be named or given by its settings."""
    if isinstance(reference, Mapping):
        found = [cell.name for cell in cells if cell.settings == reference]
        return found[0] if found else None
    return reference if reference in {cell.name for cell in cells} else None


def _epoch_seconds(path: pathlib.Path) -> dict[str, float]:
    rows = read_rows(path, {'cell': str}) if path.exists() else []
    for row in rows:
        check(path, {'epoch_seconds': None, **row}, {'epoch_seconds': OPTIONAL})
    return {row['cell']: row['epoch_seconds'] for row in rows if row.get('epoch_seconds')}


def _rows_if_there(path: pathlib.Path, fields: Mapping, cells: list[Cell]) -> list[dict]:
    rows = read_rows(path, fields) if path.exists() else []
    names = {cell.name for cell in cells}
    for row in rows:
        if row['cell'] not in names:
            raise UserError(f'{path}: no cell {row["cell"]!r} in the study; remove the file')
    return rows


def _check_statistics(path: pathlib.Path, content: dict) -> None:
    described = {'count': int, 'mean': NUMBER, **dict.fromkeys(('std', 'low', 'high'), OPTIONAL)}
    compared = {
        'reference': str,
        'count': int,
        'difference': NUMBER,
        **dict.fromkeys(('low', 'high', 'bootstrap_low', 'bootstrap_high', 'p'), OPTIONAL),
        **dict.fromkeys(('p_holm', 'effect_size', 'time_ratio'), OPTIONAL),
    }
    with damaged(path):
        for cell in content.get('cells', {}).values():
            for measure in ('test_accuracy', 'train_accuracy'):
                check(path, cell[measure], described)
        for comparison in content.get('comparisons', {}).values():
            check(path, {'p_holm': None, **comparison}, compared)
        for sentence in content.get('verdicts', []):
            if not isinstance(sentence, str):
                raise TypeError('a verdict is not text')
        for fits in content.get('fits', {}).values():
            for name in QUANTITIES:
                check(path, fits[name], {'exponent': NUMBER})
