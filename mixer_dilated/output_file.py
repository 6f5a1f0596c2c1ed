"""Files that a person names with a flag, as --csv=FILE."""

import contextlib
import os
import pathlib

from mixer_dilated.errors import InputError
from mixer_dilated.whole_file import WholeFile


def output_file(flag: str, path: pathlib.Path) -> WholeFile:
    """The file to write, which is there whole or not at all; of a link, what it leads to.

    Args:
      flag: 'csv' of --csv=FILE.
      path: FILE.

    Raises:
      InputError: it cannot be written.
    """
    return WholeFile(pathlib.Path(os.path.realpath(path)), lambda _: _told(flag, path))


def check_output(flag: str, path: pathlib.Path) -> None:
    """Raises InputError if the file cannot be written; what is there stays as it is."""
    folder = path.absolute().parent
    with _told(flag, path):
        if not folder.is_dir():
            raise InputError(f'--{flag}={path}: no such folder: {folder}; make it first')
        if path.exists():
            if not path.is_file():
                raise InputError(f'--{flag}={path}: not a file; name one that is, or a new one')
            path.open('ab').close()  # a person may have made it read-only
    with output_file(flag, path) as file:
        file.discard()


@contextlib.contextmanager
def _told(flag: str, path: pathlib.Path):
    """Turns an OSError into the InputError that says which file cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f'--{flag}={path}: cannot be written: {error.strerror or error}; name a file that can'
        ) from None
