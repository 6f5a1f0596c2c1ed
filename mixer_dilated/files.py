"""One reader and one writer of a run's files, in a local folder or a bucket.

The reader opens regular files only, and none above a bound. Whatever goes wrong is a UserError of
one line that names the file.
"""

import contextlib
import io
import json
import math
import os
import pathlib
import re
import secrets
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Set
from typing import BinaryIO

import numpy as np

from mixer_dilated.errors import UserError
from mixer_dilated.paths import PathLike, as_path, exists, is_bucket

MAX_BYTES = 2**30  # of a file that is read whole
MAX_JSON_BYTES = 2**26  # of a file of JSON, which takes some twenty times as many in memory
MAX_ARRAY_BYTES = 2**36  # of the arrays of a file, unpacked
# Above so many bytes, arrays are at most so many times as large as the file that holds them.
SMALL_ARRAY_BYTES, MAX_PACKING = 2**28, 32
REMOVE_HINT = 'remove it to have it made again'

_UNFINISHED: set[pathlib.Path] = set()


def read_bytes(path: PathLike, hint: str = REMOVE_HINT, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file. Raises UserError, with a hint what to do, as all readers do."""
    with open_regular(path, hint, max_bytes) as file:
        return file.read()


def file_checksum(path: PathLike, hint: str = REMOVE_HINT) -> int:
    """CRC-32 of a file, of which little is in memory at once."""
    checksum = 0
    with open_regular(path, hint, MAX_ARRAY_BYTES) as file:
        while block := file.read(2**24):
            checksum = zlib.crc32(block, checksum)
    return checksum


def read_json(path: PathLike, hint: str = REMOVE_HINT) -> dict:
    with open_regular(path, hint, MAX_JSON_BYTES) as file:
        return _json_object(file.read())


def read_json_lines(path: PathLike, hint: str = REMOVE_HINT) -> list[dict]:
    with open_regular(path, hint, MAX_JSON_BYTES) as file:
        return [_json_object(line) for line in file if line.strip()]


def read_arrays(path: PathLike, hint: str = REMOVE_HINT) -> dict[str, np.ndarray]:
    with open_regular(path, hint, MAX_ARRAY_BYTES) as file:
        return unpack_arrays(file)


def unpack_arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; raises errors of many types if it is damaged or too large."""
    packed = file.seek(0, os.SEEK_END)
    with np.lib.npyio.NpzFile(file) as archive:
        check_unpacked_size(archive, packed)
        arrays = {name: archive[name] for name in archive.files}
        if len(arrays) < len(archive.files):
            raise ValueError('two arrays have one name')
        return arrays


def check_unpacked_size(archive: np.lib.npyio.NpzFile, packed: int) -> None:
    """Raises ValueError if arrays are too large for the size of their file, in bytes, or may be of
    any number of texts that have no letters.
    """
    _check_size(sum(member.file_size for member in archive.zip.infolist()), max_unpacked(packed))
    for name in archive.zip.namelist():
        with archive.zip.open(name) as file:
            if re.search(b"'descr': '.?[SU]0'", file.read(200)):
                raise ValueError(f'{name} is of texts without letters')


def max_unpacked(packed: int) -> int:
    """Bytes of content that are read from a file of so many."""
    return min(MAX_ARRAY_BYTES, max(SMALL_ARRAY_BYTES, MAX_PACKING * packed))


@contextlib.contextmanager
def open_regular(path: PathLike, hint: str, max_bytes: int = MAX_BYTES) -> Iterator[BinaryIO]:
    """Opens a file, and raises UserError for whatever opening and reading it raises."""
    path = as_path(path)
    try:
        if is_bucket(path):
            with path.open('rb') as file:
                _check_size(path.stat().length, max_bytes)
                yield file
            return
        with open(path, 'rb', opener=open_nonblocking) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError('not a regular file')
            _check_size(status.st_size, max_bytes)
            yield file
    # Storage, json and NumPy raise errors of many types at damaged files; all mean the same.
    except Exception as error:
        if isinstance(error, FileNotFoundError) and os.path.islink(path):
            error = ValueError(f'it is a link to {os.readlink(path)}, which is not there')
        raise UserError(f'{path}: cannot be read: {error_text(error)}; {hint}') from None


def error_text(error: Exception) -> str:
    """What an error says in one line: the system's words, a library's, or its type."""
    text = getattr(error, 'strerror', None) or ' '.join(str(error).split())[:200]
    return text or type(error).__name__


def open_nonblocking(path: PathLike, flags: int) -> int:
    """An `opener` for `open`, which does not wait for a pipe that has no writer."""
    return os.open(path, flags | getattr(os, 'O_NONBLOCK', 0))


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ValueError(f'{size} bytes; allowed are at most {max_bytes}')


def _json_object(text: bytes) -> dict:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f'{str(content)[:40]!r} is not a JSON object')
    return content


