"""Image files in a folder a class, as a data set."""

import collections
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn

import numpy as np
from jaxtyping import Int32

from mixer_dilated.data.examples import Examples, split_slices
from mixer_dilated.data.preprocessing import SUFFIXES, Preprocessing, decoded
from mixer_dilated.errors import UnreadableError, UserError
from mixer_dilated.files import AtomicFile, user_cache

Ignored = collections.Counter


def walk_images(
    folder: str | os.PathLike, ignored: Ignored, root: str | os.PathLike | None = None
) -> Iterator[os.DirEntry]:
    """The entries of all picture files, folder by folder, in sorted order, one at a time.

    Left out and counted: files without one of the suffixes .png, .jpg, .jpeg and .webp; what is no
    file, like a pipe; links out of the folder, to folders, and to pictures that are walked under
    their own name. Hidden files and folders, with names that start with a dot, are left out.

    Args:
      folder: where to begin.
      ignored: counts of what is left out, which are added to.
      root: the folder that links must not lead out of, if it is not the one where to begin; all
        folders beside that one are walked too.

    Raises:
      UserError: a folder that cannot be read.
    """
    root = os.path.realpath(root or folder)
    depth = len(_parts(os.path.realpath(folder), root))
    folders = [os.fspath(folder)]
    while folders:
        inside = []
        for entry in visible_entries(folders.pop()):
            if entry.is_dir(follow_symlinks=False):
                inside.append(entry.path)
            elif reason := _left_out(entry, root, depth):
                ignored[reason] += 1
            else:
                yield entry
        folders += reversed(inside)


