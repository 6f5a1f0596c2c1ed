"""Files that are there whole or not at all: `WholeFile`."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager

_UNFINISHED: set[pathlib.Path] = set()


class WholeFile:
    """A file that takes the place of what was there once all of it is written.

    A context manager. Until its end, and for ever if that is an error or the machine stops, what
    was there before is undamaged. It is written under another, new name in the same folder; a link
    is replaced, never followed.

    Args:
      path: the file.
      told: of the path, a context that says what an OSError of the file means; other errors within
        the context of the file never meet it.

    Raises:
      OSError: it cannot be written, unless `told` makes another error of it.
    """

    def __init__(
        self,
        path: pathlib.Path,
        told: Callable[[pathlib.Path], AbstractContextManager] = contextlib.nullcontext,
    ):
        self._path, self._told = path, told
        self._unfinished = path.with_name(f'.{path.name}.unfinished-{secrets.token_hex(4)}')
        self._file = None
        self._kept = True

    def write(self, content: bytes) -> None:
        """Adds to the content."""
        with self._told(self._path):
            self._file.write(content)

    def discard(self) -> None:
        """Leaves what was there before, whatever was and will be written."""
        self._kept = False

    def __enter__(self) -> 'WholeFile':
        _UNFINISHED.add(self._unfinished)
        try:
            with self._told(self._path):
                self._file = self._unfinished.open('xb')
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None and self._kept:
                with self._told(self._path):
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
