"""Parses the flags of a command, and its --config.KEY=VALUE, with absl."""

import ast
import functools
import pathlib
import re
from collections.abc import Callable
from types import SimpleNamespace

from absl import flags

from mixer_dilated.allowed_values import integer
from mixer_dilated.cli.config_files import one_line
from mixer_dilated.config import check_key, flat_keys
from mixer_dilated.config_keys import ALIASES, KEYS
from mixer_dilated.config_synonyms import SYNONYMS
from mixer_dilated.errors import UserError
from mixer_dilated.paths import as_path, expand_user, is_bucket

EXAMPLES = {  # of flags that may be missing, and of commands that take words
    'config': '--config=configs/digits_dilated.py',
    'sweep': '--sweep=configs/sweeps/dilation.py',
    'workdir': '--workdir=runs/NAME',
    'output': '--output=NEW_FOLDER',
    'split': "--split='train[50000:]', the examples on which the strength is chosen",
    'predict': 'predict --workdir=runs/NAME photo.png photos',
    'report': 'report runs/NAME',
    'convert': 'convert Mixer-B_16.npz mixer_b16.safetensors',
}


class _Parser(flags.ArgumentParser):
    def __init__(self, parse: Callable[[str], object]):
        self.parse = parse


def _text(text: str) -> str:
    if not text:
        raise UserError('an empty value; leave it out or give another')
    return text


def _path(text: str) -> pathlib.Path:
    if is_bucket(text):
        raise UserError('is written locally; name a local path, and copy it there afterwards')
    return expand_user(_text(text))


def _folder(text: str) -> pathlib.Path:
    """Of a run, which may be in a bucket."""
    if not is_bucket(text):
        return _path(text)
    try:
        return as_path(text)
    except UserError as error:  # the flag is named with its value
        raise UserError(str(error).removeprefix(f'{text}: ')) from None


def _integer(text: str, minimum: int = 1) -> int:
    value, allowed = int(text) if re.fullmatch('[0-9]{1,10}', text) else None, integer(minimum)
    if not allowed.test(value):
        raise ValueError(f'allowed is {allowed.text}')
    return value


def _literal(text: str):
    """A Python value, or else the text itself."""
    try:
        return ast.literal_eval({'true': 'True', 'false': 'False'}.get(text, text))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


GROUPS = ('model', 'model.patches')  # of keys, which a word sets
INTEGERS = 'seeds', 'top', 'max_pixels', 'batch_per_device', 'num_processes'
PARSERS = {
    'workdir': _Parser(_folder),
    **dict.fromkeys(('output', 'picture', 'json', 'csv', 'sheet', 'trace'), _Parser(_path)),
    **dict.fromkeys(INTEGERS, _Parser(_integer)),
    'process_id': _Parser(functools.partial(_integer, minimum=0)),
    'halving': _Parser(functools.partial(_integer, minimum=2)),
    'checkpoint': flags.EnumParser(['newest', 'best']),
    'format': flags.EnumParser(['jax', 'onnx']),
    'names': flags.EnumParser(['linen', 'timm']),
}


def parse(command, argv: list[str]) -> SimpleNamespace:
    """Parses the words after a command, whose usage names its flags.

    Returns:
      The value of every flag, None where it is not given; 'words', which are no flags; and
      'overrides', {key: value} of --config.KEY=VALUE, of `GROUPS` a word.

    Raises:
      UserError: an unknown flag or key, a value that is not allowed, or something is missing.
    """
    values, serializer = flags.FlagValues(), flags.ArgumentSerializer()
    values.set_gnu_getopt()  # flags may follow words
    keys = (*KEYS, *ALIASES, *GROUPS) if '--config.' in command.usage else ()
    for key in keys:  # boolean: of a switch, --config.KEY and --noconfig.KEY do too
        parser = _Parser(str if key in GROUPS else _literal)
        flag = flags.Flag(parser, serializer, f'config.{key}', None, '', boolean=key not in GROUPS)
        flags.DEFINE_flag(flag, values)
    for name in command.flags:
        parser = PARSERS.get(name, _Parser(_text))
        if f'--{name}=' not in command.usage:
            flags.DEFINE_bool(name, None, '', flag_values=values)
        elif f'--{name}=FILE ...' in command.usage:
            flags.DEFINE_multi(parser, serializer, name, None, '', flag_values=values)
        else:
            flags.DEFINE(parser, name, None, '', flag_values=values)
    words = _parse_flags(values, argv, bool(keys))
    given = {name: values[name].value for name in command.flags}
    overrides = {k: values[f'config.{k}'].value for k in keys if values[f'config.{k}'].present}
    groups = {key: overrides.pop(key) for key in GROUPS if key in overrides}
    overrides = flat_keys(overrides) | groups
    arguments = SimpleNamespace(**given, words=tuple(words), overrides=overrides)
    for name in command.required:
        if getattr(arguments, name) is None:
            raise UserError(f'--{name} is missing; for example {EXAMPLES[name]} (see --help)')
    if words and not command.words:
        raise UserError(f'{words[0]!r} is not understood; flags look like --workdir=DIR')
    takes_any = command.words and command.words[-1].endswith(' ...')
    if not (words and takes_any) and len(words) != len(command.words):
        name, expected = command.function.__name__, ' '.join(command.words)
        raise UserError(f'{name} takes {expected}; for example {EXAMPLES[name]} (see --help)')
    return arguments


def _parse_flags(values: flags.FlagValues, argv: list[str], has_overrides: bool) -> list[str]:
    """Sets the flags that `argv` names, and returns the other words."""
    try:
        return values(['run.py', *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        if has_overrides and (key := re.fullmatch(r'(?:no)?config\.(.*)', error.flagname)):
            check_key(key[1])
        keys = [key for key in KEYS if f'.{key}'.endswith(f'.{error.flagname}')]
        keys = keys or [key for word, key in SYNONYMS.items() if word == error.flagname]
        value = error.flagvalue.partition('=')[2] or 'VALUE'
        override = f'--config.{keys[0]}={value}' if len(keys) == 1 else ''
        hint = f'; the key of the config is set by {override}' if override else ''
        text = re.sub(r', config\.[\w.]+', '', one_line(error))  # of its suggestions
        raise UserError(f'{text}{hint} (see --help)') from None
    except flags.Error as error:
        raise UserError(f'{one_line(error).removeprefix("flag ")} (see --help)') from None
