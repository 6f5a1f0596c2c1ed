"""A prepared TFDS set, found or prepared, and which of its features are image and label."""

import importlib.util
import socket
import urllib.parse
import urllib.request
import warnings

import numpy as np

from mixer_dilated.dataset_names import PATH_KINDS
from mixer_dilated.errors import UserError
from mixer_dilated.files import expand_user

CONVERSION_NEEDS = (
    'tensorflow',
    'apache_beam',
    'mlcroissant',
    'array_record',
)  # of `tfds convert_format`


def open_builder(name: str, data_dir: str):
    """The TFDS builder of a prepared set; prepares it first where that is possible.

    Raises:
      UserError: no such set, not prepared, or not as array_record.
    """
    import tensorflow_datasets as tfds  # slow, and not needed for a set that is cached

    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError:
        _check_no_path(name)
        raise UserError(
            f"config.dataset.name = {name!r}: no such data set; allowed are 'digits', "
            "'folder:PATH', 'csv:FILE', 'npz:FILE', 'idx:FOLDER' and the names of the TFDS "
            'catalogue, like mnist, fashion_mnist, cifar10'
        ) from None
    except (ValueError, RuntimeError, ImportError, AssertionError, TypeError) as error:
        _check_no_path(name)
        cause = ' '.join(str(error).split())
        raise UserError(f'config.dataset.name = {name!r}: TFDS cannot build it: {cause}') from None
    if not builder.is_prepared():
        _prepare(tfds, name, builder)
        builder = tfds.builder(name, data_dir=data_dir or None)
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


def _check_no_path(name: str) -> None:
    """Raises UserError if what is no TFDS name is a folder or file of data."""
    path = expand_user(name)
    kind = 'folder' if path.is_dir() else path.suffix[1:].lower()
    if kind in PATH_KINDS and path.exists():
        what = 'folder' if kind == 'folder' else 'file'
        raise UserError(
            f"config.dataset.name = {name!r}: is a {what}; for its images set '{kind}:{name}'"
        ) from None


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
    unreachable = _unreachable_host(builder)
    if unreachable:
        raise UserError(f'{missing}; it cannot be downloaded: {unreachable}. {hint}')
    print(f'{missing}; TFDS prepares it now, once.')
    try:
        builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    except Exception as error:  # of any of TFDS's many hundred builders
        cause = ' '.join(str(error).split())[:300]
        raise UserError(
            f'{missing}; preparing it failed: {type(error).__name__}: {cause}. {hint}'
        ) from error


def _unreachable_host(builder) -> str:
    """Why the first download cannot start, or ''; TFDS would try for minutes."""
    urls = map(urllib.parse.urlsplit, builder.url_infos or ())
    urls = [url for url in urls if url.hostname and url.scheme in ('http', 'https')]
    if not urls or urllib.request.getproxies():
        return ''
    port = urls[0].port or {'http': 80, 'https': 443}[urls[0].scheme]
    try:
        socket.create_connection((urls[0].hostname, port), timeout=10).close()
    except OSError as error:
        return f'{urls[0].hostname}: {error}'
    return ''


def find_keys(name: str, info, image_key: str = '', label_key: str = '') -> tuple[str, str]:
    """The names of the features that are image and label.

    They are those that are asked for; else those that the set is supervised with; else its one
    image and its one class label, with a warning.

    Args:
      name: of the set.
      info: `tfds.core.DatasetInfo`.
      image_key, label_key: `config.dataset.image_key` and `label_key`; '' to choose.

    Raises:
      UserError: there is no such feature, or none or several that it may be.
    """
    supervised = info.supervised_keys or (None, None)
    supervised = supervised if all(isinstance(key, str) for key in supervised) else (None, None)
    keys = []
    for asked, usual, kind, is_kind in (
        (image_key, supervised[0], 'image', _is_image),
        (label_key, supervised[1], 'label', _is_label),
    ):
        allowed = sorted(key for key, feature in info.features.items() if is_kind(feature))
        if asked:
            if asked not in allowed:
                raise UserError(
                    f'config.dataset.{kind}_key = {asked!r}: {name!r} has no such {kind}; allowed '
                    f'are {", ".join(allowed) or "none"}'
                )
            keys.append(asked)
        elif usual in allowed:
            keys.append(usual)
        else:
            classes = [key for key in allowed if _is_image(info.features[key])]
            classes += [key for key in allowed if _is_class_label(info.features[key])]
            if len(classes) != 1:
                raise UserError(_none_or_several(name, info, kind, allowed))
            warnings.warn(f'{name}: its {kind} is {classes[0]!r}', stacklevel=3)
            keys += classes
    return tuple(keys)


def _none_or_several(name: str, info, kind: str, allowed: list[str]) -> str:
    start = f'config.dataset.name = {name!r}'
    if allowed:
        return (
            f'{start}: which of {", ".join(allowed)} is the {kind}? Set '
            f'--config.dataset.{kind}_key=KEY'
        )
    features = ', '.join(sorted(info.features))
    several = [key for key, feature in info.features.items() if _is_sequence(feature)]
    if kind == 'label' and several:
        return (
            f'{start}: an example has several labels ({", ".join(several)}), and a network here '
            f'gives one class; its features are {features}'
        )
    return f'{start}: not an image classification set: no {kind} among its features {features}'


def _is_image(feature) -> bool:
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.Image)


def _is_class_label(feature) -> bool:
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.ClassLabel)


def _is_label(feature) -> bool:
    """Whether a feature can be a label: one class label, integer or text."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel | tfds.features.Text):
        return True
    plain = type(feature) in (tfds.features.Tensor, tfds.features.Scalar)
    return plain and feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)


def _is_sequence(feature) -> bool:
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.Sequence)
