"""Image files in a folder a class, as a data set: `ImageFolder`."""

import dataclasses
import hashlib
import math
import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32
from ml_collections import ConfigDict

from mixer_dilated.data.class_folders import (
    ClassFolders,
    ImageFile,
    SplitFiles,
    find_again,
    split_images,
)
from mixer_dilated.data.examples import Examples, cache_folder, cache_name, split_slices
from mixer_dilated.data.image_decoding import white_of
from mixer_dilated.data.preprocessing import Preprocessing, decode_images
from mixer_dilated.errors import UnreadableError, UserError
from mixer_dilated.files import read_json, write_json
from mixer_dilated.patches.geometry import Shape

MAX_NAMED = 3
SAMPLE = 100  # files that are looked at for their range of values
MAX_KEPT_BYTES = 2**30  # of images that were decoded to find corrupt ones


class ImageFolder:
    """The image files of a folder, as a `Dataset`; see `class_folders`.

    With `on_corrupt` 'stop' a split with a corrupt file is refused when it is read; with 'skip' all
    files are decoded once, and corrupt ones are left out with a warning before the rest is split.
    Which they are is kept in the cache.

    Args:
      source: the folder; or the file in it that lists the images.
      folders: the images, as `find_images` or `read_listing` returns them.
      recorded: the splits of a run, which are found again by the names of their files.

    Attributes:
      split_files: of all splits, for `recorded` of a later time.

    Raises:
      UserError: a class of a split has no images, or the system does not let a file be read.
    """

    def __init__(
        self,
        source: pathlib.Path,
        folders: ClassFolders,
        dataset: ConfigDict,
        preprocessing: Preprocessing,
        recorded: SplitFiles | None = None,
    ):
        root = source if source.is_dir() else source.parent
        self.name = cache_name('folder' if source == root else 'csv', source)
        self.image_shape, self.stored_shape = preprocessing.image_shape, preprocessing.stored_shape
        self._root, self._preprocessing, self._decoded = root, preprocessing, {}
        notes = [*folders.notes]
        if dataset.on_corrupt == 'skip':
            corrupt = self._find_corrupt(folders.splits, dataset.cache_dir)
            if corrupt:
                number = f'{len(corrupt)} of {sum(map(len, folders.splits.values()))} images'
                notes.append(f'left out {number}, which cannot be used: {_list_corrupt(corrupt)}')
            usable = {
                split: [file for file in files if file.path not in corrupt]
                for split, files in folders.splits.items()
            }
            folders = folders._replace(splits=usable)
        self.class_names, self._files = folders.class_names, {}
        if recorded:
            self._files, note = find_again(folders, recorded)
            self.class_names = recorded.class_names if self._files else folders.class_names
            notes.append(note)
        if not self._files:
            self._files = split_images(source, folders, dataset.test_fraction, dataset.split_seed)
        if not preprocessing.white:
            self._check_white()
        for note in filter(None, notes):
            warnings.warn(f'{source}: {note}', stacklevel=2)
        self.num_classes = len(self.class_names)
        texts = preprocessing.identities
        self.fingerprint = _hash_files(texts[0], self._files, times=True)
        self.identity, *self.old_identities = (_hash_files(text, self._files) for text in texts)
        self.split_sizes = {split: len(files) for split, files in self._files.items()}
        paths = {split: [file.path for file in files] for split, files in self._files.items()}
        self.split_files = SplitFiles(self.class_names, paths)

    def read(self, split: str) -> Examples:
        """See `Dataset.read`; corrupt files of all splits are named, and counted, in one error."""
        files = self._slice(split)
        images = np.empty((len(files), *self.stored_shape), np.uint8)
        if self._decoded:
            np.stack([self._decoded[file.path] for file in files], out=images)
        elif corrupt := self._decode(files, images):
            seen = {file.path for file in files}
            others = (file for files in self._files.values() for file in files)
            corrupt |= self._decode([f for f in others if f.path not in seen])
            raise UserError(
                f'{self._root}: {len(corrupt)} of {sum(self.split_sizes.values())} images cannot '
                f'be used: {_list_corrupt(corrupt)}; mend or remove '
                'them, or leave them out: --config.dataset.on_corrupt=skip'
            )
        return Examples(images, np.array([file.label for file in files], np.int32))

    def data_source(self, split: str) -> 'ImageFolderDataSource':
        files = self._slice(split)
        paths = np.array([os.fsencode(file.path) for file in files])
        labels = np.array([file.label for file in files], np.int32)
        return ImageFolderDataSource(self._root, paths, labels, self._preprocessing)

    def _slice(self, split: str) -> list[ImageFile]:
        slices = split_slices('split', split, self.split_sizes)
        return [file for name, start, stop in slices for file in self._files[name][start:stop]]

    def _check_white(self) -> None:
        """Raises UserError if training images of 16 bits would be nearly black."""
        files = self._files['train']
        sample = files[:: len(files) // SAMPLE + 1]
        paths = (os.path.join(self._root, file.path) for file in sample)
        white = white_of(paths, self._preprocessing.max_pixels)
        if white:
            raise UserError(
                f'{self._root}: grey images of 16 bits, whose values are at most {white} and would '
                f'be nearly black; set --config.dataset.white={white}, or 65535 if they are dark'
            )

    def _decode(self, files: list[ImageFile], images: np.ndarray | None = None) -> dict[str, str]:
        """Decodes files, into `images` if given; returns {path: cause} of corrupt ones."""
        corrupt = {}
        paths = (os.path.join(self._root, file.path) for file in files)
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module='PIL')  # which names no file
            decoded = decode_images(paths, self._preprocessing)
            for row, (file, (_, image)) in enumerate(zip(files, decoded, strict=True)):
                if isinstance(image, UnreadableError):
                    raise UserError(
                        f'{self._root}: {file.path}: cannot be read: {image}; when that is mended, '
                        'the same command resumes'
                    )
                if isinstance(image, UserError):
                    corrupt[file.path] = str(image)
                elif images is not None:
                    images[row] = image
        return corrupt

    def _find_corrupt(self, splits: dict[str, list[ImageFile]], cache_dir: str) -> dict[str, str]:
        """{path: cause} of corrupt files, from the cache or by decoding all of them."""
        # The images do not depend on max_pixels, but which of them are too large does.
        text = f'{self._preprocessing.identities[0]} {self._preprocessing.max_pixels}'
        key = _hash_files(text, splits, times=True)[:16]
        path = cache_folder(cache_dir) / f'{self.name}-{key}-corrupt.json'
        try:
            corrupt = read_json(path)
            if all(isinstance(value, str) for value in corrupt.values()):
                return corrupt
        except UserError:
            pass
        files = [file for files in splits.values() for file in files]
        shape, images = (len(files), *self.stored_shape), None
        if math.prod(shape) <= MAX_KEPT_BYTES:  # `read` need not decode them again
            images = np.empty(shape, np.uint8)
            self._decoded = {file.path: image for file, image in zip(files, images, strict=True)}
        corrupt = self._decode(files, images)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, corrupt)
        except (OSError, UserError) as error:
            warnings.warn(f'corrupt images are not noted: {path}: {error}', stacklevel=3)
        return corrupt


