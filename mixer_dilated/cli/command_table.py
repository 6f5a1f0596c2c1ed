"""The commands in one table: function, flags and help of each; `--help` prints it."""

import re
import sys
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from mixer_dilated.cli import commands, plan

PROCESSES = '[--coordinator=HOST:PORT --num_processes=N --process_id=K]'


class Command(NamedTuple):
    """A command.

    Attributes:
      function: gets the parsed arguments and the time at which the process started.
      usage: its flags as the help shows them, in brackets those that may be left out. A flag
        without a value is a switch; '--config.KEY=VALUE' stands for any key of the config.
      help: what it does.
      num_words: how many words that are no flags it takes.
      words_hint: what to do if it is given another number of them.
    """

    function: Callable
    usage: str
    help: str
    num_words: range = range(1)
    words_hint: str = ''

    @property
    def flags(self) -> list[str]:
        """Names of all flags."""
        return re.findall(r'--(\w+)(?![\w.])', self.usage)

    @property
    def required(self) -> list[str]:
        """Names of the flags that may not be left out."""
        return self._replace(usage=re.sub(r'\[.*?\]', '', self.usage)).flags


COMMANDS = {
    'train': Command(
        commands.train,
        f'--config=FILE [--workdir=DIR] [--config.KEY=VALUE ...] {PROCESSES}',
        'Trains, or resumes the run of a folder. Default folder: runs/CONFIG-TIME. '
        'Several processes that train, or evaluate, together find each other on Cloud TPU and '
        "under Slurm's srun; elsewhere each is given the last three flags.",
    ),
    'evaluate': Command(
        commands.evaluate,
        '--workdir=DIR [--split=SPLIT] [--data_dir=DIR] [--checkpoint=best] [--calibrate=SPLIT] '
        + PROCESSES,
        "Loss, accuracy and expected calibration error (ECE) of a run's newest checkpoint. Default "
        "split: its test split. Default data_dir: where the run's data lay. --calibrate first fits "
        'a temperature, on examples that are neither evaluated nor trained on.',
    ),
    'predict': Command(
        commands.predict,
        '--workdir=DIR FILE_OR_FOLDER ... [--top=3] [--csv=FILE] [--json=FILE] [--sheet=FILE] '
        '[--checkpoint=best] [--max_pixels=N]',
        "Classes of image files, with their probabilities; '-' reads a list of files "
        'from standard input. Files that cannot be used are named, the others are classified, and '
        'the exit status is 2.',
        range(1, sys.maxsize),
        'what to predict is missing; for example predict --workdir=runs/NAME photo.png photos',
    ),
    'summary': Command(
        commands.summary,
        '--config=FILE [--picture=FILE] [--config.KEY=VALUE ...]',
        'Tokens, window, coverage, parameters, FLOPs and memory, without training.',
    ),
    'table1': Command(
        commands.table1,
        '[--seeds=10] [--workdir=DIR] [--config.KEY=VALUE ...]',
        "The paper's Table 1: its two methods and a control, many seeds, paired differences. The "
        'same as a sweep of configs/sweeps/table1.py.',
    ),
    'sweep': Command(
        commands.sweep,
        '--sweep=FILE [--seeds=N] [--workdir=DIR] [--config.KEY=VALUE ...]',
        'Trains every trial of a sweep file; the same command resumes it. Started meanwhile, as on '
        'another machine, it helps to train the trials. Writes a table, statistics, plots and '
        'report.html. Default folder of both: runs/SWEEP.',
    ),
    'report': Command(
        commands.report,
        'DIR',
        'Writes report.html of a run or study again, from its files.',
        range(1, 2),
        'report takes one name, the folder of a run or study; for example report runs/NAME',
    ),
    'convert': Command(
        commands.convert,
        'IN OUT [--names=timm]',
        "Writes weights as .npz (the original's names; its older ones are read too), .safetensors, "
        ".pth (timm's names, which --names=timm gives .safetensors), or else a folder of orbax. IN "
        "may be a run's folder.",
        range(2, 3),
        'convert takes two names; for example convert Mixer-B_16.npz mixer_b16.safetensors',
    ),
    'probe': Command(
        commands.probe,
        '--config=FILE --config.init_from=WEIGHTS --split=SPLIT',
        'Fits a linear classifier to the features of weights, in closed form; its regularization '
        'is chosen on SPLIT.',
    ),
    'export': Command(
        commands.export,
        '--workdir=DIR --output=DIR [--checkpoint=best]',
        'Writes the network of a run for CPU, CUDA and TPU, with an example that loads it with jax '
        '(and flatbuffers). The output is a new or empty folder.',
    ),
    'benchmark': Command(
        commands.benchmark,
        '[--config=FILE ...] [--against=reference,torch] [--json=FILE] [--input] '
        '[--config.KEY=VALUE ...]',
        "Times a training step and the forward pass beside the speed of this machine's matrix "
        'products; some minutes a config. --against adds plain Flax called from Python, and '
        'PyTorch if installed. Default configs: configs/mnist_baseline.py and '
        'configs/mnist_dilated.py. --input times streamed examples instead, beside decoding alone.',
    ),
    'plan': Command(
        plan.plan,
        '[--config=FILE ...] [--devices=v5e:4x4[,h100:8 ...]] [--batch_per_device=N] '
        '[--against=measured] [--json=FILE] [--config.KEY=VALUE ...]',
        'Compiles a run for devices that are not there: memory, largest batch, cycles or kernels '
        'by part of the network, exchanges, time, what to change. Of several configs a line each; '
        'default: all of configs/, for the devices that config.devices names. Known are v4, v5e, '
        'v5p, v6e (needs pip install "jax[tpu]"), t4, l4, a100, h100, h200 '
        '("jax[cuda13-local]"), and this, which --against times.',
    ),
    'keys': Command(
        commands.keys, '', 'Every configuration key: default, meaning, what is allowed.'
    ),
}

