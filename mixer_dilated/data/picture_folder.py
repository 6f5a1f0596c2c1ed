"""The picture files of a folder and of all folders in it; nothing else is followed or opened."""

import collections
import os
import pathlib
from collections.abc import Iterator

from mixer_dilated.data.picture_file import SUFFIXES
from mixer_dilated.errors import InputError

Ignored = collections.Counter


def walk_pictures(
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
      InputError: a folder that cannot be read.
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
    """What a folder holds that is not hidden, by name. Raises InputError if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith('.')]
    except OSError as error:
        raise InputError(f'{folder}: cannot be read: {error.strerror}') from None
    return sorted(entries, key=lambda entry: entry.name)


def ignored_text(ignored: Ignored) -> str:
    """'2 other files, 1 link out of the folder' of what `walk_pictures` counted."""
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
