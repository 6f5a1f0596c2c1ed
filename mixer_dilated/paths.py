"""Paths that a user names: local, or of a bucket."""

import os
import pathlib
from collections.abc import Callable

from mixer_dilated.bucket_clients import let_orbax_reach, prepare_client
from mixer_dilated.errors import UserError

PathLike = str | os.PathLike
MAX_INDEX_BYTES = 2**26  # of a file of a checkpoint that is read whole: names, shapes, places


def as_path(path: PathLike) -> pathlib.Path:
    """`etils.epath.Path` of a bucket ('gs://…', 's3://…'), `pathlib.Path` of anything else; raises
    UserError for a bucket whose client is not installed, or of a kind that is not known."""
    if not is_bucket(path):
        return pathlib.Path(path)
    scheme, _, name = os.fspath(path).partition('://')
    try:
        if not name.strip('/'):
            raise UserError('names no bucket; allowed is gs://BUCKET/FOLDER or s3://BUCKET/FOLDER')
        prepare_client(scheme)
    except UserError as error:
        raise UserError(f'{path}: {error}') from None
    from etils import epath  # 0.1 s, which a local path need not pay

    return epath.Path(path)


def expand_user(path: PathLike) -> pathlib.Path:
    """`as_path` with the home for '~' or '~name'; raises UserError if there is no such user."""
    try:
        return as_path(path).expanduser()
    except RuntimeError:
        user = os.fspath(path).split('/')[0]
        raise UserError(f'{path}: no user {user}; write the path without ~') from None


def is_bucket(path: PathLike) -> bool:
    """Whether a path is of an object store, which has neither locks nor links."""
    return '://' in os.fspath(path)


def exists(path: PathLike) -> bool:
    """Whether there is a file or folder, or a link, whatever it leads to."""
    return as_path(path).exists() if is_bucket(path) else os.path.lexists(path)


def regular_files(
    folder: PathLike, max_bytes: int, is_large: Callable[[str], bool], hint: str, **options
) -> list[str]:
    """The files in a folder; raises UserError, with a hint what to do, for what a library should
    not open there.

    That is a pipe or device, for which it would wait for ever, or a file of more than `max_bytes`
    that it would read whole: all but those of which `is_large(path)` is true. Options are those of
    `os.walk`.
    """
    files, seen = [], set()
    for root, folders, names in os.walk(folder, **options):
        if (real := os.path.realpath(root)) in seen:  # links lead in a circle
            folders.clear()
            continue
        seen.add(real)
        for file in filter(os.path.exists, (os.path.join(root, name) for name in names)):
            files.append(file)
            if not os.path.isfile(file):
                raise UserError(f'{file}: not a regular file; {hint}')
            if not is_large(file) and (size := os.path.getsize(file)) > max_bytes:
                raise UserError(f'{file}: {size} bytes; allowed are at most {max_bytes}; {hint}')
    return files


def orbax_path(path: pathlib.Path) -> pathlib.Path:
    """A path from the root on, as orbax wants it; raises UserError for a bucket that it cannot
    reach, and as `regular_files`."""
    let_orbax_reach(os.fspath(path))
    if is_bucket(path):
        return path

    def is_data(file: str) -> bool:  # of which orbax reads parts
        return pathlib.PurePath(file).parent.name == 'd'

    regular_files(path, MAX_INDEX_BYTES, is_data, 'put back what was there')
    return path.absolute()


def user_cache() -> pathlib.Path:
    root = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return pathlib.Path(root, 'mixer_dilated')
