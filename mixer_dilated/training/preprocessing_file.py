"""`preprocessing.json`: what a run needs to classify pictures without its data set."""

import dataclasses
import os
import pathlib
import reprlib
from collections.abc import Mapping

import ml_collections

from mixer_dilated.config import patch_branches
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.preprocessing import HOW, RESIZE, Preprocessing
from mixer_dilated.data.sources import preprocessing_of
from mixer_dilated.errors import InputError
from mixer_dilated.patches.geometry import num_tokens
from mixer_dilated.training.task import Task, open_task
from mixer_dilated.training.workdir import read_config, read_json, write_json

NAME = 'preprocessing.json'


@dataclasses.dataclass(frozen=True)
class NotedSource:
    """The facts of a data set that was there when a run was trained, as a `Source`.

    Its examples cannot be read.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    split_sizes: dict[str, int]
    fingerprint: str = ''

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        return self.image_shape

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def read(self, split: str) -> Examples:
        raise InputError(f'the examples of {self.name} are not in the folder of the run')


def write_preprocessing(workdir: pathlib.Path, task: Task) -> None:
    """Writes the file, unless it is there: a person may have changed how pictures are read.

    Args:
      workdir: the run's folder.
      task: what is trained.
    """
    path = workdir / NAME
    if path.exists():
        return
    preprocessing = preprocessing_of(task.config.dataset, task.source.image_shape)
    content = {
        'class_names': list(task.source.class_names),
        'image_shape': list(task.source.image_shape),
        'preprocess': preprocessing.how,
        'resize': preprocessing.resize,
        'train_examples': task.train_examples,
        'test_examples': task.test_examples,
    }
    write_json(path, content)


def read_trained_task(workdir: pathlib.Path) -> tuple[Task, Preprocessing]:
    """What a run was trained on, from its folder alone, and how pictures are brought to its form.

    A run without the file, made by an earlier version, takes the facts from its data set.

    Raises:
      InputError: no run there, a damaged file, or a run without it whose data set is not there.
    """
    config = read_config(workdir)
    path = workdir / NAME
    if not os.path.lexists(path):
        return _from_data_set(config, path)
    return _from_file(config, read_json(path, way_on()), path)


def _from_data_set(
    config: ml_collections.ConfigDict, path: pathlib.Path
) -> tuple[Task, Preprocessing]:
    try:
        task = open_task(config)
    except InputError as error:
        raise InputError(
            f'{path}: not there, as in runs of earlier versions, and the data set, which has what '
            f'it would say, cannot be opened: {error}'
        ) from None
    return task, preprocessing_of(config.dataset, task.source.image_shape)


def _from_file(
    config: ml_collections.ConfigDict, noted, path: pathlib.Path
) -> tuple[Task, Preprocessing]:
    for name, (allowed, fits) in _ALLOWED.items():
        value = noted.get(name) if isinstance(noted, Mapping) else None
        if not fits(value):
            raise InputError(
                f'{path}: {name} = {reprlib.repr(value)}: allowed is {allowed}; {way_on()}'
            )
    shape = tuple(noted['image_shape'])
    try:
        preprocessing = Preprocessing(
            shape, noted['preprocess'], noted['resize'], config.dataset.max_pixels
        )
        tokens = num_tokens(patch_branches(config.model), config.model.join, shape[:2])
    except InputError as error:
        raise InputError(f'{path}: {error}; {way_on()}') from None
    examples = {part: noted[f'{part}_examples'] for part in ('train', 'test')}
    source = NotedSource(config.dataset.name, shape, tuple(noted['class_names']), examples)
    return Task(config, source, examples['train'], examples['test'], tokens), preprocessing


def way_on() -> str:
    """What to do with a file that cannot be used."""
    return 'remove it, and the same command takes the facts from the data set'


def _whole(value, most: int = 2**31) -> bool:
    return type(value) is int and 0 < value < most


_COUNT = ('a whole number from 1', _whole)
_ALLOWED = {
    'class_names': (
        'a list of names',
        lambda v: isinstance(v, list) and len(v) > 0 and all(isinstance(each, str) for each in v),
    ),
    'image_shape': (
        'height, width and 1, 3 or 4 channels',
        lambda v: (
            isinstance(v, list)
            and len(v) == 3
            and all(_whole(side, 2**15) for side in v)
            and v[2] in (1, 3, 4)
        ),
    ),
    'preprocess': (f'one of {", ".join(HOW)}', lambda v: v in HOW),
    'resize': (f'one of {", ".join(RESIZE)}', lambda v: v in RESIZE),
    'train_examples': _COUNT,
    'test_examples': _COUNT,
}
