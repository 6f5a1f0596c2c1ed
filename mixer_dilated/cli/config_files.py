"""Loads config and sweep files, with the overrides of the command line."""

import dataclasses
import os
import pathlib
import runpy
import traceback
import warnings
from collections.abc import Mapping

from ml_collections import ConfigDict

import mixer_dilated
from mixer_dilated.config import STRIDE, changed, flat_keys
from mixer_dilated.config_keys import KEYS
from mixer_dilated.errors import UserError

PACKAGE = pathlib.Path(mixer_dilated.__file__).parent
# The configs that come with the package: in an installed one, or beside it in a clone.
SHIPPED = (PACKAGE if (PACKAGE / 'configs').is_dir() else PACKAGE.parent) / 'configs'

MAX_FILE_BYTES = 2**24


def load_config(path: str, overrides: Mapping) -> ConfigDict:
    """Loads what `get_config()` in a file returns, changes it by the overrides, and resolves it.

    A relative path that is not there is looked for among the configs of the package; 'FILE:WORD'
    calls `get_config('WORD')`. Raises UserError for whatever goes wrong in the file, with its line.
    """
    config = _call('config', path, 'get_config')
    if not isinstance(config, ConfigDict):
        raise UserError(f'--config={path}: get_config() returned {config!r}, not a ConfigDict')
    return _override(config, overrides)


def load_sweep(path: str, overrides: Mapping, seeds: int | None):
    """Loads the `Sweep` that `get_sweep()` in a file returns, its base changed by the overrides, of
    keys that not every trial sets itself; seeds as the file says if None. Raises as `load_config`.
    """
    sweep = _call('sweep', path, 'get_sweep')
    from mixer_dilated.studies.sweep import Sweep, check_sweep

    if not isinstance(sweep, Sweep):
        raise UserError(f'--sweep={path}: get_sweep() returned {sweep!r}, not a Sweep')
    try:
        check_sweep(sweep)
    except UserError as error:
        raise UserError(f'--sweep={path}: {error}') from None
    for key in overrides:
        if sweep.train_seconds and key in ('num_epochs', 'total_steps'):
            seconds = f'the sweep has train_seconds = {sweep.train_seconds}, which sets the epochs'
            raise UserError(f'--config.{key}: {seconds}; change train_seconds in the sweep file')
        own = STRIDE if key == 'model.patches' else key  # 'auto' is of the stride
        if all(own in trial.changes for trial in sweep.trials):
            hint = 'so that this would change nothing; change the trials in the sweep file'
            raise UserError(f'--config.{key}: every trial of the sweep sets this itself, {hint}')
    if seeds is not None:
        overrides = {**overrides, 'num_seeds': seeds}
    return dataclasses.replace(sweep, base=_override(sweep.base, overrides))


def file_name(path: str) -> str:
    """The name of a config or sweep: its file's, without folder, ending and ':WORD'."""
    return pathlib.Path(path.split(':')[0]).stem


def load_configs(paths: list[str], overrides: Mapping) -> dict[str, ConfigDict]:
    """Loads several configs by their names: with ':WORD', and the whole path where two are alike.
    Raises UserError as `load_config`, and for a file that is there twice."""
    names = [file_name(path) + ''.join(path.partition(':')[1:]) for path in paths]
    pairs = zip(paths, names, strict=True)
    names = [path if names.count(name) > 1 else name for path, name in pairs]
    if len({*names}) < len(names):
        raise UserError(f'--config: {", ".join(names)}: one is there twice; name each once')
    return {name: load_config(path, overrides) for path, name in zip(paths, names, strict=True)}


def _override(config: Mapping, overrides: Mapping) -> ConfigDict:
    """Resolves a config with the overrides; warns of keys that a preset among them replaces."""
    if preset := overrides.get('model'):
        kept = flat_keys(overrides, warn=False)
        replaced = [
            f'config.{key} = {value!r}'
            for key, value in flat_keys(config, warn=False).items()
            if key.startswith('model.') and key not in kept and value != KEYS[key].default
        ]
        if replaced:
            text = f'--config.model={preset} takes the place of {", ".join(replaced)} in the file'
            warnings.warn(f'{text}; give them beside it to keep them', stacklevel=2)
    return changed(config, overrides)


def _call(flag: str, path: str, function: str):
    """The result of a function of a file; 'FILE:WORD' passes it 'WORD'."""
    file, *word = path.split(':', 1)
    if not pathlib.Path(file).is_file():
        root, folder = SHIPPED.parent, {'config': 'configs', 'sweep': 'configs/sweeps'}[flag]
        if not file.startswith('configs/') or not (root / file).is_file():
            listed = ', '.join(
                sorted(f'{folder}/{path.name}' for path in (root / folder).glob('*.py'))
            )
            raise UserError(f'--{flag}={file}: no such file; those of the package: {listed}')
        file = str(root / file)
    if (size := os.path.getsize(file)) > MAX_FILE_BYTES:
        allowed = f'a program, of at most {MAX_FILE_BYTES}'
        raise UserError(f'--{flag}={path}: has {size} bytes; allowed is {allowed}; name another')
    try:
        module = runpy.run_path(file)
        if function in module:
            return module[function](*word)
    # Such a file is a program: whatever it raises is the user's to mend.
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        if isinstance(error, SyntaxError):
            lines = [error.lineno]
        where = f', line {lines[-1]}' if lines and lines[-1] else ''
        kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
        raise UserError(f'--{flag}={path}{where}: {kind}{one_line(error)}') from None
    hint = ''
    if 'get_sweep' in module:
        hint = f'; it is a sweep file, for the command sweep: sweep --sweep={path}'
    elif 'get_config' in module:
        hint = f'; it is a config file: --config={path}'
    raise UserError(f'--{flag}={path}: has no function {function}(){hint}')


def one_line(error: Exception) -> str:
    """The message of an error as one line without a full stop."""
    return ' '.join(str(error).split()).rstrip('.')
