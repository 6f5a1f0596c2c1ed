"""A prepared TFDS set, found or prepared, and which of its features are image and label."""

import importlib.util
import json
import os
import pathlib
import socket
import urllib.parse
import urllib.request
import warnings

import numpy as np

from mixer_dilated.dataset_names import PATH_KINDS
from mixer_dilated.errors import UserError
from mixer_dilated.files import MAX_JSON_BYTES, error_text, read_bytes
from mixer_dilated.paths import expand_user, is_bucket, regular_files

CLASS_KEYS = 'pythonClassName', 'python_class_name', 'type'
MAX_FILES, MAX_EXAMPLES = 2**16, 2**31 - 1
PREPARE_AGAIN = 'prepare it again'
CATALOGUE = 'the names of the TFDS catalogue, like mnist, fashion_mnist, cifar10'
CONVERSION_NEEDS = 'tensorflow', 'apache_beam', 'mlcroissant', 'array_record'


def make_builder(name: str, data_dir: str):
    """`tfds.builder` of a set, prepared or not.

    Raises UserError if there is no such set, or what is there of it is damaged, or names classes of
    another package, which TFDS would import.
    """
    import tensorflow_datasets as tfds  # slow, and not needed for a set that is cached
    from tensorflow_datasets.core.utils import file_utils

    start = f'config.dataset.name = {name!r}'
    try:
        parsed, _ = tfds.core.naming.parse_builder_name_kwargs(name)
        if parsed.namespace:
            raise UserError(f'{start}: of another collection; allowed are {CATALOGUE}')
        for folder in file_utils.list_data_dirs(data_dir or None):
            if is_bucket(folder):
                raise UserError(f'{folder}: a bucket; copy the data set to a local folder')
            _check_files(expand_user(folder) / parsed.name)
        return tfds.builder(name, data_dir=expand_user(data_dir) if data_dir else None)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # TFDS and its parsers raise errors of many types
        path = expand_user(name)
        kind = 'folder' if path.is_dir() else path.suffix[1:].lower()
        cause = f'TFDS cannot build it: {" ".join(error_text(error).split())}'
        if kind in PATH_KINDS and path.exists():
            what = 'folder' if kind == 'folder' else 'file'
            cause = f"is a {what}; for its images set '{kind}:{name}'"
        elif isinstance(error, tfds.core.DatasetNotFoundError):
            cause = (
                "no such data set; allowed are 'digits', 'folder:PATH', 'csv:FILE', 'npz:FILE', "
                f"'idx:FOLDER' and {CATALOGUE}"
            )
        raise UserError(f'{start}: {cause}') from None


def _check_files(folder: pathlib.Path) -> None:
    """Raises UserError if TFDS should not open what is in the folder of a set."""

    def is_data(file: str) -> bool:
        return not file.endswith(('.json', 'labels.txt'))

    for file in regular_files(folder, MAX_JSON_BYTES, is_data, PREPARE_AGAIN, followlinks=True):
        if os.path.basename(file) == 'features.json':
            text = read_bytes(file)
            try:
                _check_classes(text)
            except ValueError as error:
                raise UserError(f'{file}: {error_text(error)}; {PREPARE_AGAIN}') from None


def _check_classes(text: bytes | str) -> None:
    """Raises ValueError if JSON of features names a class that is not of TFDS."""

    def check(pairs: list[tuple]) -> None:
        for key, value in pairs:
            if key == 'json' and isinstance(value, str):
                _check_classes(value)
            is_class = key in CLASS_KEYS and isinstance(value, str)
            if is_class and not value.startswith('tensorflow_datasets.'):
                raise ValueError(f'{key} = {value!r}: allowed is tensorflow_datasets.…')

    json.loads(text, object_pairs_hook=check)


def _check_splits(builder) -> None:
    """Raises UserError if the files of a set are not what a prepared one has."""
    problem = ''
    try:
        splits = builder.info.splits.values()
        if sum(len(split.shard_lengths) for split in splits) > MAX_FILES:
            problem = f'more than {MAX_FILES} files'
        elif sum(split.num_examples for split in splits) > MAX_EXAMPLES:
            problem = f'more than {MAX_EXAMPLES} examples'
        else:  # names of files are made when they are asked for
            files = [os.fspath(file) for split in splits for file in split.filepaths]
            inside = {os.path.dirname(file) for file in files} <= {os.fspath(builder.data_path)}
            problem = 'no files of splits' if not files else 'files elsewhere' if not inside else ''
    except Exception as error:  # of many types
        problem = error_text(error)
    if problem:
        raise UserError(
            f'{builder.data_path}: dataset_info.json is damaged: {problem}; {PREPARE_AGAIN}'
        )


