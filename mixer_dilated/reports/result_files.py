"""The files of a run or a study, read and checked: what every report is made from."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import ml_collections
import numpy as np

from mixer_dilated.config import patch_branches, resolve
from mixer_dilated.errors import InputError
from mixer_dilated.patches.geometry import Patches
from mixer_dilated.reports.checked_files import check, damaged, read_arrays, read_object, read_rows

KINDS = ('table1', 'sweep', 'little_data', 'resolution', 'robustness')
MEASURES = ('train_accuracy', 'test_accuracy', 'train_loss', 'test_loss')
_NUMBER, _OPTIONAL = (int, float), (int, float, type(None))
_SUMMARY = {
    **dict.fromkeys(('config_name', 'dataset', 'train_split', 'test_split'), str),
    **dict.fromkeys(('train_examples', 'test_examples', 'num_tokens', 'num_params'), int),
    **dict.fromkeys(('pixels_seen', 'pixels'), int),
    'flops_per_image': _NUMBER,
    **dict.fromkeys(('image_shape', 'results'), list),
    **dict.fromkeys(('seconds', 'versions', 'device'), dict),
}
_SEED = {
    'seed': int,
    **dict.fromkeys(('train_accuracy', 'test_accuracy'), _NUMBER),
    **dict.fromkeys(('train_loss', 'test_loss'), _OPTIONAL),
    **dict.fromkeys(('train_correct', 'test_correct'), int),
}
_METRICS = {'epoch': int, 'seed': int, **dict.fromkeys(MEASURES, _OPTIONAL)}
_STUDY = {
    **dict.fromkeys(('kind', 'title', 'question', 'command'), str),
    **dict.fromkeys(('axes', 'cells'), list),
}
_CELL = {**dict.fromkeys(('name', 'label', 'impossible'), str), 'settings': dict}
_ROBUSTNESS = {
    'cell': str,
    'corruption': str,
    'strength': _NUMBER,
    'seed': int,
    'accuracy': _NUMBER,
}
_RESOLUTION = {
    'cell': str,
    'batch': int,
    **dict.fromkeys(('image_size', 'num_tokens', 'flops_per_image', 'memory_bytes'), _NUMBER),
    **dict.fromkeys(('step_seconds', 'step_seconds_low', 'step_seconds_high'), _NUMBER),
}
_PREDICTIONS = {'labels': 1, 'probabilities': 3, 'shown_index': 1, 'shown_images': 4}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      folder: where it lies.
      config: its resolved config.
      summary: content of `summary.json`.
    """

    folder: pathlib.Path
    config: ml_collections.ConfigDict
    summary: dict

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return tuple(self.summary['image_shape'][:2])

    @property
    def branches(self) -> tuple[Patches, ...]:
        """The patch geometries of its stem."""
        return patch_branches(self.config.model)

    def values(self, name: str) -> list[float]:
        """One result of every seed."""
        return [each[name] for each in self.summary['results']]

    @functools.cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """Of each of MEASURES an array (seeds, epochs); NaN where nothing finite was noted."""
        path = self.folder / 'metrics.jsonl'
        rows = read_rows(path, _METRICS)
        if not rows:
            raise InputError(f'{path}: no epoch in it; make the run again')
        seeds = {seed: k for k, seed in enumerate(sorted({row['seed'] for row in rows}))}
        epochs = {epoch: k for k, epoch in enumerate(sorted({row['epoch'] for row in rows}))}
        found = {name: np.full((len(seeds), len(epochs)), np.nan) for name in MEASURES}
        for row in rows:
            for name in MEASURES:
                if row[name] is not None:
                    found[name][seeds[row['seed']], epochs[row['epoch']]] = row[name]
        return found

    @functools.cached_property
    def predictions(self) -> dict[str, np.ndarray]:
        """Arrays of `predictions.npz`."""
        path = self.folder / 'predictions.npz'
        found = read_arrays(path)
        for name, rank in {**_PREDICTIONS, 'class_images': 4}.items():
            if name not in found or found[name].ndim != rank:
                raise InputError(f'{path}: no {name} of {rank} axes in it; make the run again')
        examples = found['labels'].size
        classes = found['probabilities'].shape[-1]
        whole = (
            examples > 0
            and found['probabilities'].shape[1] == examples
            and len(found['shown_index']) == len(found['shown_images'])
            and ((found['shown_index'] >= 0) & (found['shown_index'] < examples)).all()
            and ((found['labels'] >= 0) & (found['labels'] < classes)).all()
            and found['class_images'].shape[1:] == tuple(self.summary['image_shape'])
        )
        if not whole:
            raise InputError(f'{path}: its arrays do not fit each other; make the run again')
        return found

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Arrays of `weights.npz`."""
        return read_arrays(self.folder / 'weights.npz')


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a study.

    Attributes:
      name, label, settings, impossible: as in `study.json`.
      run: its run; None where it is impossible, not finished, or trains nothing.
    """

    name: str
    label: str
    settings: dict
    impossible: str
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


