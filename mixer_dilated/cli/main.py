"""From the words on the command line to a command."""

import contextlib
import difflib
import errno
import io
import logging
import os
import resource
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn, TextIO

import absl.logging

from mixer_dilated import errors
from mixer_dilated.bucket_clients import is_client_error
from mixer_dilated.cli import distributed, platforms, preemption

# Characters of a message; a value that was given may be of any length.
MAX_MESSAGE_CHARS = 1500
START_BYTES = 6 * 2**30  # of addresses, which JAX's threads reserve and hardly use


def main(argv: list[str], started: float) -> int:
    """Runs the command of the words after `run.py`, and returns its exit status.

    It is 0; 1 for a defect of the program; 2 for input or surroundings that cannot be used; 3 for
    a loss that is not finite. An interrupt ends the process: see `preemption`. `started` is
    `time.perf_counter()` at the start of the process.
    """
    platforms.ignore_absent_accelerators()
    os.environ['MPLBACKEND'] = 'agg'  # plots are files; that of a notebook may not be here
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='replace')  # × and … on a terminal that has no such letters
    with warnings.catch_warnings(), contextlib.redirect_stdout(_StandardOutput(sys.stdout)):
        warnings.simplefilter('ignore', DeprecationWarning)
        warnings.showwarning = _print_warning
        debug = '--debug' in argv
        if not debug:
            # What goes wrong in a library's thread reaches the main one as a separate error.
            threading.excepthook = sys.unraisablehook = lambda _: None
            absl.logging.set_verbosity(absl.logging.FATAL)
            for library in ('asyncio', 'gcsfs'):
                logging.getLogger(library).setLevel(logging.CRITICAL)
        try:
            return _run([word for word in argv if word != '--debug'], started)
        except BaseException as error:
            return _report(error, debug=debug)


class _StandardOutput:
    """A stream whose errors name it; the writing of it that fails is the last."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._name_errors(self._stream.write, text)

    def flush(self) -> None:
        self._name_errors(self._stream.flush)

    def _name_errors(self, function: Callable, *arguments):
        try:
            return function(*arguments)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            error.filename = 'standard output'
            raise


def _report(error: BaseException, *, debug: bool) -> int:
    """Prints in one line what ended a command, and returns its exit status."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, errors.Preempted):
        distributed.shutdown()
    if preemption.requested():
        _exit_by_signal(error)
    if isinstance(error, errors.Preempted):  # by a signal to another process
        return 128 + signal.SIGTERM
    if isinstance(error, SystemExit):
        raise error
    of_all = isinstance(error, errors.AllHostsError | errors.NonFiniteError)
    of_all = of_all and distributed.is_distributed()
    if isinstance(error, BrokenPipeError):  # nobody reads on, as in `| head`
        status = 128 + signal.SIGPIPE
    else:
        status, text = _describe_error(error)
        if not of_all:
            _print_error(distributed.prefix_process(text), error)
        elif distributed.is_primary():
            _print_error(text, error.__cause__)
    if of_all:
        distributed.shutdown()
    if distributed.is_distributed():
        distributed.exit_now(status)
    return status


def _exit_by_signal(error: BaseException) -> NoReturn:
    with contextlib.suppress(OSError):  # nobody reads on: Ctrl-C ended the other side of a pipe
        if isinstance(error, KeyboardInterrupt):
            print('\ninterrupted', file=sys.stderr)
        elif not isinstance(error, errors.Preempted | BrokenPipeError):  # Preempted is printed
            _print_error(_describe_error(error)[1])
        sys.stdout.flush()
        sys.stderr.flush()
    preemption.exit_now()


def _print_error(text: str, error: BaseException | None = None) -> None:
    """Prints the one line of an error, after the table of what of some weights does not fit."""
    with contextlib.suppress(OSError):
        if isinstance(error, errors.ShapeMismatchError):
            from mixer_dilated.reports.tables.terminal import print_mismatches

            with contextlib.redirect_stdout(sys.stderr):
                print_mismatches(error.rows)
        text = errors.printable(' '.join(text.split()))
        if len(text) > MAX_MESSAGE_CHARS:
            text = f'{text[: MAX_MESSAGE_CHARS // 2]} … {text[-MAX_MESSAGE_CHARS // 2 :]}'
        print(f'error: {text}', file=sys.stderr)


def _describe_error(error: BaseException) -> tuple[int, str]:
    """The exit status, and what to print."""
    text, resumes = ' '.join(str(error).split()), 'the same command resumes'
    if isinstance(error, errors.NonFiniteError | errors.UserError):
        return 3 if isinstance(error, errors.NonFiniteError) else 2, text
    if is_client_error(error):  # some are of the system's kind
        cause = text[:300] or type(error).__name__
        return 2, f'the bucket cannot be used: {cause}; when that is mended, {resumes}'
    if isinstance(error, OSError) and error.strerror:
        return 2, f'{error.filename}: {error.strerror}' if error.filename else error.strerror
    if errors.is_out_of_memory(error) or 'failed to map segment' in text:  # of a library
        hint = 'end other programs, or take a larger machine'
        if any(word.startswith('--config') for word in sys.argv):
            sizes = 'config.batch, config.batch_eval, config.num_seeds'
            hint = f'choose a smaller {sizes} or the sizes under config.model'
        return 2, f'not enough memory ({text[:150]}); {hint}'
    if os.strerror(errno.ENOSPC) in text:
        return 2, f'the storage is full ({text[:150]}); when there is room, {resumes}'
    settings = [f'{name}={os.environ[name]}' for name in sorted(os.environ) if name[:4] == 'JAX_']
    without = f'; try again without {", ".join(settings)}' if settings else ''
    defect = f'a defect of this program (--debug shows where){without}'
    return 1, f'{type(error).__name__}: {text}; {defect}'


def _run(argv: list[str], started: float) -> int:
    from mixer_dilated.cli.arguments import parse
    from mixer_dilated.cli.command import help_text
    from mixer_dilated.cli.commands import COMMANDS

    if '--help' in argv or '-h' in argv:
        print(help_text(argv[0]), end='', flush=True)
        return 0
    name, *words = argv if argv and not argv[0].startswith('-') else ['train', *argv]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f'did you mean {near[0]}?' if near else f'allowed are {", ".join(COMMANDS)}'
        raise errors.UserError(f'{name}: no such command; {hint} (see --help)')
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    computes = name not in ('keys', 'report')
    if computes and allowed != resource.RLIM_INFINITY and allowed < START_BYTES:
        limit = f'{allowed / 2**30:.1f} GiB of addresses allowed, about {START_BYTES >> 30} needed'
        raise errors.UserError(f'not enough memory to start ({limit}); raise the limit: ulimit -v')
    arguments = parse(COMMANDS[name], words)
    arguments.started = started
    COMMANDS[name].function(arguments)
    sys.stdout.flush()
    return 0


def _print_warning(message, category, filename, lineno, file=None, line=None):
    with contextlib.suppress(OSError):  # of standard error
        if distributed.is_primary():
            print(f'warning: {errors.printable(str(message))}', file=sys.stderr)
