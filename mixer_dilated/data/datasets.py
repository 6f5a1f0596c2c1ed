"""The data sets that `config.dataset` names, decoded at once or kept from an earlier start."""

import functools
import hashlib
import json
import pathlib
import shutil
import tempfile
import warnings

import ml_collections
import numpy as np

from mixer_dilated.data.examples import (
    Dataset,
    Examples,
    InMemoryDataSource,
    checksums,
    split_slices,
)
from mixer_dilated.data.preprocessing import Preprocessing, is_upsample, preprocess_of
from mixer_dilated.errors import UserError
from mixer_dilated.files import user_cache
from mixer_dilated.patches.geometry import Pair, whole_pair


def cached_read(source: Dataset, split: str, cache_dir: str) -> Examples:
    """`source.read(split)`, from the cache if it is there and undamaged.

    An entry is a folder with `images.npy`, `labels.npy` and `entry.json` (fingerprint of the
    source, checksums of the arrays). It appears whole or not at all. An entry that is damaged is
    made again; a cache that cannot be written costs time and a warning, nothing else.

    Args:
      source: where the examples come from.
      split: TFDS split syntax.
      cache_dir: folder of the cache; '' is the user's cache folder.
    """
    entry = _entry(source, split, cache_dir)
    examples = _load(entry, source)
    if examples is None:
        examples = source.read(split)
        try:
            _store(entry, source, examples)
        except OSError as error:
            warnings.warn(f'decoded images are not cached: {entry}: {error}', stacklevel=2)
    return examples


def _entry(source: Dataset, split: str, cache_dir: str) -> pathlib.Path:
    root = pathlib.Path(cache_dir).expanduser() if cache_dir else user_cache()
    identity = hashlib.sha256(f'{source.fingerprint}\n{split}'.encode()).hexdigest()[:16]
    return root / f'{source.name.replace("/", "-")}-{identity}'


def _load(entry: pathlib.Path, source: Dataset) -> Examples | None:
    try:
        facts = json.loads((entry / 'entry.json').read_text())
        examples = Examples(
            *(
                np.load(entry / f'{name}.npy', mmap_mode='r', allow_pickle=False)
                for name in Examples._fields
            )
        )
        return examples if facts == _facts(source, examples) else None
    # NumPy's reader raises a dozen kinds of error on damaged headers; all mean: make it again.
    except Exception:
        return None


def _store(entry: pathlib.Path, source: Dataset, examples: Examples) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(prefix='unfinished-', dir=entry.parent))
    try:
        for name, array in examples._asdict().items():
            np.save(unfinished / f'{name}.npy', array, allow_pickle=False)
        (unfinished / 'entry.json').write_text(json.dumps(_facts(source, examples), indent=2))
        if _load(entry, source) is None:  # else another process was quicker: its entry stays
            shutil.rmtree(entry, ignore_errors=True)
            unfinished.rename(entry)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _facts(source: Dataset, examples: Examples) -> dict:
    return {
        'source': source.name,
        'fingerprint': source.fingerprint,
        'checksums': checksums(examples),
    }


class Digits:
    """The embedded data set, as a `Dataset`.

    Args:
      side: pixels a side that a network sees, at least the 8 that are stored.

    The split is fixed and stratified: of each class, every fifth image is a test image. Grey
    levels 0 … 16 become 0 … 255.
    """

    name = 'digits'
    stored_shape = (8, 8, 1)
    num_classes = 10
    class_names = tuple('0123456789')
    split_sizes = {'train': 1433, 'test': 364}
    fingerprint = 'digits of scikit-learn, every fifth of a class is test, grey * 255 / 16'
    identity = fingerprint

    def __init__(self, side: int = 8):
        self.image_shape = (side, side, 1)

    def read(self, split: str) -> Examples:
        """Decodes the examples of a split given in TFDS split syntax, in the stored order."""
        parts = _splits()
        slices = [
            Examples(parts[name].images[start:stop], parts[name].labels[start:stop])
            for name, start, stop in split_slices('split', split, self.split_sizes)
        ]
        return Examples(*(np.concatenate(arrays) for arrays in zip(*slices, strict=True)))

    def records(self, split: str) -> InMemoryDataSource:
        """The same examples by number; they are small enough to be decoded in any case."""
        return InMemoryDataSource(self.read(split))


@functools.cache
def _splits() -> dict[str, Examples]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[::5]] = True
    return {
        name: Examples(images[chosen], labels[chosen])
        for name, chosen in (('train', ~is_test), ('test', is_test))
    }


FOLDER = 'folder:'


def open_dataset(dataset: ml_collections.ConfigDict) -> Dataset:
    """The data set that `config.dataset` names.

    Nothing is decoded yet, but for what tells which pictures of a folder are broken.

    Raises:
      UserError: it does not exist, is not there and cannot be downloaded, or does not fit.
    """
    if dataset.name.startswith(FOLDER):
        return _folder_source(dataset)
    size = whole_pair('dataset.image_size', dataset.image_size, 1) if dataset.image_size else None
    if dataset.name == 'digits':
        return _digits(size)
    from mixer_dilated.data.tfds_dataset import TfdsDataset

    return TfdsDataset(dataset.name, dataset.data_dir, dataset.max_pixels, size, dataset.resize)


def load_examples(source: Dataset, split: str, dataset: ml_collections.ConfigDict) -> Examples:
    """The examples of a split, decoded now or earlier."""
    return cached_read(source, split, dataset.cache_dir)


def preprocessing_of(dataset: ml_collections.ConfigDict, image_shape: tuple) -> Preprocessing:
    """How pictures are brought to the form of the data set of `config.dataset`.

    Args:
      dataset: `config.dataset`.
      image_shape: (height, width, channels) of the data set.

    Raises:
      UserError: `dataset.preprocess` does not fit the channels.
    """
    how = preprocess_of(dataset.name, dataset.preprocess)
    return Preprocessing(tuple(image_shape), how, dataset.resize, dataset.max_pixels)


def _digits(size: Pair | None) -> Dataset:
    if size is None:
        return Digits()
    if not is_upsample(Digits.stored_shape[:2], size):
        raise UserError(
            f"config.dataset.image_size = {size!r}: 'digits' has images of 8×8, and they can only "
            'be upsample; allowed are 0 and numbers from 8'
        )
    return Digits(size[0])


def _folder_source(dataset: ml_collections.ConfigDict) -> Dataset:
    from mixer_dilated.data.image_folder import ImageFolder

    name = dataset.name.removeprefix(FOLDER)
    root = pathlib.Path(dataset.data_dir).expanduser() / pathlib.Path(name).expanduser()
    if not name or not root.is_dir():
        raise UserError(
            f'config.dataset.name = {dataset.name!r}: no such folder: {root}; give the folder that '
            'holds the folders of the classes'
        )
    if dataset.image_size == 0:
        raise UserError(
            'config.dataset.image_size = 0: the pictures of a folder are brought to one size; set '
            'it, for example --config.dataset.image_size=64'
        )
    size = whole_pair('dataset.image_size', dataset.image_size, 1)
    return ImageFolder(
        root,
        preprocessing_of(dataset, (*size, dataset.channels)),
        test_share=dataset.test_share,
        split_seed=dataset.split_seed,
        on_broken=dataset.on_broken,
        cache_dir=dataset.cache_dir,
    )