def read_run(folder: pathlib.Path) -> Run:
    """The finished run in a folder.

    Raises:
      InputError: it is not finished, or a file is damaged.
    """
    config_path, summary_path = folder / 'config.json', folder / 'summary.json'
    try:
        config = resolve(read_object(config_path))
    except InputError as error:
        where = '' if str(error).startswith(str(config_path)) else f'{config_path}: '
        raise InputError(f'{where}{error}') from None
    if not summary_path.is_file():
        raise InputError(
            f'{folder}: the run is not finished (no summary.json); give its training command '
            'with this folder again, then report'
        )
    summary = read_object(summary_path)
    check(summary_path, summary, _SUMMARY)
    for each in summary['results']:
        check(summary_path, each, _SEED)
    shape = summary['image_shape']
    if not summary['results'] or len(shape) != 3 or not all(type(n) is int for n in shape):
        raise InputError(
            f'{summary_path}: results or image_shape are not those of a run; make the run again'
        )
    run = Run(folder, config, summary)
    with damaged(config_path):
        for branch in run.branches:
            branch.grid(run.image_size)
    return run


def read_study(folder: pathlib.Path) -> Study:
    """The study in a folder, as far as it is.

    Raises:
      InputError: a file is damaged.
    """
    path = folder / 'study.json'
    content = read_object(path)
    check(path, content, _STUDY)
    if content['kind'] not in KINDS:
        raise InputError(f'{path}: kind {content["kind"]!r}: allowed are {", ".join(KINDS)}')
    cells = []
    for each in content['cells']:
        check(path, each, _CELL)
        if '/' in each['name'] or each['name'] in ('', '.', '..'):
            raise InputError(f'{path}: {each["name"]!r} is no name of a cell')
        there = folder / 'cells' / each['name']
        trained = not each['impossible'] and (there / 'summary.json').is_file()
        cells.append(
            Cell(**{key: each[key] for key in _CELL}, run=read_run(there) if trained else None)
        )
    if not cells:
        raise InputError(f'{path}: a study without cells; start the study anew')
    statistics_path = folder / 'statistics.json'
    found = read_object(statistics_path) if statistics_path.exists() else {}
    _check_statistics(statistics_path, found)
    return Study(
        folder=folder,
        **{key: content[key] for key in ('kind', 'title', 'question', 'command', 'axes')},
        config=_base_config(path, content),
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
        return resolve(content['config']) if 'config' in content else None
    except (InputError, AttributeError) as error:
        raise InputError(f'{path}: config: {error}') from None


def _reference_name(reference, cells: list[Cell]) -> str | None:
    """The reference cell, which may be named or given by its settings."""
    if isinstance(reference, Mapping):
        found = [cell.name for cell in cells if cell.settings == reference]
        return found[0] if found else None
    return reference if reference in {cell.name for cell in cells} else None


def _epoch_seconds(path: pathlib.Path) -> dict[str, float]:
    rows = read_rows(path, {'cell': str}) if path.exists() else []
    for row in rows:
        check(path, {'epoch_seconds': None, **row}, {'epoch_seconds': _OPTIONAL})
    return {row['cell']: row['epoch_seconds'] for row in rows if row.get('epoch_seconds')}


def _rows_if_there(path: pathlib.Path, fields: Mapping, cells: list[Cell]) -> list[dict]:
    rows = read_rows(path, fields) if path.exists() else []
    names = {cell.name for cell in cells}
    for row in rows:
        if row['cell'] not in names:
            raise InputError(f'{path}: no cell {row["cell"]!r} in the study; remove the file')
    return rows


def _check_statistics(path: pathlib.Path, content: dict) -> None:
    described = {'count': int, 'mean': _NUMBER, **dict.fromkeys(('std', 'low', 'high'), _OPTIONAL)}
    compared = {
        'reference': str,
        'count': int,
        'difference': _NUMBER,
        **dict.fromkeys(('low', 'high', 'bootstrap_low', 'bootstrap_high', 'p'), _OPTIONAL),
        **dict.fromkeys(('effect_size', 'time_ratio'), _OPTIONAL),
    }
    with damaged(path):
        for cell in content.get('cells', {}).values():
            for measure in ('test_accuracy', 'train_accuracy'):
                check(path, cell[measure], described)
        for comparison in content.get('comparisons', {}).values():
            check(path, comparison, compared)
        for sentence in content.get('verdicts', []):
            if not isinstance(sentence, str):
                raise TypeError('a verdict is not text')
        for fits in content.get('fits', {}).values():
            for name in ('num_tokens', 'flops_per_image', 'step_seconds', 'memory_bytes'):
                check(path, fits[name], {'exponent': _NUMBER})
