"""The files of a run and of a study, read and checked: what a report is made from."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_collections
import numpy as np
import pandas as pd

from mixer_dilated.config import changed, num_phases, patch_branches, resolve
from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Patches
from mixer_dilated.paths import PathLike, as_path, exists
from mixer_dilated.reports import schema
from mixer_dilated.reports.intervals import describe
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.training.run_folder import file_checksums, read_summary


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its folder, resolved config, and content of `summary.json`."""

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

    @property
    def evaluation_passes(self) -> int:
        """How many times evaluation shows an image: once in every phase of a `random_phase`."""
        return math.prod(num_phases(self.config))

    @property
    def evaluation_mflops(self) -> float:
        """Of an image, forward, in all passes."""
        return self.summary['flops_per_image'] * self.evaluation_passes / 1e6

    def accuracy(self, part: str) -> dict[str, float]:
        """The accuracies of all seeds on 'train', 'val' or 'test', as `describe` has them."""
        return describe([result[f'{part}_accuracy'] for result in self.summary['results']])

    @property
    def epoch_split(self) -> str:
        """'val', on which epochs are evaluated and runs compared to choose one, or else 'test'."""
        return 'val' if 'val_accuracy' in self.summary else 'test'

    @functools.cached_property
    def curves(self) -> pd.DataFrame:
        """`metrics.jsonl`: epoch, seed, train_accuracy, train_loss, and of `epoch_split` accuracy
        and loss; NaN where a loss was not finite."""
        path = self.folder / 'metrics.jsonl'
        rows = schema.read_rows(path, schema.METRICS)
        self._check_checksum('metrics.jsonl')
        if not rows:
            raise UserError(f'{path}: no epoch in it; {schema.HINT}')
        names = {f'{self.epoch_split}_{name}': name for name in schema.EVALUATION}
        columns = [*schema.TRAINING, *names]
        curves = pd.DataFrame(rows, columns=['epoch', 'seed', *columns])
        return curves.astype(dict.fromkeys(columns, float)).rename(columns=names)

    @functools.cached_property
    def predictions(self) -> dict[str, np.ndarray]:
        """Arrays of `predictions.npz`."""
        arrays = self._read_arrays('predictions.npz', schema.PREDICTIONS)
        examples, classes = arrays['probabilities'].shape[1:]
        for name, size in (('labels', classes), ('shown_index', examples)):
            if not np.isin(arrays[name], range(size)).all():
                where = f'{self.folder}/predictions.npz: {name}'
                raise UserError(f'{where} are not from 0 to {size - 1}; make the run again')
        return arrays

    @functools.cached_property
    def class_names(self) -> list[str]:
        """Of every class; their numbers in runs of earlier versions, which kept no names."""
        classes = self.predictions['probabilities'].shape[-1]
        path = self.folder / 'preprocessing.json'
        if not exists(path):
            return [str(label) for label in range(classes)]
        names = schema.read_object(path, {'class_names': [str]})['class_names']
        if len(names) != classes:
            raise UserError(f'{path}: class_names are not {classes} names; make the run again')
        return names

    @functools.cached_property
    def augmented(self) -> dict[str, np.ndarray]:
        """{title: images} of `augmented.npz`, 'original' first; {} where that file is not there."""
        if not exists(self.folder / 'augmented.npz'):
            return {}
        arrays = self._read_arrays('augmented.npz', schema.AUGMENTED)
        drawn = dict(zip(map(str, arrays['titles']), arrays['drawn'], strict=True))
        return {'original': arrays['images'], **drawn}

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Arrays of `weights.npz`."""
        arrays = self._read_arrays('weights.npz', {})
        if odd := [k for k, array in arrays.items() if not np.issubdtype(array.dtype, np.floating)]:
            raise UserError(f'{self.folder}/weights.npz: {odd[0]} is not of floats; {schema.HINT}')
        return arrays

    def _read_arrays(self, name: str, axes: Mapping[str, str]) -> dict[str, np.ndarray]:
        sizes = zip(('height', 'width', 'channels'), self.summary['image_shape'], strict=True)
        arrays = schema.read_arrays(self.folder / name, axes, **dict(sizes))
        self._check_checksum(name)
        return arrays

    def _check_checksum(self, name: str) -> None:
        files = self.summary['files']
        if name in files and file_checksums(self.folder, [name])[name] != files[name]:
            raise UserError(
                f'{self.folder / name}: its checksum is not that in summary.json; {schema.HINT}'
            )


def read_run(folder: PathLike) -> Run:
    """The finished run in a folder.

    Raises:
      UserError: it is not finished, or a file is damaged.
    """
    folder = as_path(folder)
    config_path, summary_path = folder / 'config.json', folder / 'summary.json'
    config = _apply(config_path, '', resolve, schema.read_object(config_path, {}), warn=False)
    summary = read_summary(folder)
    if summary is None:
        raise UserError(
            f'{folder}: the run is not finished (no summary.json); give its training command '
            'with this folder again, then report'
        )
    schema.check(summary_path, summary, schema.SUMMARY)
    if not summary['results'] or len(summary['image_shape']) != 3:
        wrong = 'results or image_shape are not those of a run'
        raise UserError(f'{summary_path}: {wrong}; make the run again')
    run = Run(folder, config, summary)
    for branch in run.branches:
        _apply(config_path, '', branch.grid, run.image_size)
    return run


class Trial(NamedTuple):
    """A trial of a study, as `study.json` names and sets it."""

    name: str
    label: str
    settings: dict
    invalid: str  # why it cannot be trained; '' for one that can
    config: ml_collections.ConfigDict | None  # unless it is invalid or the study does not say
    run: Run | None  # unless it is invalid, not finished, or trains nothing


@dataclasses.dataclass(frozen=True)
class Study:
    """A study, finished or not. Measurements are empty where nothing was measured."""

    folder: pathlib.Path
    content: dict  # of `study.json`
    config: ml_collections.ConfigDict | None  # what its trials share, where the study says it
    trials: list[Trial]  # in the study's order
    statistics: dict  # of `statistics.json`, {} if it is not there yet
    epoch_seconds: dict[str, float]  # by trial
    robustness: pd.DataFrame  # rows of the file of that name, with the trial's 'label'
    resolution: pd.DataFrame  # as `robustness`

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return self.content['kind']

    @property
    def finished(self) -> list[Trial]:
        """Trials that have a run."""
        return [trial for trial in self.trials if trial.run]

    @property
    def split(self) -> str:
        """What trials are ranked on: 'val' if all finished ones have it, else 'test'."""
        return 'val' if all(t.run.epoch_split == 'val' for t in self.finished) else 'test'

    @property
    def mixed_splits(self) -> str:
        """Why trials that partly have a validation split are not ranked on it; else ''."""
        if self.split == 'val' or all(t.run.epoch_split == 'test' for t in self.finished):
            return ''
        return 'ranked by test accuracy: not all trials have a validation split'

    def mean_accuracy(self, trial: Trial) -> float:
        """Mean over the seeds of a finished trial, by which trials are ordered and chosen."""
        return trial.run.summary[f'{self.split}_accuracy']

    @property
    def labels(self) -> dict[str, str]:
        """{name: label} of all trials."""
        return {trial.name: trial.label for trial in self.trials}

    @property
    def comparisons(self) -> dict[str, dict]:
        """{trial: its paired comparison with the reference}."""
        return self.statistics.get('comparisons', {})

    @property
    def datasets(self) -> dict[str, 'Study']:
        """{data set: the part of the study on it}, by the setting 'dataset'; {'': all} without."""
        parts = {}
        for trial in self.trials:
            parts.setdefault(str(trial.settings.get('dataset', '')), []).append(trial)
        if len(parts) == 1:
            return {'': self}
        return {name: self._part(name, trials) for name, trials in parts.items()}

    def _part(self, dataset: str, trials: list[Trial]) -> 'Study':
        labels, rows = [trial.label for trial in trials], {}
        for name, table in (('robustness', self.robustness), ('resolution', self.resolution)):
            rows[name] = table if table.empty else table[table.label.isin(labels)]
        if self.kind == 'sweep':  # labels need not say of which data set
            words = [[w for w in t.label.split(', ') if w != dataset] or [t.label] for t in trials]
            trials = [t._replace(label=', '.join(w)) for t, w in zip(trials, words, strict=True)]
        return dataclasses.replace(self, trials=trials, **rows)

    @property
    def exponents(self) -> dict[str, dict[str, float]]:
        """{label: {'num_tokens', …: exponent of the image's side}}, as far as they are fitted."""
        fits = self.statistics.get('fits', {})
        return {
            label: {key: fits[name][key]['exponent'] for key in QUANTITIES}
            for name, label in self.labels.items()
            if name in fits
        }


def read_study(folder: PathLike) -> Study:
    """The study in a folder, as far as it is.

    Raises:
      UserError: a file is damaged.
    """
    folder = as_path(folder)
    path, statistics = folder / 'study.json', folder / 'statistics.json'
    content = schema.read_object(path, schema.STUDY)
    if (kind := content['kind']) not in schema.KINDS:
        raise UserError(f'{path}: kind = {kind!r}: allowed are {", ".join(schema.KINDS)}')
    base = None
    if 'config' in content:
        base = _apply(path, 'config: ', resolve, content['config'], warn=False)
    trials = [_read_trial(path, base, trial) for trial in content['cells']]
    if not trials:
        raise UserError(f'{path}: a study without trials; start the study anew')
    rows = schema.read_rows(folder / 'results.jsonl', schema.RESULTS)
    return Study(
        folder,
        content,
        base,
        trials,
        schema.read_object(statistics, schema.STATISTICS) if exists(statistics) else {},
        {row['cell']: row['epoch_seconds'] for row in rows if row.get('epoch_seconds')},
        _labelled_rows(folder / 'robustness.jsonl', schema.ROBUSTNESS, trials),
        _labelled_rows(folder / 'resolution.jsonl', schema.RESOLUTION, trials),
    )


def _read_trial(path: pathlib.Path, base: ml_collections.ConfigDict | None, row: Mapping) -> Trial:
    if '/' in row['name'] or row['name'] in ('', '.', '..'):
        raise UserError(f'{path}: {row["name"]!r} is no name of a trial')
    folder = path.parent / 'cells' / row['name']
    config = run = None
    if not row['impossible'] and exists(folder / 'summary.json'):
        run = read_run(folder)
        config = run.config
    elif base and not row['impossible'] and 'changes' in row:
        config = _apply(path, f'{row["name"]}: ', changed, base, row['changes'])
    return Trial(row['name'], row['label'], row['settings'], row['impossible'], config, run)


def _apply(path: pathlib.Path, key: str, function: Callable, *content, **options):
    """What a function makes of the content of a file; the UserError of a bad one names the file."""
    try:
        return function(*content, **options)
    except (UserError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f'{path}: {key}{" ".join(str(error).split())}') from None


def _labelled_rows(path: pathlib.Path, fields: Mapping, trials: list[Trial]) -> pd.DataFrame:
    labels, rows = {trial.name: trial.label for trial in trials}, schema.read_rows(path, fields)
    for row in rows:
        if row['cell'] not in labels:
            raise UserError(f'{path}: no trial {row["cell"]!r} in the study; remove the file')
    return pd.DataFrame([{**row, 'label': labels[row['cell']]} for row in rows])
