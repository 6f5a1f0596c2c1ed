"""Arrays of images and labels, from a file or folder, as a data set: `ArrayDataset`."""

import functools
import hashlib
import math
import os
import pathlib
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from mixer_dilated.data.array_files import LabelledImages, read_idx, read_npz
from mixer_dilated.data.class_folders import ClassFolders, ImageFile, split_images
from mixer_dilated.data.examples import Examples, InMemoryDataSource, cache_name, split_slices
from mixer_dilated.data.image_decoding import MAX_PIXELS
from mixer_dilated.data.preprocessing import Preprocessing, is_upsample, resize_image
from mixer_dilated.data.split_names import complete_splits
from mixer_dilated.errors import UserError

ROWS_AT_ONCE = 1024  # converted to uint8
MAX_CLASSES = 1000  # in a small set


class ArrayDataset:
    """Images and labels in the arrays of an .npz file or of idx files, as a `Dataset`.

    Images that are only upsampled are stored as they are, others resized when they are read.

    Args:
      kind: 'npz' (see `read_npz`) or 'idx' (see `read_idx`).
      path: of the file or folder.
      image_size: (height, width) of the network's input; None for that of the images.
      resize: of images of another aspect ratio (see `Preprocessing`).
      max_pixels: of an image, at most.
      white: the value that is white; 0 for 1 of floats up to 1, and 255 of other numbers.
      keys: names of the arrays that are images and labels; '' for the usual ones.
      test_fraction, split_seed: of arrays without splits, see `split_images`.

    Raises:
      UserError: the files, arrays or values cannot be used; the message names them.
    """

    def __init__(
        self,
        kind: str,
        path: pathlib.Path,
        image_size: tuple[int, int] | None = None,
        *,
        resize: str = 'crop',
        max_pixels: int = MAX_PIXELS,
        white: float = 0,
        keys: tuple[str, str] = ('', ''),
        test_fraction: float = 0.2,
        split_seed: int = 0,
    ):
        arrays = _load_arrays(kind, path, _stamps(path), white, keys)
        for note in arrays.notes:
            warnings.warn(f'{path}: {note}', stacklevel=2)
        self.name = cache_name(kind, path)
        self.class_names, self.num_classes = arrays.class_names, len(arrays.class_names)
        own_shape = next(iter(arrays.splits.values())).images.shape[1:]
        self.image_shape = (*(image_size or own_shape[:2]), own_shape[2])
        pixels = math.prod(own_shape[:2])
        if pixels > max_pixels:
            raise UserError(
                f'{path}: images of {pixels} pixels; allowed are at most {max_pixels} '
                '(config.dataset.max_pixels)'
            )
        upsampled = is_upsample(own_shape[:2], self.image_shape[:2])
        self.stored_shape = own_shape if upsampled else self.image_shape
        self._resize = None if upsampled else resize
        self._splits = {
            split: (examples, np.arange(len(examples.labels)))
            for split, examples in arrays.splits.items()
        }
        identity = arrays.digest
        if 'all' in self._splits:
            examples = arrays.splits['all']
            rows = _split_rows(path, self.class_names, examples.labels, test_fraction, split_seed)
            self._splits = {split: (examples, rows[split]) for split in rows}
            identity += f' {test_fraction} {split_seed}'
        if self._resize:
            identity += Preprocessing(self.image_shape, 'resize', resize).identity
        self.identity = self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()
        self.split_sizes = {split: len(rows) for split, (_, rows) in self._splits.items()}

    def read(self, split: str) -> Examples:
        parts = []
        for name, start, stop in split_slices('split', split, self.split_sizes):
            examples, rows = self._splits[name]
            images, labels = (array[rows[start:stop]] for array in examples)
            if self._resize:
                images = _resize_images(images, self.image_shape, self._resize)
            parts.append((images, labels))
        return Examples(*map(np.concatenate, zip(*parts, strict=True)))

    def data_source(self, split: str) -> InMemoryDataSource:
        return InMemoryDataSource(self.read(split))


class _Arrays(NamedTuple):
    """What `_load_arrays` makes of files; all datasets of a file share it."""

    class_names: tuple[str, ...]
    splits: dict[str, Examples]
    digest: str
    notes: list[str]


