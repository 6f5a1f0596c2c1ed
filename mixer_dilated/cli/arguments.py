"""Flags of a command, and the config or sweep that its file and overrides make."""

import dataclasses
import pathlib
import re
import runpy
import traceback
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FieldReference, config_flags

from mixer_dilated.config import changed, check_key, flat, flat_keys, nested
from mixer_dilated.config_keys import ALIASES, KEYS, integer, preset_values
from mixer_dilated.errors import UserError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line: a field for each flag, None where it is not given."""

    config: ConfigDict | None = None  # of the file of --config and the overrides, resolved
    sweep: Any = None  # the `Sweep` of the file of --sweep, its base resolved with the overrides
    name: str = ''  # the config or sweep file's, without its ending
    folder: pathlib.Path | None = None  # the word after the command, where it takes one
    paths: tuple[str, ...] = ()  # all words after the command, where it takes many
    workdir: pathlib.Path | None = None  # folder of the run or study
    split: str | None = None  # examples to evaluate, in TFDS split syntax
    data_dir: str | None = None  # where prepared data lies now
    checkpoint: str | None = None  # newest or best
    calibrate: str | None = None  # examples to fit temperatures on, in TFDS split syntax
    output: pathlib.Path | None = None  # new folder of the export
    picture: pathlib.Path | None = None  # file to draw the patches into: .png, .svg or .pdf
    seeds: int | None = None  # seeds of every trial
    against: str | None = None  # what else to time, separated by commas
    json: pathlib.Path | None = None  # file for all measurements, plans or predictions
    devices: str | None = None  # devices to plan for, separated by commas
    batch_per_device: int | None = None  # images of a batch on each device
    input: bool | None = None  # whether to time the input instead of the step
    top: int | None = None  # classes to show of each image
    csv: pathlib.Path | None = None  # file for every prediction
    sheet: pathlib.Path | None = None  # file to draw the images and their predictions into
    coordinator: str | None = None  # HOST:PORT of process 0 of several that train together
    num_processes: int | None = None  # how many train together
    process_id: int | None = None  # which of them this is, from 0


class _TextParser(flags.ArgumentParser):
    def parse(self, text: str) -> str:
        if not text:
            raise UserError('an empty value; leave it out or give another')
        return text


class _PathParser(_TextParser):
    def parse(self, text: str) -> pathlib.Path:
        try:
            return pathlib.Path(super().parse(text)).expanduser()
        except RuntimeError:
            raise UserError(f'no user {text.split("/")[0]}; write the path without ~') from None


class _IntegerParser(flags.ArgumentParser):
    def __init__(self, minimum: int):
        self.allowed = integer(minimum)

    def parse(self, text: str) -> int:
        value = int(text) if re.fullmatch('[0-9]{1,10}', text) else None
        if not self.allowed.test(value):
            raise ValueError(f'allowed is {self.allowed.text}')
        return value


_NOT_FLAGS = ('config', 'sweep', 'folder', 'paths')  # made of files and words
_PARSERS = {
    **dict.fromkeys(('workdir', 'output', 'picture', 'json', 'csv', 'sheet'), _PathParser()),
    **dict.fromkeys(('seeds', 'top', 'batch_per_device', 'num_processes'), _IntegerParser(1)),
    'process_id': _IntegerParser(0),
}


def parse(argv: list[str], names: tuple[str, ...]) -> Arguments:
    """Reads the command line of a command that takes one config, one sweep or none.

    Args:
      argv: the words after the command.
      names: fields of `Arguments` that the command takes.

    Raises:
      UserError: an unknown flag or key, or a file that cannot be read.
    """
    files, argv = _take_files(argv, names)
    return _parse(argv, names, files[-1] if files else None)


def parse_each(argv: list[str], names: tuple[str, ...], default: Iterable[str]) -> list[Arguments]:
    """Reads the command line of a command that takes several --config, all with one set of flags.

    Args:
      argv: the words after the command.
      names: fields of `Arguments` that the command takes.
      default: config files to take if there is none.

    Returns:
      For each config its arguments; 'name' has the word of a 'FILE:WORD', and is the whole path
      where two would else have one name.

    Raises:
      UserError: as `parse`.
    """
    files, argv = _take_files(argv, names)
    files = files or [*default]
    each = [_parse(argv, names, file) for file in files]
    short = [
        arguments.name + ''.join(file.partition(':')[1:])
        for arguments, file in zip(each, files, strict=True)
    ]
    return [
        dataclasses.replace(arguments, name=file if short.count(name) > 1 else name)
        for arguments, file, name in zip(each, files, short, strict=True)
    ]


def _parse(argv: list[str], names: tuple[str, ...], file: str | None) -> Arguments:
    overrides = {}
    if {'config', 'sweep'} & {*names}:
        overrides, argv = _take_overrides(argv)
    values = flags.FlagValues()
    for name in {*names} - {*_NOT_FLAGS}:
        if name == 'input':
            flags.DEFINE_bool(name, None, '', flag_values=values)
        else:
            flags.DEFINE(_PARSERS.get(name, _TextParser()), name, None, '', flag_values=values)
    words = _parse_flags(values, argv)
    fields = {name: values[name].value for name in values}
    if words and 'folder' in names:
        if not words[0]:
            raise UserError('DIR: an empty value; name the folder of a run or study')
        fields['folder'] = _PathParser().parse(words.pop(0))
    if 'paths' in names:
        fields['paths'], words = tuple(words), []
    if words:
        raise UserError(f'{words[0]!r} is not understood; flags look like --workdir=DIR')
    if file is None:
        return Arguments(**fields)
    fields['name'] = pathlib.Path(file.split(':')[0]).stem
    if 'sweep' in names:
        fields['sweep'] = _override_sweep(load_sweep(file), overrides, fields['seeds'])
    else:
        fields['config'] = _override(load_config(file), overrides)
    return Arguments(**fields)


def _parse_flags(
    values: flags.FlagValues, argv: list[str], *, known_only: bool = False
) -> list[str]:
    """Sets the flags that `argv` names, and returns the other words."""
    values.set_gnu_getopt()  # flags may follow words
    try:
        return values(['run.py', *argv], known_only=known_only)[1:]
    except flags.UnrecognizedFlagError as error:
        keys = [key for key in KEYS if f'.{key}'.endswith(f'.{error.flagname}')]
        value = error.flagvalue.partition('=')[2] or 'VALUE'
        override = f'--config.{keys[0]}={value}' if len(keys) == 1 else ''
        hint = f'; the key of the config is set by {override}' if override else ''
        raise UserError(f'{_one_line(error)}{hint} (see --help)') from None
    except flags.Error as error:
        raise UserError(f'{_one_line(error).removeprefix("flag ")} (see --help)') from None


def _take_files(argv: list[str], names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The files of --config or --sweep, and the other words."""
    values = flags.FlagValues()
    for name in {'config', 'sweep'} & {*names}:
        flags.DEFINE_multi(
            _TextParser(), flags.ArgumentSerializer(), name, [], '', flag_values=values
        )
    argv = _parse_flags(values, argv, known_only=True)
    return [file for name in values for file in values[name].value], argv


