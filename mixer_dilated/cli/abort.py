"""What a process says at its end where a library aborts it, as JAX does if others do not come.

It aborts from a thread of its own, which Python's signal handlers do not reach in time.
"""

import contextlib
import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Callable

from mixer_dilated.errors import printable

_handler = None  # kept as long as the process lives


def say(text: Callable[[], str], to: int = 2) -> None:
    """From now on a process that is aborted says this as its error, and its exit status is 2.

    Args:
      text: gives what to say, when it is needed.
      to: the file descriptor.
    """
    global _handler

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(_):
        os.write(to, f'error: {printable(text())}\n'.encode())
        os._exit(2)

    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    _handler = handler


@contextlib.contextmanager
def say_instead(text: Callable[[str], str]):
    """Meanwhile that line stands instead of what libraries write to standard error.

    If they do not abort, what they wrote follows at the end.

    Args:
      text: makes it of what they wrote.
    """
    own, real = sys.stderr, os.dup(2)
    with (
        tempfile.TemporaryFile() as written,
        open(os.dup(2), 'w', buffering=1, errors='replace') as sys.stderr,
    ):

        def content() -> bytes:
            return os.pread(written.fileno(), 2**16, 0)

        os.dup2(written.fileno(), 2)
        say(lambda: text(content().decode(errors='replace')), real)
        try:
            yield
        finally:
            ctypes.CDLL(None).signal(signal.SIGABRT, None)
            sys.stderr = own
            os.dup2(real, 2)
            os.close(real)
            os.write(2, content())
