"""Arrays of images and labels, from a file or folder, as a data set: `ArrayDataset`."""

import functools
import hashlib
import math
import pathlib
import warnings

import numpy as np
from jaxtyping import Int32, UInt8
from ml_collections import ConfigDict
from PIL import Image

from mixer_dilated.data.array_files import LabelledImages, read_idx, read_npz
from mixer_dilated.data.class_folders import ClassFolders, ImageFile, split_images
from mixer_dilated.data.examples import Examples, InMemoryDataset, cache_name, hash_examples
from mixer_dilated.data.preprocessing import Preprocessing, resize_image
from mixer_dilated.data.split_names import complete_splits
from mixer_dilated.data.stored_images import check_pixels, image_shapes
from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Pair

MAX_CLASSES = 1000  # in a small set


class ArrayDataset(InMemoryDataset):
    """The arrays of an .npz file (`read_npz`) or of idx files (`read_idx`), as a `Dataset`.

    For `image_size` see `image_shapes`; None leaves images their size. Raises UserError for files,
    arrays or values that cannot be used, and names them.
    """

    def __init__(self, dataset: ConfigDict, kind: str, path: pathlib.Path, image_size: Pair | None):
        keys = dataset.image_key, dataset.label_key
        class_names, splits, identity, notes = _load(kind, path, _stamps(path), dataset.white, keys)
        for note in notes:
            warnings.warn(f'{path}: {note}', stacklevel=2)
        if 'all' in splits:
            whole, options = splits['all'], (dataset.test_fraction, dataset.split_seed)
            numbers = enumerate(whole.labels.tolist())
            files = [ImageFile(str(row), label, 0, 0) for row, label in numbers]
            parts = split_images(path, ClassFolders(class_names, {'all': files}), *options)
            rows = {split: [int(file.path) for file in parts[split]] for split in parts}
            splits = {split: Examples(*(array[rows[split]] for array in whole)) for split in rows}
            identity += ' {} {}'.format(*options)
        super().__init__(cache_name(kind, path), splits, class_names)
        own_shape = self.stored_shape
        check_pixels(str(path), own_shape, dataset.max_pixels)
        self.image_shape, self.stored_shape = image_shapes(self.name, own_shape, image_size)
        resized = self.stored_shape != own_shape
        self._resize = dataset.resize if resized else ''
        preprocessing = Preprocessing(self.image_shape, resize=dataset.resize)
        texts = preprocessing.identities if resized else ['']
        identities = [hashlib.sha256(f'{identity}{text}'.encode()).hexdigest() for text in texts]
        self.identity, *self.old_identities = identities
        self.fingerprint = self.identity

    def read(self, split: str) -> Examples:
        images, labels = super().read(split)
        if self._resize:
            images = np.stack([self._resize_image(image) for image in images])
        return Examples(images, labels)

    def _resize_image(self, image: np.ndarray) -> np.ndarray:
        image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        resized = resize_image(image, self.image_shape[:2], self._resize)
        return np.asarray(resized).reshape(self.image_shape)


def _stamps(path: pathlib.Path) -> tuple:
    folder = path if path.is_dir() else path.parent
    statuses = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in statuses)


# A sweep opens the same file for every trial.
@functools.lru_cache(maxsize=1)
def _load(
    kind: str, path: pathlib.Path, stamps: tuple, white: float, keys: tuple[str, str]
) -> tuple[tuple[str, ...], dict[str, Examples], str, list[str]]:
    """Class names, examples by split, a digest of them, and notes for the user."""
    arrays, notes = read_npz(path, *keys) if kind == 'npz' else read_idx(path)
    arrays = complete_splits(path, arrays, notes)
    images = _convert_images(path, arrays, white, notes)
    class_names, labels = _number_labels(path, arrays)
    splits = {split: Examples(images[split], labels[split]) for split in arrays}
    return class_names, splits, hash_examples(splits, repr(class_names)), notes


