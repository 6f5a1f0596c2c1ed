"""What a command is: a function, its flags, and its docstring, which `--help` prints."""

import os
import re
import sys
import textwrap
from collections.abc import Callable
from typing import NamedTuple

END = """\
Exit status: 0 done; 2 input, files or disk that cannot be used; 3 a loss that
is not finite; 130 (Ctrl-C) or 143 (SIGTERM), within 10 seconds, or 141 (nobody
reads the output) saved: the same command with the same --workdir resumes; a
second signal ends it at once. --debug shows the traceback of any error.

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


class Command(NamedTuple):
    """A command: a function of the parsed arguments, whose docstring is its help, and its usage.

    The usage is as the help shows it: flags and WORDS, in brackets those that may be left out. A
    flag without a value is a switch; '--config.KEY=VALUE' stands for any key of the config.
    """

    function: Callable
    usage: str

    @property
    def flags(self) -> list[str]:
        """Names of all flags."""
        return re.findall(r'--(\w+)(?![\w.])', self.usage)

    @property
    def words(self) -> list[str]:
        """What it takes beside flags; '...' after the last of any number."""
        return re.findall(r'(?<!\S)[A-Z_]+(?: \.\.\.)?(?!\S)', self.usage)

    @property
    def required(self) -> list[str]:
        """Names of the flags that may not be left out."""
        return self._replace(usage=re.sub(r'\[.*?\]', '', self.usage)).flags

    @property
    def help(self) -> str:
        """Its usage, and what it does."""
        name = self.function.__name__
        # Flags in one pair of brackets stay on one line.
        usage = re.sub(r'\[.*?\]', lambda match: match[0].replace(' ', '\xa0'), self.usage)
        words = f'{" ".join(program())} {"[train]" if name == "train" else name} {usage}'
        lines = textwrap.wrap(words, 78, subsequent_indent=' ' * 8)
        does = ' '.join((self.function.__doc__ or '').split())
        lines += textwrap.wrap(does, 78, initial_indent=' ' * 4, subsequent_indent=' ' * 4)
        return '\n'.join(lines).replace('\xa0', ' ')


COMMANDS: dict[str, Command] = {}  # filled by the module commands


def command(usage: str = '') -> Callable:
    """Adds a function to `COMMANDS`."""

    def add(function: Callable) -> Callable:
        COMMANDS[function.__name__] = Command(function, usage)
        return function

    return add


def help_text(name: str = '') -> str:
    """The text of --help: of all commands, or of the one that is named."""
    start = ' '.join(program())
    if name in COMMANDS:
        return f'{COMMANDS[name].help}\n\n{start} --help has all commands.\n'
    texts = textwrap.indent('\n'.join(command.help for command in COMMANDS.values()), '  ')
    return f'MLP-Mixer with dilated patches.\n\n{texts}\n\n{END.format(program=start)}'


def program() -> list[str]:
    """The words that start this program."""
    if sys.argv[0].endswith(os.path.join('mixer_dilated', '__main__.py')):
        return ['python', '-m', 'mixer_dilated']
    return ['python', 'run.py']
