"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the program happens to be. Inside a callback of a library
it is printed and forgotten, inside an import it turns into another error. So it is also noted.
"""

import signal

_received = False


def listen() -> None:
    """Notes every SIGINT from now on, and raises KeyboardInterrupt as Python does."""
    signal.signal(signal.SIGINT, _note)


def received() -> bool:
    """Whether there was one."""
    return _received


def check() -> None:
    """Raises KeyboardInterrupt if there was one that did not stop the program."""
    if _received:
        raise KeyboardInterrupt


def _note(signum, frame) -> None:
    global _received
    _received = True
    raise KeyboardInterrupt