def _convert_images(
    path: pathlib.Path, arrays: dict[str, LabelledImages], white: float, notes: list[str]
) -> dict[str, UInt8[np.ndarray, 'examples height width channels']]:
    images = {split: _put_channels_last(path, of, notes) for split, of in arrays.items()}
    shapes = {array.shape[1:]: arrays[split].image_name for split, array in images.items()}
    if len(shapes) > 1:
        shown = '; '.join(f'{name}: {shape}' for shape, name in shapes.items())
        raise UserError(f'{path}: images of several shapes: {shown}; allowed is one')
    names = ', '.join(of_split.image_name for of_split in arrays.values())
    # NumPy's, not Python's: they pass NaN on.
    least = float(np.min([array.min() for array in images.values()]))
    most = float(np.max([array.max() for array in images.values()]))
    floats_to_1 = most <= 1 and {array.dtype.kind for array in images.values()} <= {'b', 'f'}
    limit = white or (1 if floats_to_1 else 255)
    dark = limit == 255 != white and most <= 1
    floats = (image for array in images.values() if array.dtype.kind == 'f' for image in array)
    # Image by image: a copy of all of them may not fit memory.
    fractions = limit == 255 and any((image != np.floor(image)).any() for image in floats)
    values = (
        f'{path}: {names}: {"fractional " if fractions else ""}values from {least:g} to {most:g}; '
        'allowed are integers from 0 to 255, or floats from 0 to 1'
    )
    if least < 0:
        raise UserError(f'{values}; save the images before their mean was subtracted')
    if dark or fractions or not most <= limit:  # NaN is not either
        example = max(math.ceil(most), 1) if math.isfinite(most) else 1
        raise UserError(
            f'{values}; scale them, or set what is white, perhaps --config.dataset.white={example}'
        )
    if limit == 255 and all(array.dtype == np.uint8 for array in images.values()):
        return {split: np.ascontiguousarray(array) for split, array in images.items()}
    notes.append(f'{names}: values from {least:g} to {most:g}; 0 is black, {limit:g} is white')
    return {split: _to_uint8(array, 255 / limit) for split, array in images.items()}


def _put_channels_last(path: pathlib.Path, arrays: LabelledImages, notes: list[str]) -> np.ndarray:
    images, shape = arrays.images, arrays.images.shape
    count, num_labels = ((*array.shape, 0)[0] for array in (images, arrays.labels))
    if count != num_labels or not count:
        raise UserError(
            f'{path}: {count} images in {arrays.image_name} and {num_labels} labels in '
            f'{arrays.label_name}; allowed is the same number of both, at least one'
        )
    last = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    first = len(shape) == 4 and shape[1] in (1, 3)
    if images.dtype.kind not in 'buif' or last == first or not images.size:
        raise UserError(
            f'{path}: {arrays.image_name}: {images.dtype} {shape}; allowed are numbers (N, H, W) '
            'or (N, H, W, C) of 1 or 3 channels, and (N, C, H, W) where H and W are others; '
            'reshape or transpose it'
        )
    if first:
        notes.append(f'{arrays.image_name} is taken as (N, C, H, W)')
        return np.moveaxis(images, 1, -1)
    return images if len(shape) == 4 else images[..., None]


def _to_uint8(images: np.ndarray, scale: float) -> UInt8[np.ndarray, 'N H W C']:
    converted = np.empty(images.shape, np.uint8)
    for number, image in enumerate(images):
        converted[number] = np.round(image * scale)
    return converted


def _number_labels(
    path: pathlib.Path, arrays: dict[str, LabelledImages]
) -> tuple[tuple[str, ...], dict[str, Int32[np.ndarray, ' examples']]]:
    """The names of the classes, which are the labels of training, and the labels by number."""
    values = {split: _label_values(path, of_split) for split, of_split in arrays.items()}
    first = 'train' if 'train' in values else 'all'
    classes, count = np.unique(values[first]), len(values[first])
    if len(classes) > max(MAX_CLASSES, count // 10):
        raise UserError(
            f'{path}: {arrays[first].label_name}: {len(classes)} values in {count} labels, too '
            'many for classes; save a class of each image'
        )
    for split, labels in values.items():
        same = labels.dtype.kind == classes.dtype.kind
        new = labels[~np.isin(labels, classes)] if same else labels
        if len(new):
            raise UserError(
                f'{path}: {arrays[split].label_name}: label {new[0].item()!r} is none of '
                f'{arrays[first].label_name}; allowed are labels that training images have'
            )
    numbers = {split: np.searchsorted(classes, values[split]).astype(np.int32) for split in values}
    return tuple(map(str, classes.tolist())), numbers


def _label_values(path: pathlib.Path, arrays: LabelledImages) -> np.ndarray:
    """Labels (N,) as integers or texts."""
    labels, problem = arrays.labels, f'{arrays.labels.dtype} {arrays.labels.shape}'
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
        if labels.dtype.kind == 'S':
            labels = np.char.decode(labels, 'utf-8', 'backslashreplace')
        texts = np.char.strip(labels)
        empty = np.flatnonzero(texts == '')
        if not len(empty):
            return texts
        problem = f'the label of row {empty[0]} is empty'
    raise UserError(
        f'{path}: {arrays.label_name}: {problem}; allowed are integers or texts (N,) or (N, 1), '
        'and one-hot (N, classes)'
    )
