"""The image files of a folder: which there are, and of which class and split each is."""

import collections
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from mixer_dilated.data.preprocessing import SUFFIXES
from mixer_dilated.errors import UserError

SPLITS = ('train', 'validation', 'test')
OTHER_SPLIT_NAMES = {'val', 'valid', 'dev'}

Ignored = collections.Counter  # of what is left out, by (singular, plural) of its kind


class ImageFile(NamedTuple):
    """A file of one class; `path` is relative to the data set's folder, with '/'."""

    path: str
    label: int
    num_bytes: int
    mtime_ns: int


def find_images(
    root: pathlib.Path, test_fraction: float, split_seed: int, ignored: Ignored
) -> tuple[tuple[str, ...], dict[str, list[ImageFile]]]:
    """Class names, sorted, and the files of each split.

    A folder that holds just `train`, `test` and perhaps `validation` has its splits there, each
    with the same class folders. Of any other each folder is a class, and of every class the same
    fraction is for testing, at least one image and not all: those whose names come first when they
    are sorted by a hash of `split_seed` and name. The files of a split are in the order of such a
    hash, so that a slice of it has all classes.

    Raises:
      UserError: no folder, fewer than two classes, a class without images or with a single one to
        be split, or splits of different classes.
    """
    folders = _subfolders(root, ignored)
    if not _are_splits(root, folders):
        names, files = _find_classes(root, root, folders, ignored)
        return names, _split(root, names, files, test_fraction, split_seed)
    splits = {
        split: _find_classes(root, root / split, _subfolders(root / split, ignored), ignored)
        for split in SPLITS
        if split in folders
    }
    names = splits['train'][0]
    for split, (others, _) in splits.items():
        if others != names:
            differing = sorted({*names} ^ {*others})
            raise UserError(
                f'{root}: train and {split} have different classes: {_list(differing)} '
                f'{"is" if len(differing) == 1 else "are"} in one of them only; each needs the '
                'same class folders'
            )
    return names, {split: _sort_by_hash(files, split_seed) for split, (_, files) in splits.items()}


def _subfolders(root: pathlib.Path, ignored: Ignored) -> list[str]:
    names = []
    for entry in visible_entries(str(root)):
        if entry.is_dir(follow_symlinks=False):
            names.append(entry.name)
        elif entry.is_dir():
            ignored['link to a folder', 'links to folders'] += 1
        else:
            ignored['file beside the folders', 'files beside the folders'] += 1
    return names


def _are_splits(root: pathlib.Path, folders: list[str]) -> bool:
    """Whether the folders are splits; raises UserError if that is not clear."""
    if {'train', 'test'} <= {*folders}:
        others = sorted({*folders} - {*SPLITS})
        if others:
            raise UserError(
                f'{root}: beside train and test there is {_list(others)}; allowed are train, '
                'test and validation, or folders of classes alone'
            )
        return True
    if 'train' in folders and {*folders} <= {*SPLITS, *OTHER_SPLIT_NAMES}:
        raise UserError(
            f'{root}: holds {_list(folders)}, but no test; name its folders train, test and, if '
            'you like, validation, or give --config.dataset.name=folder: the folder of classes '
            f'{root / "train"}, to have a share of it split off'
        )
    return False


def _find_classes(
    root: pathlib.Path, folder: pathlib.Path, names: list[str], ignored: Ignored
) -> tuple[tuple[str, ...], list[ImageFile]]:
    if len(names) < 2:
        holds = f'one class folder, {names[0]!r}' if names else 'no class folders'
        raise UserError(
            f'{folder}: holds {holds}; allowed are at least two, with their images in them: '
            'CLASS/image.png'
        )
    files = []
    for label, name in enumerate(names):
        before = len(files)
        for entry in walk_images(folder / name, ignored, root):
            status = entry.stat()
            path = os.path.relpath(entry.path, root).replace(os.sep, '/')
            files.append(ImageFile(path, label, status.st_size, status.st_mtime_ns))
        if len(files) == before:
            raise UserError(
                f'{folder / name}: a class folder without images ({", ".join(SUFFIXES)}); put '
                'some there, or remove it'
            )
    return tuple(names), files


