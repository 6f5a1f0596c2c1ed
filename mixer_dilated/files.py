"""Files: the one reader and writer, atomic and with one-line errors."""

import contextlib
import io
import json
import math
import os
import pathlib
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from mixer_dilated.errors import UserError


def user_cache() -> pathlib.Path:
    """`mixer_dilated` in XDG_CACHE_HOME, which is ~/.cache if it is not set."""
    root = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return pathlib.Path(root, 'mixer_dilated')


_UNFINISHED: set[pathlib.Path] = set()


class AtomicFile:
    """A file that takes the place of what was there once all of it is written.

    A context manager. Until its end, and for ever if that is an error or the machine stops, what
    was there before is undamaged. It is written under another, new name in the same folder; a link
    is replaced, never followed.

    Args:
      path: the file.
      error_context: of the path, a context that says what an OSError of the file means; other
        errors within the context of the file never meet it.

    Raises:
      OSError: it cannot be written, unless `error_context` makes another error of it.
    """

    def __init__(
        self,
        path: pathlib.Path,
        error_context: Callable[[pathlib.Path], AbstractContextManager] = contextlib.nullcontext,
    ):
        self._path, self._error_context = path, error_context
        self._unfinished = path.with_name(f'.{path.name}.unfinished-{secrets.token_hex(4)}')
        self._file = None
        self._kept = True

    def write(self, content: bytes) -> None:
        """Adds to the content."""
        with self._error_context(self._path):
            self._file.write(content)

    def discard(self) -> None:
        """Leaves what was there before, whatever was and will be written."""
        self._kept = False

    def __enter__(self) -> 'AtomicFile':
        _UNFINISHED.add(self._unfinished)
        try:
            with self._error_context(self._path):
                self._file = self._unfinished.open('xb')
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None and self._kept:
                with self._error_context(self._path):
                    self._finish()
        finally:
            self._remove()

    def _finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._unfinished, self._path)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            if self._file:
                self._file.close()
        with contextlib.suppress(OSError):
            self._unfinished.unlink()
        _UNFINISHED.discard(self._unfinished)


def remove_unfinished() -> None:
    """Removes what is being written, where the process is about to be ended."""
    for path in tuple(_UNFINISHED):
        with contextlib.suppress(OSError):
            path.unlink()


def output_file(flag: str, path: pathlib.Path) -> AtomicFile:
    """The file to write, which is there whole or not at all; of a link, what it leads to.

    Args:
      flag: 'csv' of --csv=FILE.
      path: FILE.

    Raises:
      UserError: it cannot be written.
    """
    return AtomicFile(
        pathlib.Path(os.path.realpath(path)), lambda _: _flag_error_context(flag, path)
    )


def check_output(flag: str, path: pathlib.Path) -> None:
    """Raises UserError if the file cannot be written; what is there stays as it is."""
    folder = path.absolute().parent
    with _flag_error_context(flag, path):
        if not folder.is_dir():
            raise UserError(f'--{flag}={path}: no such folder: {folder}; make it first')
        if path.exists():
            if not path.is_file():
                raise UserError(f'--{flag}={path}: not a file; name one that is, or a new one')
            path.open('ab').close()  # a person may have made it read-only
    with output_file(flag, path) as file:
        file.discard()


@contextlib.contextmanager
def _flag_error_context(flag: str, path: pathlib.Path):
    """Turns an OSError into the UserError that says which file cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f'--{flag}={path}: cannot be written: {error.strerror or error}; name a file that can'
        ) from None


# What reading a JSON file raises: RecursionError, where there are thousands of brackets.
UNREADABLE = (OSError, ValueError, RecursionError)


def read_json(path: pathlib.Path, hint: str = 'remove it to have it made again'):
    """Content of a JSON file. Raises UserError, with the way on, where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except UNREADABLE as error:
        raise UserError(f'{path}: cannot be read: {error}; {hint}') from None


def write_json_lines(path: pathlib.Path, rows) -> None:
    """Writes a file of one JSON object a line that is there whole or not at all."""
    write_text(path, ''.join(map(json_line, rows)))


def write_json(path: pathlib.Path, content) -> None:
    """Writes a JSON file that is there whole or not at all; see `json_line` for numbers."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + '\n')


def json_line(row: dict) -> str:
    """One line of JSON; numbers that are not finite, which JSON does not have, become null."""
    return json.dumps(_finite(row), allow_nan=False) + '\n'


def _finite(content):
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file that is there whole or not at all."""
    write_bytes(path, text.encode())


def write_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes a compressed .npz that is there whole or not at all."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_bytes(path, file.getvalue())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all, even if the machine stops.

    Raises:
      UserError: it cannot be written; what was there before is undamaged.
    """
    with AtomicFile(path, error_context) as file:
        file.write(content)


@contextlib.contextmanager
def error_context(path: pathlib.Path):
    """Turns an OSError into the UserError that says which file cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f'{path}: cannot be written: {error.strerror or error}; what was saved before is '
            'undamaged, and when that is mended the same command goes on'
        ) from error
