"""What processes that train together agree on; one process alone agrees with itself.

All of these are called by every process, at the same place of the program.
"""

import contextlib
import json
import re
import zlib
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from mixer_dilated.errors import InputError, LostError, SharedError

LONGEST_TEXT = 4096  # bytes of what a process tells the others, as long as a path may be
OTHER_DATA = 'the processes found different examples; give all of them the same data'
# What libraries say where a process has ended, or is out of reach.
LOST = re.compile(
    'gloo|nccl|unavailable|deadline_?exceeded|heartbeat|socket closed|coordination service|barrier',
    re.IGNORECASE,
)


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def on_every(function: Callable, *args, **settings):
    """Calls a function on every process, and returns what it returns here.

    What the processes agree on inside of it, all of them have to come to: where one may raise
    before, the others would wait.

    Raises:
      SharedError: it raised InputError on one of them, which is its cause there.
    """
    if jax.process_count() == 1:
        return function(*args, **settings)
    result = error = None
    try:
        result = function(*args, **settings)
    except LostError:
        raise
    except InputError as raised:
        error = raised
    failed = multihost_utils.process_allgather(np.int32(error is not None))
    if failed.any():
        number = int(failed.argmax())
        of_process = f'process {number}: ' if number else ''
        raise SharedError(of_process + _text_of(number, str(error or ''))) from error
    return result


def on_first(function: Callable, *args, **settings):
    """Calls a function on the first process alone; elsewhere the result is None.

    Raises:
      SharedError: it raised InputError.
    """
    return on_every(lambda: function(*args, **settings) if is_first() else None)


def first_says(value: bool | int | float):
    """What the first process says, of the type that it has here; floats in single precision."""
    kept = np.float32(value) if isinstance(value, float) else np.int32(value)
    return type(value)(multihost_utils.broadcast_one_to_all(kept))


def first_text(text: str) -> str:
    """The text of the first process, up to `LONGEST_TEXT` bytes of it."""
    return text if jax.process_count() == 1 else _text_of(0, text)


def first_numbers(numbers: list[int]) -> list[int]:
    """The whole numbers, below 2^31, of the first process, of which the others may have others."""
    if jax.process_count() == 1:
        return numbers
    kept = np.zeros(first_says(len(numbers)), np.int32)
    if is_first():
        kept[:] = numbers
    return multihost_utils.broadcast_one_to_all(kept).tolist() if len(kept) else []


def any_says(value: bool) -> bool:
    """Whether it is true for one of the processes."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.int32(value)).any())


def check_same(content, message: str) -> None:
    """Raises SharedError with a message unless all processes have the same content, of JSON."""
    if jax.process_count() == 1:
        return
    number = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    said = multihost_utils.process_allgather(np.uint32(number))
    if (said != said[0]).any():
        raise SharedError(message)


def on_host(tree):
    """Whole arrays on the host of every process, also those of which it has only a part."""

    def whole(leaf):
        apart = isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
        if apart and not leaf.is_fully_addressable:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.device_get(tree) if jax.process_count() == 1 else jax.tree.map(whole, tree)


@contextlib.contextmanager
def lost_told():
    """Turns what libraries raise where another process has ended into LostError."""
    try:
        yield
    except Exception as error:
        # What this program raises of its own is what it says; unless it tells of a library's.
        told = error.__cause__ if isinstance(error, InputError) else error
        none = told is None or isinstance(told, InputError | OSError)
        if jax.process_count() == 1 or none or not LOST.search(str(told)):
            raise
        raise LostError(str(told)) from error


def _text_of(number: int, text: str) -> str:
    """The text that one process has."""
    kept = np.zeros(LONGEST_TEXT, np.uint8)
    encoded = np.frombuffer(text.encode(errors='surrogateescape')[:LONGEST_TEXT], np.uint8)
    kept[: len(encoded)] = encoded
    said = multihost_utils.broadcast_one_to_all(kept, is_source=jax.process_index() == number)
    return np.asarray(said, np.uint8).tobytes().rstrip(b'\0').decode(errors='surrogateescape')