def _split(
    root: pathlib.Path,
    names: tuple[str, ...],
    files: list[ImageFile],
    test_fraction: float,
    split_seed: int,
) -> dict[str, list[ImageFile]]:
    splits = {'train': [], 'test': []}
    ordered = _sort_by_hash(files, split_seed)
    for label, name in enumerate(names):
        of_class = [file for file in ordered if file.label == label]
        if len(of_class) < 2:
            raise UserError(
                f'{root / name}: a single image, which cannot be split into train and test; put '
                'more there, or make folders train and test'
            )
        num_test = min(max(round(test_fraction * len(of_class)), 1), len(of_class) - 1)
        splits['test'] += of_class[:num_test]
        splits['train'] += of_class[num_test:]
    return {split: _sort_by_hash(files, split_seed) for split, files in splits.items()}


def _sort_by_hash(files: list[ImageFile], split_seed: int) -> list[ImageFile]:
    def rank(file: ImageFile) -> bytes:
        return hashlib.sha256(f'{split_seed} {file.path}'.encode(errors='surrogateescape')).digest()

    return sorted(files, key=rank)


def walk_images(
    folder: str | os.PathLike, ignored: Ignored, root: str | os.PathLike | None = None
) -> Iterator[os.DirEntry]:
    """The entries of all image files, folder by folder, in sorted order.

    Left out and counted: files without one of the suffixes; what is no file, like a pipe; links out
    of the folder, to folders, and to images that are walked under their own name. Hidden files and
    folders, with names that start with a dot, are left out.

    Args:
      folder: where to begin.
      ignored: counts of what is left out, which are added to.
      root: the folder that links must not lead out of, if it is another; all folders beside the one
        to begin with are walked too.

    Raises:
      UserError: a folder that cannot be read.
    """
    root = os.path.realpath(root or folder)
    depth = len(_parts(os.path.realpath(folder), root))
    folders = [os.fspath(folder)]
    while folders:
        subfolders = []
        for entry in visible_entries(folders.pop()):
            if entry.is_dir(follow_symlinks=False):
                subfolders.append(entry.path)
            elif reason := _reason_to_ignore(entry, root, depth):
                ignored[reason] += 1
            else:
                yield entry
        folders += reversed(subfolders)


def visible_entries(folder: str) -> list[os.DirEntry]:
    """The entries of a folder that are not hidden, by name; UserError if it cannot be read."""
    try:
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith('.')]
    except OSError as error:
        raise UserError(f'{folder}: cannot be read: {error.strerror}') from None
    return sorted(entries, key=lambda entry: entry.name)


def ignored_text(ignored: Ignored) -> str:
    """'2 other files, 1 link out of the folder' of what `walk_images` counted."""
    return ', '.join(
        f'{count} {singular if count == 1 else plural}'
        for (singular, plural), count in ignored.items()
        if count
    )


def _reason_to_ignore(entry: os.DirEntry, root: str, depth: int) -> tuple[str, str] | None:
    """Why an entry that is no folder is left out, in singular and plural."""
    target = os.path.realpath(entry.path) if entry.is_symlink() else None
    if target and os.path.isdir(target):
        return 'link to a folder', 'links to folders'
    if target and not target.startswith(os.path.join(root, '')):
        return 'link out of the folder', 'links out of the folder'
    if not entry.name.lower().endswith(SUFFIXES):
        return 'file that is no image', 'files that are no images'
    try:
        regular = entry.is_file()
    except OSError:
        regular = False
    if not regular:
        return 'pipe, device or dead link', 'pipes, devices or dead links'
    if target:  # is it walked under its own name?
        parts = _parts(target, root)
        hidden = any(part.startswith('.') for part in parts)
        if len(parts) > depth and not hidden and target.lower().endswith(SUFFIXES):
            return 'link to an image of the folder', 'links to images of the folder'
    return None


def _parts(path: str, root: str) -> tuple[str, ...]:
    return pathlib.PurePath(os.path.relpath(path, root)).parts


def _list(names: list[str]) -> str:
    shown = ', '.join(map(repr, names[:3]))
    return shown if len(names) <= 3 else f'{shown} and {len(names) - 3} more'
