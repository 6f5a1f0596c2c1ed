"""Pictures of any size in a folder a class, as a data set: `FolderSource`."""

import hashlib
import json
import math
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import NoReturn

import numpy as np

from mixer_dilated.data.decoding_threads import decoded
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.folder_records import FolderRecords
from mixer_dilated.data.picture_folder import Ignored, ignored_text
from mixer_dilated.data.picture_split import PictureFile, find_pictures
from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.data.splits import split_slices
from mixer_dilated.errors import InputError, UnreadableError
from mixer_dilated.user_cache import user_cache
from mixer_dilated.whole_file import WholeFile

MOST_NAMED = 3
MOST_KEPT = 2**30  # bytes of images that were decoded to be checked


class FolderSource:
    """The pictures of a folder, as a `Source`; see `find_pictures` for its classes and splits.

    Args:
      root: the folder.
      preprocessing: how its files become images.
      test_share, split_seed: see `find_pictures`.
      on_broken: 'stop', which refuses when a split with one is read, or 'skip': all files are
        decoded once, and those that cannot be used are left out of the splits, counted and told.
        Which they are is kept beside the decoded images.
      cache_dir: folder of the cache; '' is the user's cache folder.

    Raises:
      InputError: the folder is not one of classes, or 'skip' leaves a split or class without
        pictures, or meets a file that the system does not let be read.
    """

    def __init__(
        self,
        root: pathlib.Path,
        preprocessing: Preprocessing,
        *,
        test_share: float = 0.2,
        split_seed: int = 0,
        on_broken: str = 'stop',
        cache_dir: str = '',
    ):
        # What a cache entry is called: a few letters that any file system takes.
        self.name = 'folder-' + ''.join(c for c in root.resolve().name if c.isalnum())[:40]
        self.image_shape = self.stored_shape = preprocessing.image_shape
        self._root = root
        self._preprocessing = preprocessing
        self._decoded = {}
        ignored = Ignored()
        self.class_names, self._files = find_pictures(root, test_share, split_seed, ignored)
        self.num_classes = len(self.class_names)
        self._note_identity()
        if ignored:
            warnings.warn(f'{root}: left out {ignored_text(ignored)}', stacklevel=2)
        if on_broken == 'skip':
            self._leave_out_broken(cache_dir)
        self.split_sizes = {split: len(files) for split, files in self._files.items()}

    def read(self, split: str) -> Examples:
        """Decodes the examples of a split given in TFDS split syntax, in the stored order.

        Raises:
          InputError: files that cannot be used, of all splits, named and counted; or one that the
            system does not let be read.
        """
        slices = split_slices('split', split, self.split_sizes)
        parts = []
        for name, start, stop in slices:
            if name in self._decoded:
                parts.append(Examples(*(array[start:stop] for array in self._decoded[name])))
                continue
            files = self._files[name][start:stop]
            examples, broken = self._decode(files)
            if broken:
                self._refuse(files, broken)
            parts.append(examples)
        if len(parts) == 1:
            return parts[0]
        return Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def records(self, split: str) -> FolderRecords:
        """The examples of a split, in the stored order, none of them decoded yet."""
        slices = split_slices('split', split, self.split_sizes)
        files = [file for name, start, stop in slices for file in self._files[name][start:stop]]
        return FolderRecords.of(self._root, files, self._preprocessing)

    def _refuse(self, decoded: list[PictureFile], broken: dict[str, str]) -> NoReturn:
        """Names the broken pictures of all splits, so that nobody mends one after the other."""
        done = {file.path for file in decoded}
        everything = [file for files in self._files.values() for file in files]
        others = [file for file in everything if file.path not in done]
        broken = broken | self._decode(others, keep=False)[1]
        raise InputError(
            f'{self._root}: {len(broken)} of {len(everything)} pictures cannot be used: '
            f'{_named(broken)}; remove or mend them, or leave them out: '
            '--config.dataset.on_broken=skip'
        )

    def _decode(
        self, files: list[PictureFile], *, keep: bool = True
    ) -> tuple[Examples, dict[str, str]]:
        """The images of those files that can be used, and why the others, by path, cannot.

        Without `keep` there are no images in it.
        """
        images = np.empty((len(files) if keep else 0, *self.image_shape), np.uint8)
        labels = np.empty(len(files), np.int32)
        broken, count = {}, 0
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module='PIL')  # which names no file
            paths = (os.path.join(self._root, file.path) for file in files)
            found = decoded(paths, self._preprocessing)
            for file, (_, image) in zip(files, found, strict=True):
                if isinstance(image, UnreadableError):
                    raise InputError(
                        f'{self._root}: {file.path}: cannot be read: {image}; when that is mended, '
                        'the same command goes on'
                    )
                if isinstance(image, InputError):
                    broken[file.path] = str(image)
                    continue
                if keep:
                    images[count], labels[count] = image, file.label
                    count += 1
        return Examples(images[:count], labels[:count]), broken

    def _leave_out_broken(self, cache_dir: str) -> None:
        note = _broken_note(self.name, self.fingerprint, cache_dir)
        broken = _read_note(note)
        if broken is None:
            broken = {}
            size = sum(map(len, self._files.values())) * math.prod(self.image_shape)
            for split, files in self._files.items():
                decoded, found = self._decode(files, keep=size <= MOST_KEPT)
                if size <= MOST_KEPT:
                    # For `read`: what was decoded to be checked need not be decoded again.
                    self._decoded[split] = decoded
                broken |= found
            _write_note(note, broken)
        if not broken:
            return
        total = sum(map(len, self._files.values()))
        warnings.warn(
            f'{self._root}: left out {len(broken)} of {total} pictures, which cannot be used: '
            f'{_named(broken)}',
            stacklevel=3,
        )
        for split, files in self._files.items():
            files[:] = [file for file in files if file.path not in broken]
            without = {*range(self.num_classes)} - {file.label for file in files}
            if without:
                raise InputError(
                    f'{self._root}: no picture of class {self.class_names[min(without)]!r} in '
                    f'{split} can be used; put others there, or remove the class'
                )
        self._note_identity()

    def _note_identity(self) -> None:
        self.fingerprint = self._hashed(lambda file: file.identity)
        self.identity = self._hashed(lambda file: file.size)

    def _hashed(self, identity: Callable[[PictureFile], str]) -> str:
        """Settings and every file's name and, in some way, identity, hashed."""
        digest = hashlib.sha256(repr(self._preprocessing).encode())
        for split, files in self._files.items():
            for file in files:
                line = f'{split}\0{file.path}\0{file.label}\0{identity(file)}\n'
                digest.update(line.encode(errors='surrogateescape'))
        return digest.hexdigest()


def _named(broken: dict[str, str]) -> str:
    named = '; '.join(f'{path}: {cause}' for path, cause in [*broken.items()][:MOST_NAMED])
    more = len(broken) - MOST_NAMED
    return named + (f'; and {more} more' if more > 0 else '')


def _broken_note(name: str, fingerprint: str, cache_dir: str) -> pathlib.Path:
    root = pathlib.Path(cache_dir).expanduser() if cache_dir else user_cache()
    return root / f'{name}-{fingerprint[:16]}-broken.json'


def _read_note(path: pathlib.Path) -> dict[str, str] | None:
    """The broken files that an earlier start found; None if it is to be found out."""
    try:
        noted = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    strings = isinstance(noted, dict) and all(isinstance(each, str) for each in noted.values())
    return noted if strings else None


def _write_note(path: pathlib.Path, broken: dict[str, str]) -> None:
    """Keeps what was found; a cache that cannot be written costs time at the next start."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WholeFile(path) as file:
            file.write(json.dumps(broken).encode())
    except OSError as error:
        warnings.warn(f'broken pictures are not noted: {path}: {error}', stacklevel=2)
