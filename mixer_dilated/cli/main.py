"""From the words on the command line to a command."""

import contextlib
import io
import logging
import os
import pathlib
import signal
import sys
import threading
import traceback
import warnings
from typing import NoReturn

import absl.logging

from mixer_dilated.cli import distributed, platforms, preemption
from mixer_dilated.errors import (
    AllHostsError,
    NonFiniteError,
    Preempted,
    ShapeMismatchError,
    UserError,
    printable,
)

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
TABLE1 = str(CONFIGS / 'sweeps' / 'table1.py')
BENCHMARKED = (str(CONFIGS / 'mnist_baseline.py'), str(CONFIGS / 'mnist_dilated.py'))

# Characters of a message; a value that was given may be of any length.
MAX_MESSAGE_CHARS = 1500

HELP = """\
MLP-Mixer with dilated patches.

  python run.py [train] --config=FILE [--workdir=DIR] [--config.KEY=VALUE ...]
      Trains; given the folder of an earlier run, goes on where it stopped.
      Default folder: runs/<config name>-<time>
      Several processes train, or evaluate, together: on Cloud TPU and under
      Slurm's srun they find each other; elsewhere each is given
        --coordinator=HOST:PORT --num_processes=N --process_id=K
  python run.py evaluate --workdir=DIR [--split=SPLIT] [--data_dir=DIR]
                         [--checkpoint=best] [--calibrate=SPLIT]
      Loss, accuracy and expected calibration error (ECE) of a run's newest
      checkpoint. Default split: its test split. Default data_dir: where the
      run's data lay. --calibrate first fits a temperature, on examples that
      are neither evaluated nor trained on.
  python run.py predict --workdir=DIR FILE_OR_FOLDER ... [--top=3] [--csv=FILE]
                        [--json=FILE] [--sheet=FILE] [--checkpoint=best]
      Classes of pictures (PNG, JPEG, WebP), with their probabilities; '-' reads
      a list of files from standard input. Files that cannot be used are named,
      and the rest goes on; the exit status is then 2.
  python run.py summary --config=FILE [--picture=FILE] [--config.KEY=VALUE ...]
      Tokens, window, coverage, parameters, FLOPs and memory; trains nothing.
  python run.py table1 [--seeds=10] [--workdir=DIR] [--config.KEY=VALUE ...]
      The paper's Table 1 again: its two methods and a control, many seeds,
      paired differences. The same as a sweep of configs/sweeps/table1.py.
  python run.py sweep --sweep=FILE [--seeds=N] [--workdir=DIR]
                      [--config.KEY=VALUE ...]
      Trains every trial of a sweep file; given again, goes on where it stopped.
      Given again meanwhile, as on another machine, it helps to train the trials.
      Writes a table, statistics, pictures and report.html.
      Default folder of both: runs/<sweep name>
  python run.py report DIR
      Writes report.html of a run or study again, from its files.
  python run.py convert IN OUT
      Writes weights in another form: .npz (names of the original Mixer; its
      older ones are read too), .safetensors, or else a folder of orbax. IN may
      be the folder of a run.
  python run.py probe --config=FILE --config.init_from=WEIGHTS --split=SPLIT
      Fits a linear classifier to the features of weights, in closed form; how
      strongly it is regularised is chosen on SPLIT.
  python run.py export --workdir=DIR --output=DIR [--checkpoint=best]
      Writes the network of a run for CPU, CUDA and TPU, with an example that
      loads it with jax (and flatbuffers). The output is a new or empty folder.
  python run.py benchmark [--config=FILE ...] [--against=reference,torch]
                          [--json=FILE] [--config.KEY=VALUE ...]
      Times a training step and the forward pass and says how near they are to
      the speed of this machine's matrix products; some minutes a config.
      --against adds plain Flax called from Python, and PyTorch if installed.
      Default configs: configs/mnist_baseline.py and configs/mnist_dilated.py.
      --input times the examples as they stream instead, against decoding alone.
  python run.py plan --config=FILE --devices=v5e:4x4[,h100:8 ...]
                     [--batch_per_device=N] [--against=measured] [--json=FILE]
                     [--config.KEY=VALUE ...]
      Compiles a run for devices that are not there: memory, largest batch,
      cycles or kernels by part of the network, exchanges, time, what to change.
      Known are v4, v5e, v5p, v6e (needs pip install "jax[tpu]"), t4, l4, a100,
      h100, h200 ("jax[cuda13-local]"), and this, which --against times.
  python run.py keys
      Every configuration key: default, meaning, what is allowed.

Exit status: 0 done; 2 input, files or disk that cannot be used; 3 a loss that
is not finite; 130 (Ctrl-C) or 143 (SIGTERM) stopped, saved within 10 seconds,
and the same command with the same --workdir goes on; a second signal ends it
at once. --debug shows the traceback of any error.

Decoded images, compiled programs and plans are kept in ~/.cache/mixer_dilated
(under XDG_CACHE_HOME if set), which may be deleted at any time.

Examples
  python run.py --config=configs/digits_dilated.py
  python run.py --config=configs/mnist_dilated.py --config.seed=1
  python run.py --config=configs/mnist_dilated.py \\
      --config.model.patches.dilation=3 --config.model.patches.size="(4, 2)"
  python run.py evaluate --workdir=runs/mnist --split="test[2500:]"
  python run.py predict --workdir=runs/mnist photos --csv=classes.csv
  python run.py sweep --sweep=configs/sweeps/dilation.py --seeds=5
"""


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
        print(HELP, end='')
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
            logging.getLogger('asyncio').setLevel(logging.CRITICAL)
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
            _print_mismatches(error.__cause__)
            _print_error(text)
        distributed.shutdown()
    else:
        status, text = _describe_error(error)
        _print_mismatches(error)
        _print_error(distributed.prefix_process(text))
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


