"""What the files of a run and a study hold, and the one way to read them.

A schema is a type or a tuple of types; {key: schema} for an object, where 'key?' may be missing and
`str` stands for every key; [schema] for a list. Numbers must be finite, and in float32's range.
Whatever is missing, damaged or of another type raises a UserError of one line that names file, key
and value.
"""

import pathlib
from collections.abc import Mapping

import numpy as np

from mixer_dilated import files
from mixer_dilated.errors import UserError
from mixer_dilated.paths import exists
from mixer_dilated.reports.quantities import QUANTITIES

KINDS = ('table1', 'sweep', 'little_data', 'resolution', 'robustness')
SPLITS = {'val': 'validation', 'test': 'test'}  # that are evaluated, and how they are called
TRAINING = ('train_accuracy', 'train_loss')
EVALUATION = ('accuracy', 'loss')  # of 'val_' where there is a validation split, else of 'test_'
HINT = 'restore it, or give the command that made it again: it resumes from the newest checkpoint'
MAX_NUMBER = 3.5e38  # a loss is a float32; its square is one of float64
NUMBER, OPTIONAL = (int, float), (int, float, type(None))


def _each(kind, keys: str) -> dict:
    """A schema of several keys of one kind."""
    return dict.fromkeys(keys.split(), kind)


SEED = {
    **_each(int, 'seed train_correct test_correct val_correct?'),
    **_each(NUMBER, 'train_accuracy test_accuracy val_accuracy?'),
    **_each(OPTIONAL, 'train_loss test_loss val_loss?'),
}
SUMMARY = {
    **_each(str, 'config_name dataset train_split test_split val_split?'),
    **_each(int, 'train_examples test_examples val_examples? num_epochs num_tokens num_params'),
    **_each(int, 'skipped_steps pixels_seen pixels'),
    **_each(NUMBER, 'flops_per_image train_accuracy test_accuracy val_accuracy?'),
    **{'image_shape': [int], 'results': [SEED], 'seconds': _each(NUMBER, 'train epoch_median')},
    **_each(dict, 'versions device files'),
}
METRICS = _each(int, 'epoch seed') | dict.fromkeys(TRAINING, OPTIONAL)
METRICS |= {f'{part}_{name}?': OPTIONAL for part in ('val', 'test') for name in EVALUATION}
STUDY = {
    **_each(str, 'kind title question command'),
    **{'train_seconds?': OPTIONAL, 'axes': [str]},
    'cells': [_each(str, 'name label impossible') | {'settings': dict}],
}
COMPARISON = {
    **{'reference': str, 'count': int, 'difference': NUMBER},
    **_each(OPTIONAL, 'low high bootstrap_low bootstrap_high t p p_holm? effect_size time_ratio'),
}
COMBINED = {'reference': str, **_each(OPTIONAL, 'difference low high p p_holm tau')}
DATASETS = {'trials': {str: str}, 'mean_rank': NUMBER, 'comparison?': COMBINED}
STATISTICS = {
    'comparisons?': {str: COMPARISON},
    'datasets?': {str: DATASETS},
    'verdicts?': [str],
    'fits?': {str: {name: {'exponent': NUMBER} for name in QUANTITIES}},
}
RESULTS = {'cell': str, 'epoch_seconds?': OPTIONAL}
ROBUSTNESS = _each(str, 'cell corruption') | _each(NUMBER, 'strength seed accuracy')
RESOLUTION = {
    **_each(str, 'cell'),
    **_each(NUMBER, 'image_size batch step_seconds_low step_seconds_high'),
    **dict.fromkeys(QUANTITIES, NUMBER),
}
# The axes of arrays.
PREDICTIONS = {
    'labels': 'examples',
    'probabilities': 'seeds examples classes',
    'shown_index': 'mistakes?',
    'shown_images': 'mistakes? height width channels',
    'class_images': 'classes height width channels',
}
DTYPES = {'labels': np.integer, 'shown_index': np.integer, 'probabilities': np.floating}
AUGMENTED = {
    'images': 'shown height width channels',
    'drawn': 'columns shown height width channels',
    'titles': 'columns',
}


def check(path: pathlib.Path, value, schema, key: str = '') -> None:
    """Raises UserError unless a value of a file is as the schema says."""
    if isinstance(schema, dict) and isinstance(value, dict):
        for name, part in schema.items():
            if name is str:
                for member, content in value.items():
                    check(path, content, part, f'{key}.{member}')
            elif name.rstrip('?') in value:
                check(path, value[name.rstrip('?')], part, f'{key}.{name.rstrip("?")}')
            elif not name.endswith('?'):
                lacking = f'has no {f"{key}.{name}"[1:]!r}'
                raise UserError(f'{path}: {lacking}: damaged, or of another version; make it again')
    elif isinstance(schema, list) and isinstance(value, list):
        for number, content in enumerate(value):
            check(path, content, schema[0], f'{key}[{number}]')
    else:
        types = {dict: dict, list: list}.get(type(schema), schema)
        is_number = isinstance(value, (int, float))
        if not isinstance(value, types) or (is_number and not abs(value) < MAX_NUMBER):
            name = key.lstrip('.') or 'its content'
            raise UserError(f'{path}: {name} = {value!r} cannot be; restore it, or make it again')


def read_object(path: pathlib.Path, schema: Mapping, hint: str = HINT) -> dict:
    """The object in a JSON file."""
    content = files.read_json(path, hint)
    check(path, content, schema)
    return content


def read_rows(path: pathlib.Path, schema: Mapping) -> list[dict]:
    """The objects of a file of one a line; [] where there is no file."""
    rows = files.read_json_lines(path, HINT) if exists(path) else []
    check(path, rows, [schema])
    return rows


def read_arrays(path: pathlib.Path, axes: Mapping[str, str], **sizes: int) -> dict:
    """The arrays of an .npz file.

    Args:
      path: of the file.
      axes: {array: names of its axes}; an axis has one size in all arrays, which is 0 only where
        its name ends with '?'. Arrays of images, whose last axis is 'channels', are uint8.
      sizes: of axes, where they are known.
    """
    arrays = files.read_arrays(path, HINT)
    for name, names in axes.items():
        array = arrays.get(name, np.empty(()))
        dtype = np.uint8 if names.endswith('channels') else DTYPES.get(name, array.dtype.type)
        if (
            array.ndim != len(names.split())
            or not np.issubdtype(array.dtype, dtype)
            or any(
                sizes.setdefault(axis, size) != size or not (size or axis.endswith('?'))
                for axis, size in zip(names.split(), array.shape, strict=True)
            )
        ):
            raise UserError(
                f'{path}: {name} has the shape {array.shape} of {array.dtype} and not ({names}) of '
                f'{dtype.__name__}; make the run again'
            )
    return arrays
