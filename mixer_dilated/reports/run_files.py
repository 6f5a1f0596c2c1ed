"""The files of a run, read and checked: what its report is made from."""

import dataclasses
import functools
import math
import pathlib

import ml_collections
import numpy as np

from mixer_dilated.config import num_phases, patch_branches, resolve
from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Patches
from mixer_dilated.reports.checked_files import (
    NUMBER,
    OPTIONAL,
    check,
    damaged,
    read_arrays,
    read_object,
    read_rows,
)
from mixer_dilated.training.run_folder import read_summary

MEASURES = ('train_accuracy', 'test_accuracy', 'train_loss', 'test_loss')
_SUMMARY = {
    **dict.fromkeys(('config_name', 'dataset', 'train_split', 'test_split'), str),
    **dict.fromkeys(
        ('train_examples', 'test_examples', 'num_tokens', 'num_params', 'skipped_steps'), int
    ),
    **dict.fromkeys(('pixels_seen', 'pixels'), int),
    'flops_per_image': NUMBER,
    **dict.fromkeys(('image_shape', 'results'), list),
    **dict.fromkeys(('seconds', 'versions', 'device'), dict),
}
_SEED = {
    'seed': int,
    **dict.fromkeys(('train_accuracy', 'test_accuracy'), NUMBER),
    **dict.fromkeys(('train_loss', 'test_loss'), OPTIONAL),
    **dict.fromkeys(('train_correct', 'test_correct'), int),
}
_METRICS = {'epoch': int, 'seed': int, **dict.fromkeys(MEASURES, OPTIONAL)}
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

    @property
    def evaluation_passes(self) -> int:
        """How many times evaluation shows an image: once in every phase of a `random_phase`."""
        return math.prod(num_phases(self.config))

    @property
    def augmented_by(self) -> list[str]:
        """Names under `config.augment` of what changes training images."""
        augment = self.config.augment
        amounts = {**augment, 'randaugment': augment.randaugment.num_layers}
        return [name for name, amount in amounts.items() if amount]

    def values(self, name: str) -> list[float]:
        """One result of every seed."""
        return [each[name] for each in self.summary['results']]

    @functools.cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """Of each of MEASURES an array (seeds, epochs); NaN where nothing finite was noted."""
        path = self.folder / 'metrics.jsonl'
        rows = read_rows(path, _METRICS)
        if not rows:
            raise UserError(f'{path}: no epoch in it; make the run again')
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
                raise UserError(f'{path}: no {name} of {rank} axes in it; make the run again')
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
            raise UserError(f'{path}: its arrays do not fit each other; make the run again')
        return found

    @functools.cached_property
    def class_names(self) -> list[str]:
        """Of every class; their numbers in runs of earlier versions, which kept no names."""
        classes = self.predictions['probabilities'].shape[-1]
        path = self.folder / 'preprocessing.json'
        if not path.is_file():
            return [str(label) for label in range(classes)]
        noted = read_object(path)
        check(path, noted, {'class_names': list})
        names = noted['class_names']
        if len(names) != classes or not all(isinstance(name, str) for name in names):
            raise UserError(f'{path}: class_names are not {classes} names; make the run again')
        return names

    @functools.cached_property
    def augmented(self) -> dict[str, np.ndarray]:
        """{title: images} of `augmented.npz`, 'original' first; {} where that file is not there."""
        path = self.folder / 'augmented.npz'
        if not path.is_file():
            return {}
        found = read_arrays(path)
        for name, rank in {'images': 4, 'drawn': 5, 'titles': 1}.items():
            if name not in found or found[name].ndim != rank:
                raise UserError(f'{path}: no {name} of {rank} axes in it; make the run again')
        images, drawn, titles = (found[name] for name in ('images', 'drawn', 'titles'))
        whole = (
            images.dtype == drawn.dtype == np.uint8
            and images.size > 0
            and drawn.shape == (len(titles), *images.shape)
            and images.shape[1:] == tuple(self.summary['image_shape'])
        )
        if not whole:
            raise UserError(f'{path}: its arrays do not fit each other; make the run again')
        return {'original': images, **dict(zip(map(str, titles), drawn, strict=True))}

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Arrays of `weights.npz`."""
        return read_arrays(self.folder / 'weights.npz')


def read_run(folder: pathlib.Path) -> Run:
    """The finished run in a folder.

    Raises:
      UserError: it is not finished, or a file is damaged.
    """
    config_path, summary_path = folder / 'config.json', folder / 'summary.json'
    try:
        config = resolve(read_object(config_path), warn=False)
    except UserError as error:
        where = '' if str(error).startswith(str(config_path)) else f'{config_path}: '
        raise UserError(f'{where}{error}') from None
    if not summary_path.is_file():
        raise UserError(
            f'{folder}: the run is not finished (no summary.json); give its training command '
            'with this folder again, then report'
        )
    summary = read_summary(folder)
    check(summary_path, summary, _SUMMARY)
    for each in summary['results']:
        check(summary_path, each, _SEED)
    shape = summary['image_shape']
    if not summary['results'] or len(shape) != 3 or not all(type(n) is int for n in shape):
        raise UserError(
            f'{summary_path}: results or image_shape are not those of a run; make the run again'
        )
    run = Run(folder, config, summary)
    with damaged(config_path):
        for branch in run.branches:
            branch.grid(run.image_size)
    return run