def visible_entries(folder: str) -> list[os.DirEntry]:
    """What a folder holds that is not hidden, by name. Raises UserError if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith('.')]
    except OSError as error:
        raise UserError(f'{folder}: cannot be read: {error.strerror}') from None
    return sorted(entries, key=lambda entry: entry.name)


def ignored_text(ignored: Ignored) -> str:
    """'2 other files, 1 link out of the folder' of what `walk_images` counted."""
    return ', '.join(
        f'{count} {one if count == 1 else several}'
        for (one, several), count in ignored.items()
        if count
    )


def _left_out(entry: os.DirEntry, root: str, depth: int) -> tuple[str, str] | None:
    """Why an entry that is no folder is left out, for one of them and for several.

    Args:
      entry: a file, a link or something else.
      root: the folder that links must not lead out of.
      depth: how many folders below it the walks begin.
    """
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if os.path.isdir(target):
            return 'link to a folder', 'links to folders'
        if not target.startswith(os.path.join(root, '')):
            return 'link out of the folder', 'links out of the folder'
    if not entry.name.lower().endswith(SUFFIXES):
        return 'file that is no picture', 'files that are no pictures'
    try:
        regular = entry.is_file()
    except OSError:
        regular = False
    if not regular:
        return 'pipe, device or dead link', 'pipes, devices or dead links'
    if entry.is_symlink() and _is_walked(target, root, depth):
        return 'link to a picture of the folder', 'links to pictures of the folder'
    return None


def _is_walked(path: str, root: str, depth: int) -> bool:
    """Whether a picture below the root is found under its own name too."""
    parts = _parts(path, root)
    hidden = any(part.startswith('.') for part in parts)
    return len(parts) > depth and not hidden and path.lower().endswith(SUFFIXES)


def _parts(path: str, root: str) -> tuple[str, ...]:
    return pathlib.PurePath(os.path.relpath(path, root)).parts


SPLITS = ('train', 'validation', 'test')
_OTHER_NAMES = {'val', 'valid', 'dev'}


class ImageFile(NamedTuple):
    """A file of one class.

    Attributes:
      path: below the data set's folder, with '/'.
      label: index of its class.
      identity: size and time of change.
    """

    path: str
    label: int
    identity: str

    @property
    def size(self) -> str:
        """In bytes."""
        return self.identity.split()[0]


def find_images(
    root: pathlib.Path, test_share: float, split_seed: int, ignored: Ignored
) -> tuple[tuple[str, ...], dict[str, list[ImageFile]]]:
    """Class names, sorted, and the files of each split.

    A folder that holds just `train`, `test` and perhaps `validation` has its splits there, each
    with the same class folders. Of any other each folder is a class, and of every class the same
    share is for testing, at least one picture and not all: those whose names come first when they
    are sorted by a hash of `split_seed` and name. The pictures of a split are in the order of such
    a hash, so that a slice of it has all classes.

    Raises:
      UserError: no folder, fewer than two classes, a class without pictures or with a single one
        to be split, or splits of different classes.
    """
    folders = _folders(root, ignored)
    if not _has_splits(root, folders):
        names, files = _classes(root, root, folders, ignored)
        return names, _split(root, names, files, test_share, split_seed)
    found = {
        split: _classes(root, root / split, _folders(root / split, ignored), ignored)
        for split in SPLITS
        if split in folders
    }
    names = found['train'][0]
    for split, (others, _) in found.items():
        if others != names:
            differing = sorted({*names} ^ {*others})
            raise UserError(
                f'{root}: train and {split} have different classes: {_listed(differing)} '
                f'{"is" if len(differing) == 1 else "are"} in one of them only; each needs the '
                'same class folders'
            )
    return names, {
        split: _in_hashed_order(files, split_seed) for split, (_, files) in found.items()
    }


def _folders(root: pathlib.Path, ignored: Ignored) -> list[str]:
    """Names of the folders in a folder; links and files beside them are left out and counted."""
    names = []
    for entry in visible_entries(str(root)):
        if entry.is_dir(follow_symlinks=False):
            names.append(entry.name)
        elif entry.is_dir():
            ignored['link to a folder', 'links to folders'] += 1
        else:
            ignored['file beside the folders', 'files beside the folders'] += 1
    return names


def _has_splits(root: pathlib.Path, folders: list[str]) -> bool:
    """Whether the folders are splits; UserError if that is not clear."""
    if {'train', 'test'} <= {*folders}:
        others = sorted({*folders} - {*SPLITS})
        if others:
            raise UserError(
                f'{root}: beside train and test there is {_listed(others)}; allowed are train, '
                'test and validation, or folders of classes alone'
            )
        return True
    if 'train' in folders and {*folders} <= {*SPLITS, *_OTHER_NAMES}:
        raise UserError(
            f'{root}: holds {_listed(folders)}, but no test; name its folders train, test and, if '
            'you like, validation, or give --config.dataset.name=folder: the folder of classes '
            f'{root / "train"}, to have a share of it split off'
        )
    return False


def _classes(
    root: pathlib.Path, folder: pathlib.Path, names: list[str], ignored: Ignored
) -> tuple[tuple[str, ...], list[ImageFile]]:
    """The class names of a folder and the files of all classes."""
    if len(names) < 2:
        there = f'one class folder, {names[0]!r}' if names else 'no class folders'
        raise UserError(
            f'{folder}: holds {there}; allowed are at least two, with their pictures in them: '
            'CLASS/image.png'
        )
    files = []
    for label, name in enumerate(names):
        before = len(files)
        for entry in walk_images(folder / name, ignored, root):
            status = entry.stat()
            path = os.path.relpath(entry.path, root).replace(os.sep, '/')
            files.append(ImageFile(path, label, f'{status.st_size} {status.st_mtime_ns}'))
        if len(files) == before:
            raise UserError(
                f'{folder / name}: a class folder without pictures (.png, .jpg, .jpeg, .webp); put '
                'some there, or remove it'
            )
    return tuple(names), files


def _split(
    root: pathlib.Path,
    names: tuple[str, ...],
    files: list[ImageFile],
    test_share: float,
    split_seed: int,
) -> dict[str, list[ImageFile]]:
    """Of each class the share `test_share` for testing."""
    parts = {'train': [], 'test': []}
    ordered = _in_hashed_order(files, split_seed)
    for label, name in enumerate(names):
        of_class = [file for file in ordered if file.label == label]
        if len(of_class) < 2:
            raise UserError(
                f'{root / name}: a single picture, which cannot be split into train and test; put '
                'more there, or make folders train and test'
            )
        for_testing = min(max(round(test_share * len(of_class)), 1), len(of_class) - 1)
        parts['test'] += of_class[:for_testing]
        parts['train'] += of_class[for_testing:]
    return {split: _in_hashed_order(found, split_seed) for split, found in parts.items()}


def _in_hashed_order(files: list[ImageFile], split_seed: int) -> list[ImageFile]:
    def rank(file: ImageFile) -> bytes:
        return hashlib.sha256(f'{split_seed} {file.path}'.encode(errors='surrogateescape')).digest()

    return sorted(files, key=rank)


def _listed(names: list[str]) -> str:
    shown = ', '.join(map(repr, names[:3]))
    return shown if len(names) <= 3 else f'{shown} and {len(names) - 3} more'


@dataclasses.dataclass(frozen=True)
class ImageFolderDataSource:
    """Picture files, as `RandomAccessDataSource`.

    Attributes:
      root: the data set's folder.
      paths: below it, as bytes in an array: other processes get a copy, and there may be millions.
      all_labels: int32 (files,).
      preprocessing: how they become images.
    """

    root: pathlib.Path
    paths: np.ndarray
    all_labels: Int32[np.ndarray, ' files']
    preprocessing: Preprocessing

    @classmethod
    def of(
        cls, root: pathlib.Path, files: Sequence[ImageFile], preprocessing: Preprocessing
    ) -> 'ImageFolderDataSource':
        """Of a list of files."""
        paths = np.array([os.fsencode(file.path) for file in files])
        labels = np.array([file.label for file in files], np.int32)
        return cls(root, paths, labels, preprocessing)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.preprocessing.image_shape

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: Sequence[int]) -> Examples:
        """The examples of these numbers. Raises UserError at a file that cannot be used."""
        index = np.asarray(index)
        images = np.empty((len(index), *self.image_shape), np.uint8)
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module='PIL')  # which names no file
            for i, path in enumerate(map(os.fsdecode, self.paths[index])):
                try:
                    images[i] = self.preprocessing.read(os.path.join(self.root, path))
                except UserError as error:
                    raise UserError(
                        f'{self.root}: a picture that cannot be used: {path}: {error}; a '
                        'run that has saved goes on when it is there as it was; without it, or '
                        'with --config.dataset.on_broken=skip, begin in a new folder'
                    ) from None
        return Examples(images, self.all_labels[index])

    def labels(self, index: Sequence[int]) -> Int32[np.ndarray, ' examples']:
        """Their labels alone."""
        return self.all_labels[np.asarray(index)]


MAX_NAMED = 3
MAX_KEPT = 2**30  # bytes of images that were decoded to be checked


class ImageFolder:
    """The pictures of a folder, as a `Dataset`; see `find_images` for its classes and splits.

    Args:
      root: the folder.
      preprocessing: how its files become images.
      test_share, split_seed: see `find_images`.
      on_broken: 'stop', which refuses when a split with one is read, or 'skip': all files are
        decoded once, and those that cannot be used are left out of the splits, counted and told.
        Which they are is kept beside the decoded images.
      cache_dir: folder of the cache; '' is the user's cache folder.

    Raises:
      UserError: the folder is not one of classes, or 'skip' leaves a split or class without
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
        self.class_names, self._files = find_images(root, test_share, split_seed, ignored)
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
          UserError: files that cannot be used, of all splits, named and counted; or one that the
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

    def records(self, split: str) -> ImageFolderDataSource:
        """The examples of a split, in the stored order, none of them decoded yet."""
        slices = split_slices('split', split, self.split_sizes)
        files = [file for name, start, stop in slices for file in self._files[name][start:stop]]
        return ImageFolderDataSource.of(self._root, files, self._preprocessing)

    def _refuse(self, decoded: list[ImageFile], broken: dict[str, str]) -> NoReturn:
        """Names the broken pictures of all splits, so that nobody mends one after the other."""
        done = {file.path for file in decoded}
        everything = [file for files in self._files.values() for file in files]
        others = [file for file in everything if file.path not in done]
        broken = broken | self._decode(others, keep=False)[1]
        raise UserError(
            f'{self._root}: {len(broken)} of {len(everything)} pictures cannot be used: '
            f'{_named(broken)}; remove or mend them, or leave them out: '
            '--config.dataset.on_broken=skip'
        )

    def _decode(
        self, files: list[ImageFile], *, keep: bool = True
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
                    raise UserError(
                        f'{self._root}: {file.path}: cannot be read: {image}; when that is mended, '
                        'the same command goes on'
                    )
                if isinstance(image, UserError):
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
                decoded, found = self._decode(files, keep=size <= MAX_KEPT)
                if size <= MAX_KEPT:
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
                raise UserError(
                    f'{self._root}: no picture of class {self.class_names[min(without)]!r} in '
                    f'{split} can be used; put others there, or remove the class'
                )
        self._note_identity()

    def _note_identity(self) -> None:
        self.fingerprint = self._hashed(lambda file: file.identity)
        self.identity = self._hashed(lambda file: file.size)

    def _hashed(self, identity: Callable[[ImageFile], str]) -> str:
        """Settings and every file's name and, in some way, identity, hashed."""
        digest = hashlib.sha256(repr(self._preprocessing).encode())
        for split, files in self._files.items():
            for file in files:
                line = f'{split}\0{file.path}\0{file.label}\0{identity(file)}\n'
                digest.update(line.encode(errors='surrogateescape'))
        return digest.hexdigest()


def _named(broken: dict[str, str]) -> str:
    named = '; '.join(f'{path}: {cause}' for path, cause in [*broken.items()][:MAX_NAMED])
    more = len(broken) - MAX_NAMED
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
        with AtomicFile(path) as file:
            file.write(json.dumps(broken).encode())
    except OSError as error:
        warnings.warn(f'broken pictures are not noted: {path}: {error}', stacklevel=2)