END = """\
Exit status: 0 done; 2 input, files or disk that cannot be used; 3 a loss that
is not finite; 130 (Ctrl-C) or 143 (SIGTERM) stopped and saved within 10
seconds: the same command with the same --workdir resumes; a second signal ends
it at once. --debug shows the traceback of any error.

Decoded images, downloaded weights, compiled programs and plans are kept in
~/.cache/mixer_dilated (under XDG_CACHE_HOME if set), which may be deleted at
any time. --workdir=gs://BUCKET/NAME or s3://… is a folder in a bucket. Configs
whose names begin with configs/ come with the package.

Examples
  {program} --config=configs/digits_dilated.py
  {program} --config=configs/mnist_dilated.py --config.seed=1
  {program} --config=configs/mnist_dilated.py \\
      --config.model.patches.dilation=3 --config.model.patches.size="(4, 2)"
  {program} evaluate --workdir=runs/mnist --split="test[2500:]"
  {program} predict --workdir=runs/mnist photos --csv=classes.csv
  {program} sweep --sweep=configs/sweeps/dilation.py --seeds=5
"""


def help_text(name: str = '') -> str:
    """The text of --help: of all commands, or of the one that is named."""
    program = ' '.join(commands.program())
    if name in COMMANDS:
        return f'{_command_help(program, name)}\n\n{program} --help has all commands.\n'
    texts = (_command_help(program, name) for name in COMMANDS)
    commands_help = textwrap.indent('\n'.join(texts), '  ')
    return f'MLP-Mixer with dilated patches.\n\n{commands_help}\n\n{END.format(program=program)}'


def _command_help(program: str, name: str) -> str:
    command = COMMANDS[name]
    # Flags in one pair of brackets stay on one line.
    usage = re.sub(r'\[.*?\]', lambda match: match[0].replace(' ', '\xa0'), command.usage)
    words = f'{program} {"[train]" if name == "train" else name} {usage}'
    lines = textwrap.wrap(words, 78, subsequent_indent=' ' * 8)
    lines += textwrap.wrap(command.help, 78, initial_indent=' ' * 4, subsequent_indent=' ' * 4)
    return '\n'.join(lines).replace('\xa0', ' ')