class AtomicFile:
    """A context in which a file is written, which replaces the previous one only once it is whole.

    Locally it is written under a new name in the same folder; for a bucket, where writing an object
    is atomic, it is held in memory. A link is replaced; with the flag 'csv' of --csv=FILE, for
    messages, it is followed. Raises UserError if it cannot be written; errors of other code in its
    context pass.
    """

    def __init__(self, path: PathLike, flag: str = ''):
        self._path, self._flag = as_path(path), flag
        follows = flag and not is_bucket(path)
        self._target = pathlib.Path(os.path.realpath(path)) if follows else self._path
        name = f'.{self._target.name}.unfinished-{secrets.token_hex(4)}'
        self._unfinished = self._target.with_name(name)
        self._file = io.BytesIO()

    def write(self, content: bytes) -> None:
        """Appends to the content."""
        with error_context(self._path, self._flag):
            self._file.write(content)

    def __enter__(self) -> 'AtomicFile':
        if not is_bucket(self._path):
            _UNFINISHED.add(self._unfinished)
            with error_context(self._path, self._flag):
                self._file = self._unfinished.open('xb')
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                with error_context(self._path, self._flag):
                    self._commit()
        finally:
            with contextlib.suppress(OSError):
                self._file.close()
            remove_unfinished({self._unfinished})

    def _commit(self) -> None:
        if is_bucket(self._path):
            self._target.write_bytes(self._file.getvalue())
        else:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._unfinished, self._target)


@contextlib.contextmanager
def atomic_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path of a folder to make, which takes the place of `path` (not there, or empty)
    once the context ends without an error; nothing else is left."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {'dir': path.parent, 'ignore_cleanup_errors': True}
    with tempfile.TemporaryDirectory(prefix=f'.{path.name}.unfinished-', **settings) as folder:
        unfinished = pathlib.Path(folder, path.name)
        yield unfinished
        os.rename(unfinished, path)


def remove_unfinished(paths: Set[pathlib.Path] = _UNFINISHED) -> None:
    """Removes files that are being written: all of them, before the process is ended."""
    for path in _UNFINISHED & paths:
        with contextlib.suppress(OSError):
            path.unlink()
        _UNFINISHED.discard(path)


@contextlib.contextmanager
def error_context(path: PathLike, flag: str = '') -> Iterator[None]:
    """Raises UserError, which names the file or its flag, for an OSError of writing it; for any
    error in a bucket, where each client has its own."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not (isinstance(error, OSError) or is_bucket(path)):
            raise
        message = f'{path}: cannot be written: {error_text(error)}; '
        if flag:
            raise UserError(f'--{flag}={message}name a file that can') from error
        hint = 'what was saved before is kept, and when that is mended the same command resumes'
        raise UserError(message + hint) from error


def check_output(flag: str, path: pathlib.Path) -> None:
    """Raises UserError if the file of a flag cannot be written; an existing one stays as it is."""
    folder = path.absolute().parent
    with error_context(path, flag):
        if not folder.is_dir():
            raise UserError(f'--{flag}={path}: no such folder: {folder}; make it first')
        if path.is_file():
            path.open('ab').close()  # a person may have made it read-only
        elif path.exists():
            raise UserError(f'--{flag}={path}: not a file; name one that is, or a new one')
        trial = pathlib.Path(os.path.realpath(path)).with_name(f'.trial-{secrets.token_hex(4)}')
        trial.open('xb').close()
        trial.unlink()


def write_bytes(path: PathLike, content: bytes) -> None:
    """Writes an `AtomicFile`. Raises UserError if it cannot be written, as all writers do."""
    with AtomicFile(path) as file:
        file.write(content)


def write_text(path: PathLike, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: PathLike, content: dict) -> None:
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + '\n')


def write_json_lines(path: PathLike, rows: Iterable[dict]) -> None:
    write_text(path, ''.join(map(json_line, rows)))


def append_json_lines(path: PathLike, rows: Iterable[dict]) -> None:
    """Appends JSON objects, one a line, to a file that is there; an object of a bucket is written
    anew."""
    lines = ''.join(map(json_line, rows)).encode()
    if is_bucket(path):
        write_bytes(path, (read_bytes(path) if exists(path) else b'') + lines)
    else:
        with error_context(path), open(path, 'r+b') as file:
            file.seek(0, os.SEEK_END)
            file.write(lines)


def write_arrays(path: PathLike, **arrays: np.ndarray) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(path, content.getvalue())


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