def _take_overrides(argv: list[str]) -> tuple[dict, list[str]]:
    """{key: value} of --config.KEY=VALUE, of 'model' a preset's name, and the other words."""
    keys = [match[1] for word in argv if (match := re.match(r'--?(?:no)?config\.([^=]*)', word))]
    for key in keys:
        if key != 'model' and key not in ALIASES:
            check_key(key)
    fields = {key: FieldReference(None, field_type=object) for key in (*KEYS, *ALIASES)}
    values = flags.FlagValues()
    flags.DEFINE_string('config.model', None, 'a preset', flag_values=values)
    config_flags.DEFINE_config_dict(
        'config',
        ConfigDict(nested(fields)),
        flag_values=values,
        sys_argv=[f'--config.{key}' for key in keys if key != 'model'],
    )
    argv = _parse_flags(values, argv, known_only=True)
    overrides = flat_keys(config_flags.get_override_values(values['config']))
    preset = values['config.model'].value
    return overrides | ({} if preset is None else {'model': preset}), argv


def _override(config: Mapping, overrides: Mapping) -> ConfigDict:
    """A file's config with the overrides, resolved; warns of what a preset among them replaces."""
    if 'model' in overrides:
        kept = {*flat({'model': preset_values(overrides['model'])}), *overrides}
        replaced = [
            f'config.{key} = {value!r}'
            for key, value in flat_keys(config, warn=False).items()
            if key.startswith('model.') and key not in kept and value != KEYS[key].default
        ]
        if replaced:
            warnings.warn(
                f'--config.model={overrides["model"]} takes the place of {", ".join(replaced)} in '
                'the file; give them beside it to keep them',
                stacklevel=2,
            )
    return changed(config, overrides)


