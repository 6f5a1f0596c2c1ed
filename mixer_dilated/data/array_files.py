"""Images and labels in arrays, as files hold them: an .npz as Keras', and MNIST's idx files."""

import gzip
import math
import os
import pathlib
import re
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from mixer_dilated.data.image_files import visible_entries
from mixer_dilated.data.split_names import split_of
from mixer_dilated.errors import UserError
from mixer_dilated.files import (
    MAX_ARRAY_BYTES,
    check_unpacked_size,
    error_text,
    max_unpacked,
    open_regular,
)

IMAGES = {'x', 'images', 'image', 'imgs', 'data'}  # words of an array's name
LABELS = {'y', 'labels', 'label', 'targets', 'target'}
NPZ_HINT = (
    'allowed are x_train, y_train, x_test and y_test (and x_val, y_val), or images and labels'
)
IDX_NAME = re.compile(r'(?:(.+)-)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?')
IDX_HINT = (
    'allowed are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and '
    't10k-labels-idx1-ubyte, each .gz or not'
)
GZIP = b'\x1f\x8b'


class LabelledImages(NamedTuple):
    """The arrays of a split as they are stored, with the names that messages call them by."""

    images: np.ndarray
    labels: np.ndarray
    image_name: str
    label_name: str


def read_npz(
    path: pathlib.Path, image_key: str = '', label_key: str = ''
) -> tuple[dict[str, LabelledImages], list[str]]:
    """The arrays of an .npz file for each split, or for 'all'; and notes. Pickles are never loaded.

    `image_key` and `label_key` are the names of the arrays of 'all'; '' for 'images' and 'labels'
    or alike. Raises UserError for arrays missing or damaged, or names whose meaning is not clear.
    """
    try:
        with path.open('rb') as file:
            if not zipfile.is_zipfile(file):
                raise UserError(f'{path}: not an .npz file, or truncated; save it with numpy.savez')
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                check_unpacked_size(archive, os.path.getsize(path))
                pairs, others = _match_names(path, archive.files, (image_key, label_key))
                splits = {
                    split: LabelledImages(*(_read_array(path, archive, key) for key in pair), *pair)
                    for split, pair in pairs.items()
                }
    except UserError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f'{path}: cannot be read: {error}; copy it again') from None
    return splits, [f'left out the arrays {", ".join(others)}'] if others else []


def _match_names(
    path: pathlib.Path, names: list[str], keys: tuple[str, str]
) -> tuple[dict[str, list[str]], list[str]]:
    """{split: names of its images and labels}, and the other names, of the arrays of an .npz."""
    pairs, others, shown = {}, [], ', '.join(names) or 'none'
    for key in filter(None, keys):
        if key not in names:
            raise UserError(f'{path}: has no array {key!r}; allowed are {shown}')
    for name in names:
        words = {*re.split(r'[\W_]+', name.lower())}
        kind, rest = int(bool(words & LABELS)), words - IMAGES - LABELS
        split = split_of(' '.join(rest)) if rest else 'all'
        if name in keys:
            kind, split = keys.index(name), 'all'
        elif rest == words or split is None or (split == 'all' and keys[kind]):
            others.append(name)
            continue
        pair = pairs.setdefault(split, [None, None])
        if pair[kind]:
            raise UserError(
                f'{path}: which of its arrays {pair[kind]} and {name} is meant? Leave one out, or '
                f'set --config.dataset.{("image_key", "label_key")[kind]}=NAME'
            )
        pair[kind] = name
    for images, labels in pairs.values() if pairs else [('', '')]:
        if not (images and labels):
            lacks = ' and '.join(['images'] * (not images) + ['labels'] * (not labels))
            has = f'array {images or labels} but ' if pairs else ''
            raise UserError(f'{path}: has {has}no {lacks}; its arrays are {shown}; {NPZ_HINT}')
    return pairs, others


def _read_array(path: pathlib.Path, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        array = archive[name]
        if not isinstance(array, np.ndarray):  # NumPy returns the bytes of any other file
            raise ValueError('not an array but another file')
        return array
    # NumPy and zipfile raise errors of many types at damaged arrays.
    except Exception as error:
        cause = error_text(error)
        hint = 'copy the file again, or write it anew'
        if 'pickle' in cause:
            cause = 'an array of Python objects, which is never loaded'
            hint = 'save numbers, or texts as labels.astype(str)'
        raise UserError(f'{path}: array {name} cannot be read: {cause}; {hint}') from None


def read_idx(path: pathlib.Path) -> tuple[dict[str, LabelledImages], list[str]]:
    """The arrays of the four idx files of a folder; and notes.

    Where it holds several sets, the path ends with what their names begin with: 'emnist-letters'.
    EMNIST's images, which lie on their side, are set upright. Raises UserError for several sets, or
    files that are missing, truncated or of another kind.
    """
    folder, prefix = (path, '') if os.path.isdir(path) else (path.parent, path.name)
    sets = {}
    for entry in visible_entries(str(folder)):
        match = IDX_NAME.fullmatch(entry.name)
        if match and entry.is_file() and entry.name.startswith(prefix):
            split = 'train' if match[2] == 'train' else 'test'
            sets.setdefault(match[1] or '', {}).setdefault((split, match[3]), folder / entry.name)
    if len(sets) > 1:
        shown = ', '.join(map(repr, sets))
        raise UserError(f'{folder}: holds several sets: {shown}; name one, as idx:{folder}/NAME')
    ((name, files),) = sets.items() or [('', {})]
    splits, lie = {}, name.startswith('emnist')
    for split in ('train', 'test'):
        for kind in ('images', 'labels'):
            if (split, kind) not in files:
                raise UserError(f'{path}: has no idx file of {split} {kind}; {IDX_HINT}')
        paths = files[split, 'images'], files[split, 'labels']
        images, labels = map(_read_idx_file, paths, (3, 1))
        images = images.swapaxes(1, 2) if lie else images
        splits[split] = LabelledImages(images, labels, *(file.name for file in paths))
    return splits, ["EMNIST's images, which lie on their side, are set upright"] if lie else []


def _read_idx_file(path: pathlib.Path, ndim: int) -> np.ndarray:
    header_bytes = 4 + 4 * ndim
    with open_regular(path, 'fetch it again', MAX_ARRAY_BYTES) as file:
        packed, start = os.fstat(file.fileno()).st_size, file.read(2**12)
        file.seek(0)
        content = file
        if start[:2] == GZIP:
            # gzip itself skips what is behind the packed content byte by byte.
            start = zlib.decompressobj(31).decompress(start, header_bytes)
            content = gzip.GzipFile(fileobj=file)
        if start[:4] != bytes((0, 0, 8, ndim)):
            raise ValueError(
                f'begins with {start[:4].hex(" ")}; allowed is 00 00 08 {ndim:02x}, an idx file of '
                f'unsigned bytes in {ndim} dimensions'
            )
        shape = tuple(int.from_bytes(start[k : k + 4]) for k in range(4, header_bytes, 4))
        size = math.prod(shape)
        if 0 < size <= max_unpacked(packed) and packed < 1.01 * size + 2**16:
            pixels = content.read(header_bytes + size + 1)[header_bytes:]
            if len(pixels) == size:
                return np.frombuffer(pixels, np.uint8).reshape(shape)
        shown = '×'.join(map(str, shape))
        raise ValueError(
            f'truncated or damaged: its header says {shown} bytes, and it holds others'
        )
