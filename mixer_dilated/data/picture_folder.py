"""The picture files of a folder and of all folders in it; nothing else is followed or opened."""

import collections
import os
from collections.abc import Iterator

from mixer_dilated.data.picture_file import SUFFIXES
from mixer_dilated.errors import InputError

Ignored = collections.Counter


def walk_pictures(
    folder: str | os.PathLike, ignored: Ignored, root: str | os.PathLike | None = None
) -> Iterator[os.DirEntry]:
    """The entries of all picture files, folder by folder, in sorted order, one at a time.

    Left out and counted: files without one of the suffixes .png, .jpg, .jpeg and .webp; what is no
    file, like a pipe; links out of the folder, and links to folders. Hidden files and folders, with
    names that start with a dot, are left out.

    Args:
      folder: where to begin.
      ignored: counts of what is left out, which are added to.
      root: the folder that links must not lead out of, if it is not the one where to begin.

    Raises:
      InputError: a folder that cannot be read.
    """
    root = os.path.realpath(root or folder)
    folders = [os.fspath(folder)]
    while folders:
        inside = []
        for entry in visible_entries(folders.pop()):
            if entry.is_dir(follow_symlinks=False):
                inside.append(entry.path)
            elif reason := _left_out(entry, root):
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


def _left_out(entry: os.DirEntry, root: str) -> tuple[str, str] | None:
    """Why an entry that is no folder is left out, for one of them and for several."""
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
    return None if regular else ('pipe, device or dead link', 'pipes, devices or dead links')
