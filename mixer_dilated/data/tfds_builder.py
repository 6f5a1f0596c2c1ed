"""A prepared TFDS set, found or prepared, and which of its features are image and label."""

import importlib.util
import os
import re
import socket
import urllib.parse
import urllib.request
import warnings

import numpy as np

from mixer_dilated.dataset_names import PATH_KINDS
from mixer_dilated.errors import UserError
from mixer_dilated.files import MAX_JSON_BYTES, error_text
from mixer_dilated.paths import check_regular_files, expand_user, is_bucket

CONVERSION_NEEDS = 'tensorflow', 'apache_beam', 'mlcroissant', 'array_record'


def make_builder(name: str, data_dir: str):
    """`tfds.builder` of a set, prepared or not. Raises UserError if there is no such set, or what
    is there of it is damaged.
    """
    import tensorflow_datasets as tfds  # slow, and not needed for a set that is cached
    from tensorflow_datasets.core.utils import file_utils

    for folder in file_utils.list_data_dirs(data_dir or None):
        if (first := re.match(r'\w+', name)) and not is_bucket(folder):
            check_regular_files(
                os.path.join(folder, first[0]), MAX_JSON_BYTES, _is_data, 'prepare it again'
            )
    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except Exception as error:  # TFDS and its parsers raise errors of many types
        path = expand_user(name)
        kind = 'folder' if path.is_dir() else path.suffix[1:].lower()
        cause = f'TFDS cannot build it: {" ".join(str(error).split())}'
        if kind in PATH_KINDS and path.exists():
            what = 'folder' if kind == 'folder' else 'file'
            cause = f"is a {what}; for its images set '{kind}:{name}'"
        elif isinstance(error, tfds.core.DatasetNotFoundError):
            cause = (
                "no such data set; allowed are 'digits', 'folder:PATH', 'csv:FILE', 'npz:FILE', "
                "'idx:FOLDER' and the names of the TFDS catalogue, like mnist, fashion_mnist, "
                'cifar10'
            )
        raise UserError(f'config.dataset.name = {name!r}: {cause}') from None


def _is_data(file: str) -> bool:
    return not file.endswith(('.json', '.txt'))


def open_builder(name: str, data_dir: str):
    """The TFDS builder of a prepared set; prepares it first where that is possible. Raises
    UserError as `make_builder`, or if it is not prepared as array_record.
    """
    import tensorflow_datasets as tfds

    builder = make_builder(name, data_dir)
    if not builder.is_prepared():
        _prepare(tfds, name, builder)
        builder = make_builder(name, data_dir)
    try:  # names of files are made when they are asked for
        files = [file for split in builder.info.splits.values() for file in split.filepaths]
        cause = '' if files else 'it has no splits'
    except Exception as error:
        cause = error_text(error)
    if cause:
        raise UserError(
            f'{builder.data_path}: dataset_info.json is damaged: {cause}; prepare it again'
        )
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