def _override_sweep(sweep, overrides: Mapping, seeds: int | None):
    for key in overrides:
        if all(key in trial.changes for trial in sweep.trials):
            raise UserError(
                f'--config.{key}: every trial of the sweep sets this key itself, so that this '
                'would change nothing; change the trials in the sweep file'
            )
    if seeds is not None:
        overrides = {**overrides, 'num_seeds': seeds}
    return dataclasses.replace(sweep, base=_override(sweep.base, overrides))


def load_config(path: str) -> ConfigDict:
    """What `get_config()` of a config file returns; 'FILE:WORD' calls `get_config('WORD')`.

    Raises:
      UserError: no such file, or whatever goes wrong in it, with its line.
    """
    config = _call('config', path, 'get_config')
    if not isinstance(config, ConfigDict):
        raise UserError(f'--config={path}: get_config() returned {config!r}, not a ConfigDict')
    return config


def load_sweep(path: str):
    """What `get_sweep()` of a sweep file returns.

    Raises:
      UserError: no such file, or whatever goes wrong in it, with its line.
    """
    sweep = _call('sweep', path, 'get_sweep')
    from mixer_dilated.studies.sweep import Sweep, check_sweep

    if not isinstance(sweep, Sweep):
        raise UserError(f'--sweep={path}: get_sweep() returned {sweep!r}, not a Sweep')
    try:
        check_sweep(sweep)
    except UserError as error:
        raise UserError(f'--sweep={path}: {error}') from None
    return sweep


def _call(flag: str, path: str, function: str):
    """What a function of a file returns; 'FILE:WORD' hands it 'WORD'."""
    file, *word = path.split(':', 1)
    if not pathlib.Path(file).is_file():
        folder = {'config': 'configs', 'sweep': 'configs/sweeps'}[flag]
        there = ', '.join(sorted(map(str, pathlib.Path(folder).glob('*.py')))) or 'none here'
        raise UserError(f'--{flag}={path}: no such file; those in {folder}/: {there}')
    try:
        module = runpy.run_path(file)
        if function in module:
            return module[function](*word)
    # Such a file is a program: whatever it raises is the user's to mend.
    except Exception as error:
        kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
        raise UserError(
            f'--{flag}={path}{_line_of(error, file)}: {kind}{_one_line(error)}'
        ) from None
    hint = ''
    if 'get_sweep' in module:
        hint = f'; it is a sweep file: python run.py sweep --sweep={path}'
    elif 'get_config' in module:
        hint = f'; it is a config file: --config={path}'
    raise UserError(f'--{flag}={path}: has no function {function}(){hint}')


def _line_of(error: Exception, file: str) -> str:
    """', line N' of the file in which an error was raised; '' if it was raised in another one."""
    if isinstance(error, SyntaxError):
        return f', line {error.lineno}'
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return f', line {lines[-1]}' if lines else ''


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split()).rstrip('.')
