"""The data set that `config.dataset` names, the embedded ones, and the cache of examples."""

import functools
import json
import os
import pathlib
import shutil
import tempfile
import warnings

import numpy as np
from ml_collections import ConfigDict

from mixer_dilated.data.class_folders import SplitFiles, find_images
from mixer_dilated.data.examples import (
    OWN,
    Dataset,
    Examples,
    InMemoryDataset,
    cache_folder,
    cache_key,
    checksums,
)
from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.data.stored_images import is_upsample
from mixer_dilated.dataset_names import split_path
from mixer_dilated.errors import UserError
from mixer_dilated.files import MAX_ARRAY_BYTES, REMOVE_HINT, read_json
from mixer_dilated.patches.geometry import integer_pair
from mixer_dilated.paths import expand_user, regular_files

# What `dataset.preprocess` = 'auto' means for a data set; for any other, 'resize'.
AUTO_PREPROCESS = {'mnist': 'mnist', 'fashion_mnist': 'fill', 'digits': 'fill'}


def open_dataset(dataset: ConfigDict, recorded: SplitFiles | None = None) -> Dataset:
    """Opens the data set of `config.dataset`; only `on_corrupt = 'skip'` decodes images.

    `recorded` are the splits of a run on a folder of images, which keep their files. Raises
    UserError if the set does not exist, cannot be downloaded, or does not fit the config.
    """
    size = integer_pair('dataset.image_size', dataset.image_size, 1) if dataset.image_size else None
    kind, path = split_path(dataset.name)
    if dataset.decode_size and (dataset.name == 'digits' or kind in ('npz', 'idx')):
        raise UserError(
            f'config.dataset.decode_size = {dataset.decode_size}: is for image files and TFDS, '
            f'not for the arrays of {dataset.name!r}; allowed is 0'
        )
    if dataset.name == 'digits':
        return Digits(size or (8, 8))
    if dataset.name.startswith(OWN):
        raise UserError(
            f'config.dataset.name = {dataset.name!r}: arrays that train_and_evaluate was given; '
            'give them to evaluate_checkpoint(workdir, dataset=…) too (docs/library.md)'
        )
    if not kind:
        from mixer_dilated.data.tfds_dataset import TfdsDataset

        return TfdsDataset(dataset, size)
    path = expand_user(dataset.data_dir) / expand_user(path)
    exists, what, holds = {
        'folder': (os.path.isdir(path), 'folder', 'the class folders'),
        'csv': (os.path.isfile(path), 'file', 'names of files and labels'),
        'npz': (os.path.isfile(path), 'file', 'images and labels'),
        'idx': (os.path.isdir(path.parent), 'folder', 'the idx files'),
    }[kind]
    if dataset.name == f'{kind}:' or not exists:
        raise UserError(
            f'config.dataset.name = {dataset.name!r}: no such {what}: {path}; name the {what} that '
            f'holds {holds} (for evaluate: --data_dir={what.upper()})'
        )
    if kind in ('npz', 'idx'):
        from mixer_dilated.data.array_dataset import ArrayDataset

        return ArrayDataset(dataset, kind, path, size)
    if size is None:
        raise UserError(
            'config.dataset.image_size = 0: files need a size; set --config.dataset.image_size=64'
        )
    from mixer_dilated.data.csv_dataset import read_listing
    from mixer_dilated.data.image_folder import ImageFolder

    if kind == 'folder':
        folders = find_images(path, follow_links=dataset.follow_links)
    else:
        folders = read_listing(path, dataset.image_key, dataset.label_key)
    preprocessing = preprocessing_of(dataset, (*size, dataset.channels))
    return ImageFolder(path, folders, dataset, preprocessing, recorded)


