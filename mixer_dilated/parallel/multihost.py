"""Multi-host helpers; no-ops on a single host."""

import contextlib
import json
import re
import zlib
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from mixer_dilated.errors import AllHostsError, HostLostError, UserError

MAX_TEXT_BYTES = 4096  # bytes of what a process tells the others, as long as a path may be
OTHER_DATA = 'the processes found different examples; give all of them the same data'
# What libraries say where a process has ended, or is out of reach.
LOST = re.compile(
    'gloo|nccl|unavailable|deadline_?exceeded|heartbeat|socket closed|coordination service|barrier',
    re.IGNORECASE,
)


def is_primary() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def on_all_hosts(function: Callable, *args, **settings):
    """Calls a function on every process, and returns what it returns here.

    What the processes agree on inside of it, all of them have to come to: where one may raise
    before, the others would wait.

    Raises:
      AllHostsError: it raised UserError on one of them, which is its cause there.
    """
    if jax.process_count() == 1:
        return function(*args, **settings)
    result = error = None
    try:
        result = function(*args, **settings)
    except HostLostError:
        raise
    except UserError as raised:
        error = raised
    failed = multihost_utils.process_allgather(np.int32(error is not None))
    if failed.any():
        number = int(failed.argmax())
        of_process = f'process {number}: ' if number else ''
        raise AllHostsError(of_process + _text_of(number, str(error or ''))) from error
    return result


def on_primary(function: Callable, *args, **settings):
    """Calls a function on the first process alone; elsewhere the result is None.

    Raises:
      AllHostsError: it raised UserError.
    """
    return on_all_hosts(lambda: function(*args, **settings) if is_primary() else None)


def broadcast(value):
    """A value of JSON as process 0 has it."""
    if jax.process_count() == 1:
        return value
    return json.loads(_text_of(0, json.dumps(value)))


def any_host(value: bool) -> bool:
    """Whether it is true for one of the processes."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.int32(value)).any())


def assert_equal_across_hosts(content, message: str) -> None:
    """Raises AllHostsError with a message unless all processes have the same content, of JSON."""
    if jax.process_count() == 1:
        return
    number = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    said = multihost_utils.process_allgather(np.uint32(number))
    if (said != said[0]).any():
        raise AllHostsError(message)


def to_numpy(tree):
    """Whole arrays on the host of every process, also those of which it has only a part."""

    def whole(leaf):
        apart = isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
        if apart and not leaf.is_fully_addressable:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.device_get(tree) if jax.process_count() == 1 else jax.tree.map(whole, tree)


@contextlib.contextmanager
def translate_host_loss():
    """Turns what libraries raise where another process has ended into HostLostError."""
    try:
        yield
    except Exception as error:
        # What this program raises of its own is what it says; unless it tells of a library's.
        told = error.__cause__ if isinstance(error, UserError) else error
        none = told is None or isinstance(told, UserError | OSError)
        if jax.process_count() == 1 or none or not LOST.search(str(told)):
            raise
        raise HostLostError(str(told)) from error


def _text_of(number: int, text: str) -> str:
    """The text that one process has."""
    kept = np.zeros(MAX_TEXT_BYTES, np.uint8)
    encoded = np.frombuffer(text.encode(errors='surrogateescape')[:MAX_TEXT_BYTES], np.uint8)
    kept[: len(encoded)] = encoded
    said = multihost_utils.broadcast_one_to_all(kept, is_source=jax.process_index() == number)
    return np.asarray(said, np.uint8).tobytes().rstrip(b'\0').decode(errors='surrogateescape')
