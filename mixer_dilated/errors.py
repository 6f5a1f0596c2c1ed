"""Errors that a user can cause, and a run that was asked to stop."""

import errno
import os
import unicodedata


class UserError(ValueError):
    """A value, key or file of the user's cannot be used.

    The message is one line: which key or file, which value, what is allowed, what to do next.
    The command line prints it and exits with 2; it never shows a traceback for it.
    """


class UnreadableError(UserError):
    """The system refused to read a file, which may be fine: too many are open, no permission."""


class BusyError(UserError):
    """Another process works in a folder."""


class ShapeMismatchError(UserError):
    """Weights do not fit a network.

    Attributes:
      rows: (names, shapes in the file, shapes expected, what to do) of the arrays that do not.
    """

    def __init__(self, message: str, rows: list[tuple[str, str, str, str]]):
        super().__init__(message)
        self.rows = rows


class NonFiniteError(UserError):
    """The loss or its gradient became infinite or not a number, and the run ended there."""


class Preempted(Exception):
    """A run was asked to stop; its state after `step` steps is saved."""

    def __init__(self, step: int):
        super().__init__(f'stopped after step {step}, which is saved')
        self.step = step


class AllHostsError(UserError):
    """An UserError of one process, which all processes that train together raise."""


class HostLostError(UserError):
    """Another of the processes that train together has ended, or cannot be reached."""

    def __init__(self, cause: str):
        super().__init__(
            'another process has ended, or cannot be reached; its own output says why. What was '
            'saved is kept, and the same command resumes from it, with as many processes or '
            f'another number ({" ".join(cause.split())[:120]})'
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory does not suffice; storage calls a full disk RESOURCE_EXHAUSTED too."""
    text = str(error)
    of_storage = 'os_error_code' in text or os.strerror(errno.ENOSPC) in text
    return isinstance(error, MemoryError) or ('RESOURCE_EXHAUSTED' in text and not of_storage)


def printable(text: str) -> str:
    """`text` with control characters, which a terminal or a page would obey, written as escapes."""
    return ''.join(
        letter
        if letter.isprintable() or unicodedata.category(letter) == 'Zs'  # as a no-break space
        else letter.encode('unicode_escape').decode()
        for letter in text
    )
