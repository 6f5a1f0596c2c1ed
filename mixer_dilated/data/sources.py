"""From `config.dataset` to a data source and its examples."""

import pathlib

import ml_collections

from mixer_dilated.data.cache import cached_read
from mixer_dilated.data.examples import Examples, Source
from mixer_dilated.data.preprocessing import Preprocessing, preprocess_of
from mixer_dilated.errors import InputError
from mixer_dilated.patches.geometry import whole_pair

FOLDER = 'folder:'


def open_source(dataset: ml_collections.ConfigDict) -> Source:
    """The data set that `config.dataset` names; nothing is decoded yet, or what tells which
    pictures of a folder are broken.

    Raises:
      InputError: it does not exist, is not there and cannot be downloaded, or does not fit.
    """
    if dataset.name.startswith(FOLDER):
        return _folder_source(dataset)
    if dataset.image_size != 0:
        raise InputError(
            f'config.dataset.image_size = {dataset.image_size!r}: {dataset.name!r} has images of '
            "its own size; allowed is 0, or another value with dataset.name = 'folder:PATH'"
        )
    if dataset.name == 'digits':
        from mixer_dilated.data.digits import Digits

        return Digits()
    from mixer_dilated.data.tfds_source import TfdsSource

    return TfdsSource(dataset.name, dataset.data_dir, dataset.max_pixels)


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
