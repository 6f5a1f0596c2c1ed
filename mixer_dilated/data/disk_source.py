"""Decoded examples on disk, for the epochs after the first: `DiskDataSource`."""

import contextlib
import functools
import os
import pathlib
import shutil
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32
from ml_collections import ConfigDict

from mixer_dilated.data.examples import (
    Dataset,
    Examples,
    InMemoryDataSource,
    RandomAccessDataSource,
    cache_folder,
    cache_key,
)
from mixer_dilated.errors import UserError


class DiskDataSource:
    """A `RandomAccessDataSource` that keeps in a file what another one has decoded.

    The file has a row an example: CRC-32 of the rest (4 bytes), label (4), pixels. A row whose
    checksum does not hold, as of one that was never written, or not whole, is decoded and written;
    any number of processes may do so at once. Where the disk is full nothing more is written.
    """

    def __init__(self, source: RandomAccessDataSource, path: pathlib.Path):
        self._source, self._path = source, path
        self.image_shape = source.image_shape
        self.row = np.dtype([('crc', '<u4'), ('label', '<i4'), ('image', 'u1', self.image_shape)])

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != '_file'}

    def __len__(self) -> int:
        return len(self._source)

    @property
    def all_labels(self) -> Int32[np.ndarray, ' examples']:
        return self._source.all_labels  # AttributeError where `source` has none

    def labels(self, index: Sequence[int]) -> Int32[np.ndarray, ' examples']:
        return self._source.labels(index)

    def read(self, index: Sequence[int]) -> Examples:
        images = np.empty((len(index), *self.image_shape), np.uint8)
        labels = np.empty(len(index), np.int32)
        row, missing = np.zeros((), self.row), []
        content = memoryview(row.reshape(1)).cast('B')
        for i, number in enumerate(index):
            size = os.preadv(self._file, [content], int(number) * len(content))
            if size == len(content) and row['crc'] == zlib.crc32(content[4:]):
                images[i], labels[i] = row['image'], row['label']
            else:
                missing.append(i)
        if missing:
            decoded = self._source.read(np.asarray(index)[missing])
            images[missing], labels[missing] = decoded
            with contextlib.suppress(OSError):  # a full disk
                for i in missing:
                    row['image'], row['label'] = images[i], labels[i]
                    row['crc'] = zlib.crc32(content[4:])
                    os.pwrite(self._file, content, int(index[i]) * len(content))
        return Examples(images, labels)

    @functools.cached_property
    def _file(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def keep_on_disk(
    dataset: Dataset, split: str, settings: ConfigDict, cache_dir: str
) -> RandomAccessDataSource:
    """The examples of a split, kept on disk if `config.input` has it so and there is room.

    Those that were used least recently are removed where all together would exceed
    `input.disk_gib`. Raises UserError if `input.mode` is 'disk', and there is no room or the folder
    cannot be written.
    """
    source = dataset.data_source(split)
    if settings.mode == 'stream' or isinstance(source, InMemoryDataSource):
        return source
    folder = cache_folder(cache_dir) / 'decoded'
    path = folder / cache_key(dataset, split, dataset.stored_shape)
    kept = DiskDataSource(source, path)
    needed, allowed = len(kept) * kept.row.itemsize, settings.disk_gib * 2**30
    try:
        if needed <= allowed:
            _make_room(path, allowed - needed)
            allowed = min(allowed, shutil.disk_usage(folder).free + _disk_bytes(path))
        if needed <= allowed:
            return kept
        cause = f'config.input.disk_gib and the disk allow {allowed / 2**30:.3g}'
    except OSError as error:
        cause = f'{folder}: {error.strerror}'
    if settings.mode == 'disk':
        raise UserError(
            f"config.input.mode = 'disk': {split!r} takes {needed / 2**30:.3g} GiB decoded; "
            f"{cause}; change it, or config.dataset.cache_dir, or set the mode 'stream'"
        )
    return source


def _make_room(path: pathlib.Path, allowed: float) -> None:
    """Makes a file; removes those beside it that are the longest unused, above so many bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or not path.is_file():  # nothing is written through a link
        path.unlink(missing_ok=True)
    path.touch()
    others = sorted({*path.parent.iterdir()} - {path}, key=lambda file: file.stat().st_mtime)
    while sum(map(_disk_bytes, others)) > allowed:
        others.pop(0).unlink()


def _disk_bytes(path: pathlib.Path) -> int:
    return path.stat().st_blocks * 512  # rows that are not there take none
