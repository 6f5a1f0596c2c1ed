"""A run's folder: its config and results, as files that explain themselves."""

import json
import math
import os
import pathlib

import ml_collections

from mixer_dilated.config import differences, resolve
from mixer_dilated.errors import InputError


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Makes the folder this run's own: writes `config.json`, or checks the one that is there.

    Raises:
      InputError: the folder holds a run with another config, holds other files, or cannot be
        written.
    """
    path = workdir / 'config.json'
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists() and any(workdir.iterdir()):
            raise InputError(
                f'--workdir={workdir}: not empty, and not the folder of a run (no config.json); '
                'name a new folder'
            )
        with path.open('x') as file:  # of two processes that come at once, one writes
            file.write(json.dumps(config.to_dict(), indent=2) + '\n')
    except FileExistsError:
        check_same_config(workdir, config)
    except OSError as error:
        raise InputError(f'--workdir={workdir}: cannot be written: {error.strerror}') from None


def check_same_data(workdir: pathlib.Path, checksums: dict) -> None:
    """Notes which examples a run is made of, or compares with what was noted.

    Args:
      workdir: the run's folder.
      checksums: of its training and test examples.

    Raises:
      InputError: the run was begun on other examples.
    """
    path = workdir / 'data.json'
    try:
        noted = json.loads(path.read_text())
    except FileNotFoundError:
        write_json(path, checksums)
        return
    except (OSError, ValueError) as error:
        raise InputError(f'{path}: cannot be read: {error}') from None
    if noted != checksums:
        raise InputError(
            f'--workdir={workdir}: this run was begun on other examples ({path} differs from the '
            'data that is there now); give it its own data again, or name a new folder'
        )


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The resolved config of the run in `workdir`.

    Raises:
      InputError: there is no run, or its config cannot be read.
    """
    path = workdir / 'config.json'
    try:
        return resolve(json.loads(path.read_text()))
    except FileNotFoundError:
        study = (workdir / 'study.json').exists()
        ways = f'; it is a study, whose runs are in {workdir / "cells"}' if study else ''
        raise InputError(f'--workdir={workdir}: no run there (no {path}){ways}') from None
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f'{path}: cannot be read as a config: {error}') from None


def read_summary(workdir: pathlib.Path) -> dict | None:
    """The result of the finished run in `workdir`; None where there is none yet.

    Raises:
      InputError: the file is damaged, or of an earlier version.
    """
    path = workdir / 'summary.json'
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that cannot be
        return None
    try:
        summary = json.loads(path.read_text())
        if not isinstance(summary, dict) or 'results' not in summary:
            raise ValueError('no results in it, as in those of earlier versions')
        return summary
    except (OSError, ValueError) as error:
        raise InputError(
            f'{path}: cannot be read: {error}; remove it, and the same command makes it again '
            'from the newest checkpoint'
        ) from None


def check_same_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises InputError, with the keys that differ, if `workdir` holds a run of another config."""
    differing = differences(read_config(workdir), config)
    if differing:
        raise InputError(
            f'--workdir={workdir}: holds a run with another config (key: there, here): '
            f'{"; ".join(differing)}. Name another folder, or give the config that is there'
        )


def read_json(path: pathlib.Path):
    """Content of a JSON file. Raises InputError where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f'{path}: cannot be read: {error}; remove it to have it made again'
        ) from None


def write_json_lines(path: pathlib.Path, rows) -> None:
    """Writes a file of one JSON object a line that is there whole or not at all."""
    write_text(path, ''.join(map(json_line, rows)))


def write_json(path: pathlib.Path, content) -> None:
    """Writes a JSON file that is there whole or not at all; see `json_line` for numbers."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + '\n')


def json_line(row: dict) -> str:
    """One line of JSON; numbers that are not finite, which JSON does not have, become null."""
    return json.dumps(_finite(row), allow_nan=False) + '\n'


def _finite(content):
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file that is there whole or not at all."""
    unfinished = path.with_name(f'.{path.name}.unfinished')
    unfinished.write_text(text)
    os.replace(unfinished, path)