def preprocessing_of(dataset: ConfigDict, image_shape: tuple) -> Preprocessing:
    """How image files become images of that shape; UserError if the style does not fit it."""
    how = dataset.preprocess
    if how == 'auto':
        kind, path = split_path(dataset.name)
        name = dataset.name.split(':')[0].split('/')[0]  # without config and version
        if kind == 'npz':
            name = pathlib.Path(path).stem.lower().replace('-', '_')
        elif kind == 'idx':  # the format of both
            name = 'fashion_mnist' if 'fashion' in path.lower() else 'mnist'
        how = AUTO_PREPROCESS.get(name, 'resize') if image_shape[2] == 1 else 'resize'
    settings = dataset.resize, dataset.max_pixels, dataset.white, dataset.decode_size
    return Preprocessing(tuple(image_shape), how, *settings)


def load_examples(dataset: Dataset, split: str, cache_dir: str) -> Examples:
    """`dataset.read(split)`, memory-mapped from the cache if an undamaged entry is there.

    An entry is a folder of `images.npy`, `labels.npy` and `entry.json` (fingerprint of the data
    set, checksums of the arrays) in `cache_dir`, or for '' in the user's cache folder. A damaged
    one is rewritten; a cache that cannot be written is a warning.
    """
    entry = cache_folder(cache_dir) / cache_key(dataset, split)
    examples = _load_entry(entry, dataset.fingerprint)
    if examples is None:
        examples = dataset.read(split)
        try:
            _store_entry(entry, dataset.fingerprint, examples)
        except OSError as error:
            warnings.warn(f'decoded images are not cached: {entry}: {error}', stacklevel=2)
    return examples


def _load_entry(entry: pathlib.Path, fingerprint: str) -> Examples | None:
    try:
        regular_files(entry, MAX_ARRAY_BYTES, lambda _: False, REMOVE_HINT)
        recorded = read_json(entry / 'entry.json')
        paths = [entry / f'{name}.npy' for name in Examples._fields]
        examples = Examples(*(np.load(p, mmap_mode='r', allow_pickle=False) for p in paths))
        intact = recorded['checksums'] == checksums(examples)
        return examples if intact and recorded['fingerprint'] == fingerprint else None
    # Of a damaged header NumPy raises OSError, ValueError, TypeError, OverflowError, SyntaxError,
    # tokenize.TokenError, MemoryError, …; of another entry.json come KeyError and RecursionError.
    except Exception:
        return None


def _store_entry(entry: pathlib.Path, fingerprint: str, examples: Examples) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(prefix='unfinished-', dir=entry.parent))
    try:
        for name, array in examples._asdict().items():
            np.save(unfinished / f'{name}.npy', array, allow_pickle=False)
        recorded = {'fingerprint': fingerprint, 'checksums': checksums(examples)}
        (unfinished / 'entry.json').write_text(json.dumps(recorded, indent=2))
        if _load_entry(entry, fingerprint) is None:  # else another process was faster
            shutil.rmtree(entry, ignore_errors=True)
            unfinished.rename(entry)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


class Digits(InMemoryDataset):
    """The digits of scikit-learn, embedded there, as a `Dataset`.

    Of each class every fifth image is a test image. Grey levels 0 to 16 become 0 to 255. The 8×8
    images are upsampled to `size`; UserError if that is no upsampling.
    """

    name = 'digits'
    stored_shape = (8, 8, 1)
    num_classes = 10
    class_names = tuple('0123456789')
    split_sizes = {'train': 1433, 'test': 364}
    fingerprint = 'digits of scikit-learn, every fifth of a class is test, grey * 255 / 16'
    identity = fingerprint

    def __init__(self, size: tuple[int, int] = (8, 8)):
        if not is_upsample(self.stored_shape[:2], size):
            raise UserError(
                f"config.dataset.image_size = {size!r}: 'digits' has images of 8×8, which can only "
                'be upsampled; allowed are 0 and integers from 8'
            )
        self.image_shape = (*size, 1)

    @property
    def splits(self) -> dict[str, Examples]:
        return _load_digits()


@functools.cache
def _load_digits() -> dict[str, Examples]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[::5]] = True
    return {
        split: Examples(images[rows], labels[rows])
        for split, rows in (('train', ~is_test), ('test', is_test))
    }
