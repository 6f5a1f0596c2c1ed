"""From `config.dataset` to a data source and its examples."""

import pathlib

import ml_collections

from mixer_dilated.data.cache import cached_read
from mixer_dilated.data.enlarging import only_enlarges
from mixer_dilated.data.examples import Examples, Source
from mixer_dilated.data.preprocessing import Preprocessing, preprocess_of
from mixer_dilated.errors import InputError
from mixer_dilated.patches.geometry import Pair, whole_pair

FOLDER = 'folder:'


def open_source(dataset: ml_collections.ConfigDict) -> Source:
    """The data set that `config.dataset` names.

    Nothing is decoded yet, but for what tells which pictures of a folder are broken.

    Raises:
      InputError: it does not exist, is not there and cannot be downloaded, or does not fit.
    """
    if dataset.name.startswith(FOLDER):
        return _folder_source(dataset)
    size = whole_pair('dataset.image_size', dataset.image_size, 1) if dataset.image_size else None
    if dataset.name == 'digits':
        return _digits(size)
    from mixer_dilated.data.tfds_source import TfdsSource

    return TfdsSource(dataset.name, dataset.data_dir, dataset.max_pixels, size, dataset.resize)


def load_examples(source: Source, split: str, dataset: ml_collections.ConfigDict) -> Examples:
    """The examples of a split, decoded now or earlier."""
    return cached_read(source, split, dataset.cache_dir)


def preprocessing_of(dataset: ml_collections.ConfigDict, image_shape: tuple) -> Preprocessing:
    """How pictures are brought to the form of the data set of `config.dataset`.

    Args:
      dataset: `config.dataset`.
      image_shape: (height, width, channels) of the data set.

    Raises:
      InputError: `dataset.preprocess` does not fit the channels.
    """
    how = preprocess_of(dataset.name, dataset.preprocess)
    return Preprocessing(tuple(image_shape), how, dataset.resize, dataset.max_pixels)


def _digits(size: Pair | None) -> Source:
    from mixer_dilated.data.digits import Digits

    if size is None:
        return Digits()
    if not only_enlarges(Digits.stored_shape[:2], size):
        raise InputError(
            f"config.dataset.image_size = {size!r}: 'digits' has images of 8×8, and they can only "
            'be enlarged; allowed are 0 and numbers from 8'
        )
    return Digits(size[0])


def _folder_source(dataset: ml_collections.ConfigDict) -> Source:
    from mixer_dilated.data.folder_source import FolderSource

    name = dataset.name.removeprefix(FOLDER)
    root = pathlib.Path(dataset.data_dir).expanduser() / pathlib.Path(name).expanduser()
    if not name or not root.is_dir():
        raise InputError(
            f'config.dataset.name = {dataset.name!r}: no such folder: {root}; give the folder that '
            'holds the folders of the classes'
        )
    if dataset.image_size == 0:
        raise InputError(
            'config.dataset.image_size = 0: the pictures of a folder are brought to one size; set '
            'it, for example --config.dataset.image_size=64'
        )
    size = whole_pair('dataset.image_size', dataset.image_size, 1)
    return FolderSource(
        root,
        preprocessing_of(dataset, (*size, dataset.channels)),
        test_share=dataset.test_share,
        split_seed=dataset.split_seed,
        on_broken=dataset.on_broken,
        cache_dir=dataset.cache_dir,
    )
