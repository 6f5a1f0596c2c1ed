"""Errors that orbax and its storage raise, as errors of one line."""

import contextlib
import errno
import os
import pathlib
import re
from collections.abc import Callable

import orbax.checkpoint as ocp

from mixer_dilated.bucket_clients import is_client_error
from mixer_dilated.errors import UserError, is_out_of_memory
from mixer_dilated.files import error_text
from mixer_dilated.paths import is_bucket

# Errors of the system that mean damage; others, as too many open files, pass.
DAMAGE_ERRNOS = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR)
# What orbax's storage says of a bucket that refuses or cannot be reached.
REFUSED = re.compile('UNAVAILABLE|PERMISSION_DENIED|UNAUTHENTICATED|DEADLINE_EXCEEDED')


def catch_damage(folder: pathlib.Path, function: Callable, *args) -> tuple:
    """(result, None) of a function, or (None, error) if the checkpoint in `folder` is damaged.

    Raises UserError if the system or a bucket does not let the files be read.
    """
    try:
        return function(*args), None
    except UserError:
        raise
    # The libraries raise errors of many types at damaged files; all mean the same.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        refused = is_bucket(folder) and (is_client_error(error) or REFUSED.search(str(error)))
        if not refused and _system_errno(error) in (None, *DAMAGE_ERRNOS):
            return None, error
        mended = 'when that is mended, the same command resumes'
        raise UserError(f'{folder}: cannot be read: {error_cause(error)}; {mended}') from error


def open_manager(folder: pathlib.Path, **options) -> ocp.CheckpointManager:
    """orbax's manager of the checkpoints in a folder, which it lists at once.

    Raises UserError where what they say of themselves is damaged.
    """
    try:
        return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(**options))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        if is_bucket(folder) or is_out_of_memory(error) or _system_errno(error):
            raise  # the storage's, not of what it holds
        raise UserError(
            f'{folder}: cannot be listed: {error_text(error)}; restore _CHECKPOINT_METADATA of '
            'each checkpoint, or move those away where it is damaged'
        ) from error


@contextlib.contextmanager
def write_errors(folder: pathlib.Path):
    """Raises UserError for whatever orbax and its storage raise, some from a writing thread."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f'{folder}: a checkpoint cannot be written: {error_cause(error)}. The one before it is '
            'undamaged: when that is mended, the same command resumes from there'
        ) from error


def error_cause(error: Exception) -> str:
    """Why orbax could not read or write, in the system's own words if that refused."""
    number = _system_errno(error)
    return os.strerror(number) if number else error_text(error)


def _system_errno(error: Exception) -> int | None:
    if of_storage := re.search(r"os_error_code='(\d+)'", str(error)):
        return int(of_storage[1])
    return error.errno if isinstance(error, OSError) else None