# A sweep opens the same file for every trial.
@functools.lru_cache(maxsize=1)
def _load_arrays(
    kind: str, path: pathlib.Path, stamps: tuple, white: float, keys: tuple[str, str]
) -> _Arrays:
    """Reads and checks files; `stamps` are those of the files, which may change."""
    stored, notes = read_npz(path, *keys) if kind == 'npz' else read_idx(path)
    stored, more = complete_splits(path, stored)
    for arrays in stored.values():
        count = len(arrays.labels) if arrays.labels.ndim else 0
        images = len(arrays.images) if arrays.images.ndim else 0
        if count != images or not count:
            raise UserError(
                f'{path}: {images} images in {arrays.image_name} and {count} labels in '
                f'{arrays.label_name}; allowed is the same number of both, at least one'
            )
    images, said = _convert_images(path, stored, white)
    class_names, labels = _number_labels(path, stored)
    splits = {split: Examples(images[split], labels[split]) for split in stored}
    digest = hashlib.sha256(repr(class_names).encode())
    for split, examples in splits.items():
        digest.update(f'{split} {examples.images.shape}'.encode())
        for array in examples:
            digest.update(array)
    return _Arrays(class_names, splits, digest.hexdigest(), [*notes, *more, *said])


def _stamps(path: pathlib.Path) -> tuple:
    """Name, size and time of the files of a path."""
    files = [path]
    if not os.path.isfile(path):  # idx
        folder = path if os.path.isdir(path) else path.parent
        files = sorted(folder.glob('*ubyte*')) if os.path.isdir(folder) else []
    statuses = [(file.name, file.stat()) for file in files if os.path.isfile(file)]
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in statuses)


def _split_rows(
    path: pathlib.Path, class_names: tuple[str, ...], labels: np.ndarray, *options
) -> dict[str, np.ndarray]:
    files = [ImageFile(str(row), label, 0, 0) for row, label in enumerate(labels.tolist())]
    splits = split_images(path, ClassFolders(class_names, {'all': files}), *options)
    return {split: np.array([int(file.path) for file in splits[split]]) for split in splits}


def _resize_images(images: np.ndarray, shape: tuple[int, int, int], resize: str) -> np.ndarray:
    resized = np.empty((len(images), *shape), np.uint8)
    for number, image in enumerate(images):
        image = Image.fromarray(image[..., 0] if shape[2] == 1 else image)
        resized[number] = np.asarray(resize_image(image, shape[:2], resize)).reshape(shape)
    return resized


def _convert_images(
    path: pathlib.Path, stored: dict[str, LabelledImages], white: float
) -> tuple[dict[str, UInt8[np.ndarray, 'examples height width channels']], list[str]]:
    """The images of each split, by one rule, and notes."""
    images, notes = {}, []
    for split, arrays in stored.items():
        images[split] = _put_channels_last(path, arrays)
        if images[split].shape[:3] != arrays.images.shape[:3]:
            notes.append(f'{arrays.image_name} is taken as (N, C, H, W)')
    shapes = {array.shape[1:]: stored[split].image_name for split, array in images.items()}
    if len(shapes) > 1:
        shown = '; '.join(f'{name}: {shape}' for shape, name in shapes.items())
        raise UserError(f'{path}: images of several shapes: {shown}; allowed is one')
    names = ', '.join(arrays.image_name for arrays in stored.values())
    # NumPy's, not Python's: they pass NaN on.
    least = float(np.min([array.min() for array in images.values()]))
    most = float(np.max([array.max() for array in images.values()]))
    kinds = {array.dtype.kind for array in images.values()}
    floats_to_1 = most <= 1 and kinds <= {'b', 'f'}
    limit = white or (1 if floats_to_1 else 255)
    dark = limit == 255 != white and most <= 1
    exact = limit != 255 or not any(map(_has_fractions, images.values()))
    if dark or not exact or not (least >= 0 and most <= limit):  # NaN is neither
        if least < 0:
            raise UserError(
                f'{path}: {names}: values from {least:g} to {most:g}; allowed are integers from 0 '
                'to 255, or floats from 0 to 1; save the images before their mean was subtracted'
            )
        example = max(math.ceil(most), 1) if math.isfinite(most) else 1
        raise UserError(
            f'{path}: {names}: {"" if exact else "fractional "}values from {least:g} to {most:g}; '
            'allowed are integers from 0 to 255, or floats from 0 to 1; scale them, or set the '
            f'value that is white, perhaps --config.dataset.white={example}'
        )
    if any(array.dtype != np.uint8 for array in images.values()) or limit != 255:
        notes.append(f'{names}: values from {least:g} to {most:g}; 0 is black, {limit:g} is white')
    return {split: _to_uint8(array, 255 / limit) for split, array in images.items()}, notes


