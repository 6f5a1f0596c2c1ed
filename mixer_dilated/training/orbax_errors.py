"""Errors that orbax and its storage raise, in words."""

import contextlib
import errno
import os
import re

from mixer_dilated.errors import InputError

# Errors of the system that mean damage; others, as too many open files, pass.
DAMAGE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR)


@contextlib.contextmanager
def told_in_a_line(what: str):
    """Turns whatever a library raises when it writes into one line."""
    try:
        yield
    # Orbax and its storage raise errors of many kinds, some from the thread that writes.
    except Exception as error:
        raise InputError(
            f'{what}: {cause_of(error)}. The one before it is undamaged: when that is mended, the '
            'same command goes on from there'
        ) from error


def of_the_system(error: Exception) -> int | None:
    """The number of the system's error behind an error, if there is one."""
    of_storage = re.search(r"os_error_code='(\d+)'", str(error))
    if of_storage:
        return int(of_storage[1])
    return error.errno if isinstance(error, OSError) else None


def cause_of(error: Exception) -> str:
    """Why orbax could not read or write, in the system's own words if that refused."""
    number = of_the_system(error)
    if number:
        return os.strerror(number)
    return ' '.join(str(error).split())[:200] or type(error).__name__
