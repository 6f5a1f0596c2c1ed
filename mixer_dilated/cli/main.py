"""From the words on the command line to a command."""

import contextlib
import difflib
import errno
import io
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from typing import NoReturn

import absl.logging

from mixer_dilated.bucket_clients import is_client_error
from mixer_dilated.cli import distributed, platforms, preemption
from mixer_dilated.errors import (
    AllHostsError,
    NonFiniteError,
    Preempted,
    ShapeMismatchError,
    UserError,
    is_out_of_memory,
    printable,
)

# Characters of a message; a value that was given may be of any length.
MAX_MESSAGE_CHARS = 1500


def main(argv: list[str], started: float) -> int:
    """Runs one command.

    Args:
      argv: the words after `run.py`.
      started: `time.perf_counter()` at the start of the process.

    Returns:
      The exit status: 0; 1 for a defect of the program; 2 for input or surroundings that cannot
      be used; 3 for a loss that is not finite. An interrupt ends the process: see `preemption`.
    """
    if '--help' in argv or '-h' in argv:
        from mixer_dilated.cli import commands  # noqa: F401
        from mixer_dilated.cli.command import help_text

        print(help_text(argv[0]), end='')
        return 0
    platforms.ignore_absent_accelerators()
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='replace')  # × and … on a terminal that has no such letters
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        warnings.showwarning = _print_warning
        debug = '--debug' in argv
        if not debug:
            # What goes wrong in a library's thread reaches the main one as an error of its own.
            threading.excepthook = sys.unraisablehook = lambda _: None
            absl.logging.set_verbosity(absl.logging.FATAL)
            for library in ('asyncio', 'gcsfs'):
                logging.getLogger(library).setLevel(logging.CRITICAL)
        try:
            return _run([word for word in argv if word != '--debug'], started)
        except BaseException as error:
            return _report(error, debug=debug)


def _report(error: BaseException, *, debug: bool) -> int:
    """Prints in one line what ended a command, and returns its exit status."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, Preempted):
        distributed.shutdown()
    if preemption.requested():
        _exit_by_signal(error)
    if isinstance(error, Preempted):  # by a signal to another process
        return 128 + signal.SIGTERM
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, BrokenPipeError):  # nobody reads on, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    elif isinstance(error, AllHostsError | NonFiniteError) and distributed.is_distributed():
        # All processes raise it; the first prints it.
        status, text = _describe_error(error)
        if distributed.is_primary():
            _print_error(text, error.__cause__)
        distributed.shutdown()
    else:
        status, text = _describe_error(error)
        _print_error(distributed.prefix_process(text), error)
    if distributed.is_distributed():
        distributed.exit_now(status)
    return status


def _exit_by_signal(error: BaseException) -> NoReturn:
    with contextlib.suppress(OSError):  # nobody reads on: Ctrl-C ended the other side of a pipe
        if isinstance(error, KeyboardInterrupt):
            print('\ninterrupted', file=sys.stderr)
        elif not isinstance(error, Preempted | BrokenPipeError):  # the command printed Preempted
            _print_error(_describe_error(error)[1])
        sys.stdout.flush()
        sys.stderr.flush()
    preemption.exit_now()


def _print_error(text: str, error: BaseException | None = None) -> None:
    """Prints the one line of an error, after the table of what of some weights does not fit."""
    with contextlib.suppress(OSError):
        if isinstance(error, ShapeMismatchError):
            from mixer_dilated.reports.tables.terminal import print_mismatches

            with contextlib.redirect_stdout(sys.stderr):
                print_mismatches(error.rows)
        text = printable(' '.join(text.split()))
        if len(text) > MAX_MESSAGE_CHARS:
            text = f'{text[: MAX_MESSAGE_CHARS // 2]} … {text[-MAX_MESSAGE_CHARS // 2 :]}'
        print(f'error: {text}', file=sys.stderr)


def _describe_error(error: BaseException) -> tuple[int, str]:
    """The exit status, and what to print."""
    text = str(error)
    resumes = 'the same command resumes'
    if isinstance(error, NonFiniteError | UserError):
        return 3 if isinstance(error, NonFiniteError) else 2, text
    if is_client_error(error):  # some are of the system's kind
        cause = ' '.join(text.split())[:300] or type(error).__name__
        return 2, f'the bucket cannot be used: {cause}; when that is mended, {resumes}'
    if isinstance(error, OSError) and error.strerror:
        return 2, f'{error.filename}: {error.strerror}' if error.filename else error.strerror
    if is_out_of_memory(error):
        less = 'config.batch, config.batch_eval, config.num_seeds or the sizes under config.model'
        return 2, f'not enough memory ({text[:150]}); choose a smaller {less}'
    if os.strerror(errno.ENOSPC) in text:
        return 2, f'the storage is full ({text[:150]}); when there is room, {resumes}'
    return 1, f'{type(error).__name__}: {text}; a defect of this program (--debug shows where)'


def _run(argv: list[str], started: float) -> int:
    from mixer_dilated.cli.arguments import parse
    from mixer_dilated.cli.commands import COMMANDS

    name, *words = argv if argv and not argv[0].startswith('-') else ['train', *argv]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f'; did you mean {near[0]}?' if near else f'; allowed are {", ".join(COMMANDS)}'
        raise UserError(f'{name}: no such command{meant} (see --help)')
    arguments = parse(COMMANDS[name], words)
    arguments.started = started
    COMMANDS[name].function(arguments)
    return 0


def _print_warning(message, category, filename, lineno, file=None, line=None):
    if distributed.is_primary():
        print(f'warning: {printable(str(message))}', file=sys.stderr)