def _print_mismatches(error: BaseException | None) -> None:
    if isinstance(error, ShapeMismatchError):
        from mixer_dilated.reports.tables import misfits_table, print_table

        with contextlib.suppress(OSError), contextlib.redirect_stdout(sys.stderr):
            print_table(misfits_table(error.rows))


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError):
        text = printable(' '.join(text.split()))
        if len(text) > MAX_MESSAGE_CHARS:
            text = f'{text[: MAX_MESSAGE_CHARS // 2]} … {text[-MAX_MESSAGE_CHARS // 2 :]}'
        print(f'error: {text}', file=sys.stderr)


def _describe_error(error: BaseException) -> tuple[int, str]:
    text = str(error)
    if isinstance(error, NonFiniteError):
        return 3, text
    if isinstance(error, UserError):
        return 2, text
    if isinstance(error, OSError) and error.strerror:
        return 2, f'{error.filename}: {error.strerror}' if error.filename else error.strerror
    if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in text:
        less = 'config.batch, config.batch_eval, config.num_seeds or the sizes under config.model'
        return 2, f'not enough memory ({text[:150]}); choose a smaller {less}'
    return 1, f'{type(error).__name__}: {text}; a defect of this program (--debug shows where)'


def _run(argv: list[str], started: float) -> int:
    from mixer_dilated.cli import commands, plan
    from mixer_dilated.cli.arguments import parse, parse_each

    table = {
        'train': (commands.train, ('config', 'workdir', *distributed.FLAGS)),
        'evaluate': (
            commands.evaluate,
            ('workdir', 'split', 'data_dir', 'checkpoint', 'calibrate', *distributed.FLAGS),
        ),
        'predict': (
            commands.predict,
            ('workdir', 'paths', 'top', 'csv', 'json', 'sheet', 'checkpoint'),
        ),
        'summary': (commands.summary, ('config', 'picture')),
        'table1': (commands.sweep, ('sweep', 'seeds', 'workdir')),
        'sweep': (commands.sweep, ('sweep', 'seeds', 'workdir')),
        'report': (commands.report, ('folder',)),
        'convert': (commands.convert, ('paths',)),
        'probe': (commands.probe, ('config', 'split')),
        'export': (commands.export, ('workdir', 'output', 'checkpoint')),
        'plan': (plan.plan, ('config', 'devices', 'batch_per_device', 'against', 'json')),
        'benchmark': (commands.benchmark, ('config', 'against', 'json', 'input')),
        'keys': (commands.keys, ()),
    }
    named = bool(argv) and not argv[0].startswith('-')
    name = argv[0] if named else 'train'
    if name not in table:
        raise UserError(f'{name}: no such command; allowed are {", ".join(table)} (see --help)')
    command, flags = table[name]
    words = argv[1:] if named else argv
    if name == 'table1':
        if any(word.startswith('--sweep') for word in words):
            raise UserError('--sweep: table1 has its own; give another to the command sweep')
        words = [f'--sweep={TABLE1}', *words]
    if name == 'benchmark':
        command(parse_each(words, flags, BENCHMARKED), started)
    else:
        command(parse(words, flags), started)
    return 0


def _print_warning(message, category, filename, lineno, file=None, line=None):
    if distributed.is_primary():
        print(f'warning: {printable(str(message))}', file=sys.stderr)
