"""Flags of a command, and the config that `--config` and its overrides make."""

import dataclasses
import pathlib
import runpy
import traceback

import ml_collections
from absl import flags
from ml_collections import config_flags

from mixer_dilated.config import check_key, complete, resolve
from mixer_dilated.errors import InputError

_MEANING = {
    'workdir': 'folder of the run',
    'data_dir': 'where prepared data lies now',
    'split': 'examples to evaluate, in TFDS split syntax',
    'picture': 'file to draw the patches into (.png, .svg or .pdf)',
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command line said.

    Attributes:
      config: the resolved config, if --config was given.
      config_name: the config file's name without its ending.
      workdir, split, data_dir, picture: the flags; None where not given.
    """

    config: ml_collections.ConfigDict | None = None
    config_name: str = ''
    workdir: pathlib.Path | None = None
    split: str | None = None
    data_dir: str | None = None
    picture: pathlib.Path | None = None


def parse(argv: list[str], names: tuple[str, ...]) -> Arguments:
    """Reads the flags `names` from `argv`.

    Raises:
      InputError: an unknown flag or key, or a config file that cannot be read.
    """
    values = flags.FlagValues()
    for name in set(names) - {'config'}:
        flags.DEFINE_string(name, None, _MEANING[name], flag_values=values)
    config_file = ''
    if 'config' in names:
        config_file, argv = _take_config_file(argv)
        if config_file:
            config_flags.DEFINE_config_dict(
                'config', load_config(config_file), flag_values=values, sys_argv=argv
            )
    try:
        rest = values(['run.py', *argv])[1:]
    except flags.Error as error:
        raise InputError(f'{_one_line(error)} (see --help)') from None
    if rest:
        raise InputError(f'{rest[0]!r} is not understood; flags look like --workdir=DIR')
    given = {name: values[name].value for name in names if name in values}
    for name in given:
        if isinstance(given[name], str) and not given[name]:
            raise InputError(f'--{name} is empty; leave it out or give a value')
        if name in ('workdir', 'picture') and given[name]:
            given[name] = pathlib.Path(given[name]).expanduser()
    if config_file:
        name = pathlib.Path(config_file.split(':')[0]).stem
        given.update(config=resolve(given['config']), config_name=name)
    return Arguments(**given)


def load_config(path: str) -> ml_collections.ConfigDict:
    """What `get_config()` of a config file returns; 'FILE:WORD' calls `get_config('WORD')`.

    Raises:
      InputError: no such file, or whatever goes wrong in it, with its line.
    """
    path, *words = path.split(':', 1)
    if not pathlib.Path(path).is_file():
        there = ', '.join(sorted(map(str, pathlib.Path('configs').glob('*.py')))) or 'none here'
        raise InputError(f'--config={path}: no such file; config files in configs/: {there}')
    try:
        config = runpy.run_path(path)['get_config'](*words)
    except KeyError as error:
        if error.args != ('get_config',):
            raise InputError(f'{_where(path, error)}: KeyError: {error}') from None
        raise InputError(f'--config={path}: has no function get_config()') from None
    # A config file is a program: whatever goes wrong in it is told with its line.
    except Exception as error:
        cause = f'{type(error).__name__}: {_one_line(error)}'
        raise InputError(f'{_where(path, error)}: {cause}') from None
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f'--config={path}: get_config() returned {config!r}, not a ConfigDict')
    # Every key is there for an override to change, also those that the file left out.
    return complete(config)


def _take_config_file(argv: list[str]) -> tuple[str, list[str]]:
    """The path that --config names, or '', and the words without it; override keys are checked."""
    path, rest, words = '', [], iter(argv)
    for word in words:
        flag, _, value = word.partition('=')
        if flag in ('--config', '-config'):
            path = value or next(words, '')
            continue
        rest.append(word)
        if flag.lstrip('-').startswith('config.'):
            check_key(flag.split('.', 1)[1])
    if rest and not path and any(word.lstrip('-').startswith('config.') for word in rest):
        raise InputError('--config=FILE is missing; try --config=configs/digits_dilated.py')
    return path, rest


def _where(path: str, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f'--config={path}, line {error.lineno}'
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    return f'--config={path}, line {lines[-1]}' if lines else f'--config={path}'


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split()).rstrip('.')
