"""Which pictures of a folder belong to which class and split, by names alone."""

import hashlib
import os
import pathlib
from typing import NamedTuple

from mixer_dilated.data.picture_folder import Ignored, visible_entries, walk_pictures
from mixer_dilated.errors import InputError

SPLITS = ('train', 'validation', 'test')
_OTHER_NAMES = {'val', 'valid', 'dev'}


class PictureFile(NamedTuple):
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


def find_pictures(
    root: pathlib.Path, test_share: float, split_seed: int, ignored: Ignored
) -> tuple[tuple[str, ...], dict[str, list[PictureFile]]]:
    """Class names, sorted, and the files of each split.

    A folder that holds just `train`, `test` and perhaps `validation` has its splits there, each
    with the same class folders. Of any other each folder is a class, and of every class the same
    share is for testing, at least one picture and not all: those whose names come first when they
    are sorted by a hash of `split_seed` and name. The pictures of a split are in the order of such
    a hash, so that a slice of it has all classes.

    Raises:
      InputError: no folder, fewer than two classes, a class without pictures or with a single one
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
            raise InputError(
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
    """Whether the folders are splits; InputError if that is not clear."""
    if {'train', 'test'} <= {*folders}:
        others = sorted({*folders} - {*SPLITS})
        if others:
            raise InputError(
                f'{root}: beside train and test there is {_listed(others)}; allowed are train, '
                'test and validation, or folders of classes alone'
            )
        return True
    if 'train' in folders and {*folders} <= {*SPLITS, *_OTHER_NAMES}:
        raise InputError(
            f'{root}: holds {_listed(folders)}, but no test; name its folders train, test and, if '
            'you like, validation, or give --config.dataset.name=folder: the folder of classes '
            f'{root / "train"}, to have a share of it split off'
        )
    return False


def _classes(
    root: pathlib.Path, folder: pathlib.Path, names: list[str], ignored: Ignored
) -> tuple[tuple[str, ...], list[PictureFile]]:
    """The class names of a folder and the files of all classes."""
    if len(names) < 2:
        there = f'one class folder, {names[0]!r}' if names else 'no class folders'
        raise InputError(
            f'{folder}: holds {there}; allowed are at least two, with their pictures in them: '
            'CLASS/image.png'
        )
    files = []
    for label, name in enumerate(names):
        before = len(files)
        for entry in walk_pictures(folder / name, ignored, root):
            status = entry.stat()
            path = os.path.relpath(entry.path, root).replace(os.sep, '/')
            files.append(PictureFile(path, label, f'{status.st_size} {status.st_mtime_ns}'))
        if len(files) == before:
            raise InputError(
                f'{folder / name}: a class folder without pictures (.png, .jpg, .jpeg, .webp); put '
                'some there, or remove it'
            )
    return tuple(names), files


def _split(
    root: pathlib.Path,
    names: tuple[str, ...],
    files: list[PictureFile],
    test_share: float,
    split_seed: int,
) -> dict[str, list[PictureFile]]:
    """Of each class the share `test_share` for testing."""
    parts = {'train': [], 'test': []}
    ordered = _in_hashed_order(files, split_seed)
    for label, name in enumerate(names):
        of_class = [file for file in ordered if file.label == label]
        if len(of_class) < 2:
            raise InputError(
                f'{root / name}: a single picture, which cannot be split into train and test; put '
                'more there, or make folders train and test'
            )
        for_testing = min(max(round(test_share * len(of_class)), 1), len(of_class) - 1)
        parts['test'] += of_class[:for_testing]
        parts['train'] += of_class[for_testing:]
    return {split: _in_hashed_order(found, split_seed) for split, found in parts.items()}


def _in_hashed_order(files: list[PictureFile], split_seed: int) -> list[PictureFile]:
    def rank(file: PictureFile) -> bytes:
        return hashlib.sha256(f'{split_seed} {file.path}'.encode(errors='surrogateescape')).digest()

    return sorted(files, key=rank)


def _listed(names: list[str]) -> str:
    shown = ', '.join(map(repr, names[:3]))
    return shown if len(names) <= 3 else f'{shown} and {len(names) - 3} more'
