"""The image files of a folder and of all folders below it."""

import collections
import os
import pathlib
from collections.abc import Iterator

from mixer_dilated.data.image_decoding import SUFFIXES
from mixer_dilated.errors import UserError

Ignored = collections.Counter  # of what is left out, by (singular, plural) of its kind
HIDDEN = ('.', '__MACOSX')  # how names begin that no person gave


def walk_images(
    folder: str | os.PathLike,
    ignored: Ignored,
    root: str | os.PathLike | None = None,
    *,
    follow_links: bool = False,
) -> Iterator[os.DirEntry]:
    """The entries of all image files, folder by folder, in sorted order.

    Left out and counted in `ignored`: files without one of the suffixes, by their own; what is no
    file, like a pipe; links out of `root` (or of the folder), to folders, and to images that are
    walked under their own name: all folders of `root` are. Hidden files and folders are left out,
    and so is __MACOSX. With `follow_links`, links are what they lead to, wherever that is. Raises
    UserError for a folder that cannot be read.
    """
    root = os.path.realpath(root or folder)
    depth = len(_parts(os.path.realpath(folder), root))
    folders, walked = [os.fspath(folder)], set()
    while folders:
        current, subfolders = folders.pop(), []
        if follow_links:  # a link may lead back
            real = os.path.realpath(current)
            if real in walked:
                continue
            walked.add(real)
        for entry in visible_entries(current):
            if is_folder(entry, follow_links):
                if not (entry.is_symlink() and _leads_up(entry.path, root)):
                    subfolders.append(entry.path)
            elif reason := _reason_to_ignore(entry, None if follow_links else root, depth):
                ignored[reason] += 1
            else:
                yield entry
        folders += reversed(subfolders)


def is_folder(entry: os.DirEntry, follow_links: bool) -> bool:
    """Whether an entry is a folder; False for a link that leads to itself."""
    try:
        return entry.is_dir(follow_symlinks=follow_links)
    except OSError:
        return False


def _leads_up(link: str, root: str) -> bool:
    """Whether a link leads to a folder that holds it, or to the folder of the data set."""
    target = pathlib.Path(os.path.realpath(link))
    here = pathlib.Path(os.path.realpath(os.path.dirname(link)))
    return here.is_relative_to(target) or pathlib.Path(root).is_relative_to(target)


def visible_entries(folder: str) -> list[os.DirEntry]:
    """The entries of a folder that are not hidden, by name; UserError if it cannot be read."""
    try:
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(HIDDEN)]
    except OSError as error:
        raise UserError(f'{folder}: cannot be read: {error.strerror}') from None
    return sorted(entries, key=lambda entry: entry.name)


def ignored_text(ignored: Ignored) -> str:
    """'2 other files, 1 link out of the folder' of what `walk_images` counted."""
    counts = (+ignored).items()
    return ', '.join(f'{count} {kind[0] if count == 1 else kind[1]}' for kind, count in counts)


def _reason_to_ignore(entry: os.DirEntry, root: str | None, depth: int) -> tuple[str, str] | None:
    """Why an entry that is no folder is left out, in singular and plural.

    `root` is None if links are followed; `depth` is how far below it the walk begins.
    """
    target = os.path.realpath(entry.path) if root and entry.is_symlink() else None
    if target and os.path.isdir(target):
        return 'link to a folder', 'links to folders'
    if target and not target.startswith(os.path.join(root, '')):
        return 'link out of the folder', 'links out of the folder'
    if not entry.name.lower().endswith(SUFFIXES):
        suffix = os.path.splitext(entry.name)[1].lower()
        if not suffix or not suffix.isprintable() or len(suffix) > 8:
            return 'file without an ending of images', 'files without an ending of images'
        way = ' (save as JPEG)' if suffix in ('.heic', '.heif') else ''
        return f'{suffix} file{way}', f'{suffix} files{way}'
    if not os.path.isfile(entry.path):
        return 'pipe, device or dead link', 'pipes, devices or dead links'
    if target:  # is it walked under its own name?
        parts = _parts(target, root)
        hidden = any(part.startswith(HIDDEN) for part in parts)
        if len(parts) > depth and not hidden and target.lower().endswith(SUFFIXES):
            return 'link to an image of the folder', 'links to images of the folder'
    return None


def _parts(path: str, root: str) -> tuple[str, ...]:
    return pathlib.PurePath(os.path.relpath(path, root)).parts
