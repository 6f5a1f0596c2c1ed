"""Flags of a command, and the config or sweep that its file and overrides make."""

import dataclasses
import pathlib
import runpy
import traceback
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from mixer_dilated.cli.preset_flag import take_preset, warn_of_dropped
from mixer_dilated.config import check_key, complete, rename_keys, resolve
from mixer_dilated.config_keys import ALIASES, KEYS
from mixer_dilated.errors import UserError

_MEANING = {
    'workdir': 'folder of the run or study',
    'data_dir': 'where prepared data lies now',
    'split': 'examples to evaluate, in TFDS split syntax',
    'checkpoint': 'newest or best',
    'calibrate': 'examples to fit temperatures on, in TFDS split syntax',
    'output': 'new folder of the export',
    'picture': 'file to draw the patches into (.png, .svg or .pdf)',
    'seeds': 'seeds of every cell',
    'against': 'what else is timed, separated by commas',
    'json': 'file for all that was measured or planned, or every prediction',
    'devices': 'devices to plan for, several separated by commas',
    'batch_per_device': 'images that each device has of a batch',
    'input': 'whether the input is timed instead of the step',
    'top': 'classes shown of each picture',
    'csv': 'file for every prediction',
    'coordinator': 'HOST:PORT of process 0 of several that train together',
    'num_processes': 'how many train together',
    'process_id': 'which of them this is, from 0',
    'sheet': 'file to draw the pictures and their predictions into (.png, .svg or .pdf)',
}
# Each with the least that it can be.
_INTEGERS = {
    'seeds': 1,
    'top': 1,
    'batch_per_device': 1,
    'num_processes': 1,
    'process_id': 0,
}
_FILES = ('workdir', 'output', 'picture', 'folder', 'json', 'csv', 'sheet')


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command line said.

    Attributes:
      config: the resolved config of --config.
      sweep: the `Sweep` of --sweep, its base config with the overrides.
      name: the config or sweep file's name without its ending.
      folder: the word after the command, where it takes one.
      paths: all words after the command, where it takes many.
      workdir, split, data_dir, checkpoint, calibrate, output, picture, seeds, against, json,
        devices, batch_per_device, input, top, csv, sheet, coordinator, num_processes, process_id:
        the flags; None where not given.
    """

    config: ml_collections.ConfigDict | None = None
    sweep: Any = None
    name: str = ''
    folder: pathlib.Path | None = None
    paths: tuple[str, ...] = ()
    workdir: pathlib.Path | None = None
    split: str | None = None
    data_dir: str | None = None
    checkpoint: str | None = None
    calibrate: str | None = None
    output: pathlib.Path | None = None
    picture: pathlib.Path | None = None
    seeds: int | None = None
    against: str | None = None
    json: pathlib.Path | None = None
    devices: str | None = None
    batch_per_device: int | None = None
    input: bool | None = None
    top: int | None = None
    csv: pathlib.Path | None = None
    sheet: pathlib.Path | None = None
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def parse_each(argv: list[str], names: tuple[str, ...], files: tuple[str, ...]) -> list[Arguments]:
    """Reads the flags for every --config of several, with the same overrides.

    Args:
      argv: the words after the command.
      names: what the command takes.
      files: config files to take if there is none.

    Returns:
      Of each its arguments; 'name' has the word of a 'FILE:WORD', and is the whole path where two
      would else have one name.

    Raises:
      UserError: as `parse`.
    """
    given, others = _take_files('config', argv)
    paths = given or [*files]
    found = [parse([f'--config={path}', *others], names) for path in paths]
    words = [path.partition(':')[1:] for path in paths]
    short = [''.join((each.name, *word)) for each, word in zip(found, words, strict=True)]
    return [
        dataclasses.replace(each, name=path if short.count(name) > 1 else name)
        for each, path, name in zip(found, paths, short, strict=True)
    ]


def parse(argv: list[str], names: tuple[str, ...], default_sweep: str = '') -> Arguments:
    """Reads the flags `names` from `argv`; 'folder' is a word that is no flag, 'paths' all such.

    Args:
      argv: the words after the command.
      names: what the command takes.
      default_sweep: the sweep file of a command that has its own.

    Raises:
      UserError: an unknown flag or key, or a file that cannot be read.
    """
    values = flags.FlagValues()
    for name in set(names) & set(_MEANING):
        define = flags.DEFINE_bool if name == 'input' else flags.DEFINE_string
        define(name, None, _MEANING[name], flag_values=values)
    file, sweep = default_sweep, None
    if {'config', 'sweep'} & set(names):
        kind = 'config' if 'config' in names else 'sweep'
        if not default_sweep:
            files, argv = _take_files(kind, argv)
            file = files[-1] if files else ''
        argv = _rename_old_keys(argv)
        preset, argv = take_preset(argv)
        overridden = _overridden(kind, file, argv)
        if file:
            loaded = load_config(file) if kind == 'config' else load_sweep(file)
            sweep = loaded if kind == 'sweep' else None
            base = loaded.base if sweep else loaded
            if preset:
                warn_of_dropped(base, preset, overridden)
                base = complete({**base, 'model': preset})
            config_flags.DEFINE_config_dict('config', base, flag_values=values, sys_argv=argv)
    if 'paths' in names:
        values.set_gnu_getopt()  # flags may follow words
    try:
        words = values(['run.py', *argv])[1:]
    except flags.Error as error:
        raise UserError(f'{_one_line(error)}{_key_meant(argv)} (see --help)') from None
    given = {name: values[name].value for name in (*names, 'config') if name in values}
    if words and 'folder' in names:
        given['folder'] = words.pop(0)
    if 'paths' in names:
        given['paths'], words = tuple(words), []
    if words:
        raise UserError(f'{words[0]!r} is not understood; flags look like --workdir=DIR')
    for name in given:
        if isinstance(given[name], str) and not given[name]:
            raise UserError(f'--{name} is empty; leave it out or give a value')
        if name in _FILES and given[name]:
            given[name] = _expanded(name, given[name])
    for name, least in _INTEGERS.items():
        if given.get(name) is not None:
            given[name] = _integer(name, given[name], least)
    if file:
        given['name'] = pathlib.Path(file.split(':')[0]).stem
        if sweep:
            _check_cells_leave(overridden, sweep)
            given['sweep'] = _with_base(sweep, given.pop('config'), given.get('seeds'))
        else:
            given['config'] = resolve(given['config'])
    return Arguments(**given)


def load_config(path: str) -> ml_collections.ConfigDict:
    """What `get_config()` of a config file returns; 'FILE:WORD' calls `get_config('WORD')`.

    Raises:
      UserError: no such file, or whatever goes wrong in it, with its line.
    """
    config = _call('config', path, 'get_config')
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f'--config={path}: get_config() returned {config!r}, not a ConfigDict')
    # Every key is there for an override to change, also those that the file left out.
    return complete(config)


def load_sweep(path: str):
    """What `get_sweep()` of a sweep file returns, its base config completed.

    Raises:
      UserError: no such file, or whatever goes wrong in it, with its line.
    """
    sweep = _call('sweep', path, 'get_sweep')
    from mixer_dilated.experiments.sweep import Sweep, check_sweep

    if not isinstance(sweep, Sweep):
        raise UserError(f'--sweep={path}: get_sweep() returned {sweep!r}, not a Sweep')
    try:
        check_sweep(sweep)
    except UserError as error:
        raise UserError(f'--sweep={path}: {error}') from None
    return dataclasses.replace(sweep, base=complete(sweep.base))


def _with_base(sweep, base: ml_collections.ConfigDict, seeds: int | None):
    if seeds is not None:
        base.num_seeds = seeds
    return dataclasses.replace(sweep, base=resolve(base))


def _call(flag: str, path: str, function: str):
    """What a function of a file returns; 'FILE:WORD' hands it 'WORD'."""
    path, *words = path.split(':', 1)
    if not pathlib.Path(path).is_file():
        folder = {'config': 'configs', 'sweep': 'configs/sweeps'}[flag]
        there = ', '.join(sorted(map(str, pathlib.Path(folder).glob('*.py')))) or 'none here'
        raise UserError(f'--{flag}={path}: no such file; those in {folder}/: {there}')
    try:
        names = runpy.run_path(path)
        if function in names:
            return names[function](*words)
    # Such a file is a program: whatever goes wrong in it is told with its line.
    except Exception as error:
        kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
        cause = f'{kind}{_one_line(error)}'
        raise UserError(f'{_where(flag, path, error)}: {cause}') from None
    hints = {
        'get_sweep': f'; it is a sweep file: python run.py sweep --sweep={path}',
        'get_config': f'; it is a config file: --config={path}',
    }
    hint = next((hints[name] for name in hints if name in names), '')
    raise UserError(f'--{flag}={path}: has no function {function}(){hint}')


def _take_files(flag: str, argv: list[str]) -> tuple[list[str], list[str]]:
    """The paths that --config or --sweep names, and the words without them.

    Raises:
      UserError: one is empty.
    """
    paths, rest, words = [], [], iter(argv)
    for word in words:
        name, equals, value = word.partition('=')
        if name not in (f'--{flag}', f'-{flag}'):
            rest.append(word)
            continue
        path = value if equals else next(words, '')
        if not path or (path.startswith('-') and not equals):  # the next flag is no file
            example = {'config': 'digits_dilated.py', 'sweep': 'sweeps/dilation.py'}[flag]
            raise UserError(
                f'--{flag} is empty; give it a file, for example --{flag}=configs/{example}'
            )
        paths.append(path)
    return paths, rest


def _rename_old_keys(argv: list[str]) -> list[str]:
    """Overrides of old names of keys as those of today's, with a warning."""
    words = []
    for word in argv:
        name, equals, value = word.lstrip('-').partition('=')
        old = name.removeprefix('config.')
        if name == old or old not in ALIASES:
            words.append(word)
            continue
        new = next(iter(rename_keys({old: None})), None)
        words += [f'--config.{new}{equals}{value}'] if new else []
    return words