def _put_channels_last(path: pathlib.Path, arrays: LabelledImages) -> np.ndarray:
    """(N, H, W, C) of any numbers."""
    images = arrays.images
    last, first = (images.ndim == 4 and images.shape[axis] in (1, 3) for axis in (3, 1))
    if images.ndim == 3:
        images, last = images[..., None], True
    if images.dtype.kind in 'buif' and last != first and images.size:
        return images if last else np.moveaxis(images, 1, -1)
    raise UserError(
        f'{path}: {arrays.image_name}: {images.dtype} {arrays.images.shape}; allowed are numbers '
        '(N, H, W) or (N, H, W, C) of 1 or 3 channels, and (N, C, H, W) where H and W are others; '
        'reshape or transpose it'
    )


def _has_fractions(array: np.ndarray) -> bool:
    floats = _blocks(array) if array.dtype.kind == 'f' else []
    return any((rows != np.floor(rows)).any() for rows in floats)


def _to_uint8(array: np.ndarray, scale: float) -> np.ndarray:
    if scale != 1 or array.dtype != np.uint8:
        blocks = [np.round(rows * scale).astype(np.uint8) for rows in _blocks(array)]
        array = np.concatenate(blocks)
    return np.ascontiguousarray(array)


def _blocks(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + ROWS_AT_ONCE] for start in range(0, len(array), ROWS_AT_ONCE)]


def _number_labels(
    path: pathlib.Path, stored: dict[str, LabelledImages]
) -> tuple[tuple[str, ...], dict[str, Int32[np.ndarray, ' examples']]]:
    """The names of the classes, which are the labels of training, and the labels by number."""
    values = {split: _label_values(path, arrays) for split, arrays in stored.items()}
    first = 'train' if 'train' in values else 'all'
    classes = np.unique(values[first])
    count = len(values[first])
    if len(classes) > max(MAX_CLASSES, count // 10):
        raise UserError(
            f'{path}: {stored[first].label_name}: {len(classes)} values in {count} labels, too '
            'many for classes; save a class of each image'
        )
    for split, labels in values.items():
        same = labels.dtype.kind == classes.dtype.kind
        new = labels[~np.isin(labels, classes)] if same else labels
        if len(new):
            raise UserError(
                f'{path}: {stored[split].label_name}: label {new[0].item()!r} is none of '
                f'{stored[first].label_name}; allowed are labels that training images have'
            )
    numbers = {split: np.searchsorted(classes, values[split]).astype(np.int32) for split in values}
    return tuple(map(str, classes.tolist())), numbers


def _label_values(path: pathlib.Path, arrays: LabelledImages) -> np.ndarray:
    """Labels (N,) as integers or texts, of the array of a split."""
    labels, allowed = arrays.labels, 'integers or texts (N,) or (N, 1), and one-hot (N, classes)'
    problem = f'{labels.dtype} {labels.shape}'
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in 'buif':
        wrong = np.flatnonzero(((labels == 1).sum(1) != 1) | ((labels != 0).sum(1) != 1))
        if not len(wrong):
            return labels.argmax(1)
        problem = f'row {wrong[0]} is not one-hot'
    elif labels.ndim == 1 and labels.dtype.kind in 'bui':
        return labels.astype(np.int64)
    elif labels.ndim == 1 and labels.dtype.kind in 'US':
        texts = np.char.strip(
            labels
            if labels.dtype.kind == 'U'
            else np.char.decode(labels, 'utf-8', 'backslashreplace')
        )
        if (empty := np.flatnonzero(texts == '')).size == 0:
            return texts
        problem = f'the label of row {empty[0]} is empty'
    raise UserError(f'{path}: {arrays.label_name}: {problem}; allowed are {allowed}')