def open_builder(name: str, data_dir: str):
    """The TFDS builder of a prepared set; prepares it first where that is possible. Raises
    UserError as `make_builder`, or if it is not prepared as array_record.
    """
    import tensorflow_datasets as tfds

    builder = make_builder(name, data_dir)
    if not builder.is_prepared():
        _prepare(tfds, name, builder)
        builder = make_builder(name, data_dir)
    _check_splits(builder)
    array_record = tfds.core.FileFormat.ARRAY_RECORD
    if array_record not in builder.info.available_file_formats():
        tfds_command = 'tfds'
        if not all(map(importlib.util.find_spec, CONVERSION_NEEDS)):
            packages = ' '.join((*CONVERSION_NEEDS, 'tensorflow_datasets', 'importlib_resources'))
            tfds_command = f'python -m venv tf && tf/bin/pip install {packages} && tf/bin/tfds'
        raise UserError(
            f'{builder.data_path}: prepared as {builder.info.file_format.value}; array_record is '
            f'needed beside it: {tfds_command} convert_format '
            f'--dataset_version_dir={builder.data_path} --out_file_format=array_record'
        )
    if builder.info.file_format != array_record:  # converted in place
        builder.info.set_file_format(array_record, override=True, override_if_initialized=True)
    return builder


def _prepare(tfds, name: str, builder) -> None:
    missing = f'config.dataset.name = {name!r} is not prepared: looked in {builder.data_path}'
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        missing += ' (its files have to be fetched by hand first: see the TFDS catalogue)'
    hint = (
        'Name the folder where it is prepared as array_record (--config.dataset.data_dir=DIR, for '
        'evaluate --data_dir=DIR, or TFDS_DATA_DIR=DIR), or train '
        '--config=configs/digits_dilated.py, whose data is embedded'
    )
    if importlib.util.find_spec('tensorflow') is None:
        raise UserError(
            f'{missing}; preparing it the first time takes TensorFlow, which is not installed '
            f'(pip install tensorflow). {hint}'
        )
    urls = map(urllib.parse.urlsplit, builder.url_infos or ())
    urls = [url for url in urls if url.hostname and url.scheme in ('http', 'https')]
    if urls and not urllib.request.getproxies():  # without a host, TFDS tries for minutes
        host, port = urls[0].hostname, urls[0].port or {'http': 80, 'https': 443}[urls[0].scheme]
        try:
            socket.create_connection((host, port), timeout=10).close()
        except OSError as error:
            raise UserError(f'{missing}; cannot be downloaded: {host}: {error}. {hint}') from None
    print(f'{missing}; TFDS prepares it now, once.')
    try:
        builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    except Exception as error:  # of any of TFDS's many hundred builders
        cause = f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
        raise UserError(f'{missing}; preparing it failed: {cause}. {hint}') from error


def find_keys(name: str, info, image_key: str = '', label_key: str = '') -> tuple[str, str]:
    """The names of the features that are image and label.

    They are those that are asked for (`config.dataset.image_key` and `label_key`); else those that
    the set is supervised with; else its one image and its one class label, with a warning; else
    UserError is raised.
    """
    from tensorflow_datasets import features

    def keys_of(*kinds) -> list[str]:
        return sorted(key for key, feature in info.features.items() if isinstance(feature, kinds))

    images, classes = keys_of(features.Image), keys_of(features.ClassLabel)
    integers = [
        key
        for key, feature in info.features.items()
        if type(feature) in (features.Tensor, features.Scalar)
        and feature.shape == ()
        and np.issubdtype(feature.np_dtype, np.integer)
    ]
    labels = sorted({*keys_of(features.ClassLabel, features.Text), *integers})
    supervised = (info.supervised_keys or ())[:2]
    keys, start = [], f'config.dataset.name = {name!r}'
    for kind, asked, usual, allowed in (
        ('image', image_key, images, images),
        ('label', label_key, classes, labels),
    ):
        key = f'config.dataset.{kind}_key'
        shown = ', '.join(allowed) or 'none'
        if asked and asked not in allowed:
            raise UserError(f'{key} = {asked!r}: {name!r} has no such {kind}; allowed are {shown}')
        asked = [asked] if asked else [key for key in allowed if key in supervised]
        chosen = asked or usual
        if len(chosen) != 1:
            problem = f'not an image classification set: no {kind} among its features'
            if allowed:
                problem = f'which of {shown} is the {kind}? Set --{key}=KEY; its features are'
            elif kind == 'label' and keys_of(features.Sequence):
                several = ', '.join(keys_of(features.Sequence))
                problem = (
                    f'an example has several labels ({several}), and a network here gives one '
                    'class; its features are'
                )
            raise UserError(f'{start}: {problem} {", ".join(sorted(info.features))}')
        if not asked:
            warnings.warn(f'{name}: its {kind} is {chosen[0]!r}', stacklevel=3)
        keys += chosen
    return tuple(keys)