@dataclasses.dataclass(frozen=True)
class ImageFolderDataSource:
    """Image files as a `RandomAccessDataSource`."""

    root: pathlib.Path
    paths: np.ndarray  # below root, as bytes: workers get a copy, and there may be millions
    all_labels: Int32[np.ndarray, ' files']
    preprocessing: Preprocessing

    @property
    def image_shape(self) -> Shape:
        return self.preprocessing.stored_shape

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: Sequence[int]) -> Examples:
        index = np.asarray(index)
        images = np.empty((len(index), *self.image_shape), np.uint8)
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module='PIL')  # which names no file
            for i, path in enumerate(map(os.fsdecode, self.paths[index])):
                try:
                    images[i] = self.preprocessing.read(os.path.join(self.root, path))
                except UserError as error:
                    raise UserError(
                        f'{self.root}: an image that cannot be used: {path}: {error}; a run that '
                        'has saved resumes when the file is there as it was; without it, or with '
                        '--config.dataset.on_corrupt=skip, begin in a new folder'
                    ) from None
        return Examples(images, self.all_labels[index])

    def labels(self, index: Sequence[int]) -> Int32[np.ndarray, ' examples']:
        return self.all_labels[np.asarray(index)]


def _hash_files(text: str, splits: dict[str, list[ImageFile]], *, times: bool = False) -> str:
    digest = hashlib.sha256(text.encode())
    for split, files in splits.items():
        for path, label, num_bytes, mtime_ns in files:
            state = f'{num_bytes} {mtime_ns}' if times else num_bytes
            line = f'{split}\0{path}\0{label}\0{state}\n'
            digest.update(line.encode(errors='surrogateescape'))
    return digest.hexdigest()


def _list_corrupt(corrupt: dict[str, str]) -> str:
    shown = '; '.join(f'{path}: {cause}' for path, cause in [*corrupt.items()][:MAX_NAMED])
    more = len(corrupt) - MAX_NAMED
    return shown + (f'; and {more} more' if more > 0 else '')