def _key_meant(argv: list[str]) -> str:
    """The override that was meant by a flag that is called like a key of the config."""
    for word in argv:
        name, _, value = word.lstrip('-').partition('=')
        keys = [key for key in KEYS if f'.{key}'.endswith(f'.{name}')]
        if word.startswith('-') and len(keys) == 1:
            return f'; the key of the config is set by --config.{keys[0]}={value}'
    return ''


def _overridden(flag: str, file: str, argv: list[str]) -> list[str]:
    """The keys that overrides name; UserError for no key, or if there is no file to override."""
    overrides = [word.lstrip('-') for word in argv if word.lstrip('-').startswith('config.')]
    overridden = [word.partition('=')[0].split('.', 1)[1] for word in overrides]
    for key in overridden:
        check_key(key)
    if overridden and not file:
        example = {'config': 'configs/digits_dilated.py', 'sweep': 'configs/sweeps/dilation.py'}
        raise UserError(f'--{flag}=FILE is missing; try --{flag}={example[flag]}')
    return overridden


def _check_cells_leave(overridden: list[str], sweep) -> None:
    """Raises UserError if every cell sets an overridden key, which would then change nothing."""
    for key in overridden:
        if all(key in cell.changes for cell in sweep.cells):
            raise UserError(
                f'--config.{key}: every cell of the sweep sets this key itself, so that this would '
                'change nothing; change the cells in the sweep file'
            )


def _expanded(flag: str, text: str) -> pathlib.Path:
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:
        raise UserError(f'--{flag}={text}: no such user; write the folder without ~') from None


def _integer(flag: str, text: str, least: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    if not least <= number < 2**31:
        raise UserError(f'--{flag}={text}: allowed is an integer from {least}')
    return number


def _where(flag: str, path: str, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f'--{flag}={path}, line {error.lineno}'
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    return f'--{flag}={path}, line {lines[-1]}' if lines else f'--{flag}={path}'


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split()).rstrip('.')
