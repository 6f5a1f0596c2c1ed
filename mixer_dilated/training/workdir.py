"""A run's folder: its config and results, as files that explain themselves."""

import contextlib
import io
import json
import math
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping

import filelock
import ml_collections
import numpy as np

from mixer_dilated.config import differences, resolve
from mixer_dilated.errors import BusyError, InputError
from mixer_dilated.whole_file import WholeFile

# What reading a JSON file raises: RecursionError, where there are thousands of brackets.
UNREADABLE = (OSError, ValueError, RecursionError)


@contextlib.contextmanager
def locked(folder: pathlib.Path):
    """Keeps every other process from working in a folder, which is made if it is not there.

    The lock is the operating system's: it ends with the process that holds it, however that ends.

    Raises:
      BusyError: another process works there.
      InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(folder / '.lock').acquire(timeout=0)
    except filelock.Timeout:
        raise BusyError(
            f'--workdir={folder}: another process works in this folder; wait until it ends, or '
            f'name another folder (if surely none does, as on a disk of a machine that is gone, '
            f'remove {folder / ".lock"})'
        ) from None
    except OSError as error:
        raise InputError(f'--workdir={folder}: cannot be written: {error.strerror}') from None
    with held:
        yield


def is_locked(folder: pathlib.Path) -> bool:
    """Whether another process works in a folder now."""
    if not folder.exists():
        return False
    try:
        with locked(folder):
            return False
    except BusyError:
        return True


def check_place(folder: pathlib.Path, kind: str, mark: str) -> None:
    """Raises InputError if a folder holds files, but not what was asked for.

    Args:
      folder: a run's or a study's; it need not be there.
      kind: 'run' or 'study'.
      mark: the file that every such folder has.
    """
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for name in there:
        if (folder / name).is_symlink():
            raise InputError(
                f'--workdir={folder}: {name} is a link, and what is written to it would be '
                'elsewhere; put what it leads to in its place, or name a new folder'
            )
    # Names that a process leaves that is killed when it has just begun.
    just_begun = {name for name in there if name.startswith('.')} | {'versions.json'}
    if mark not in there and there - just_begun:
        raise InputError(
            f'--workdir={folder}: not empty, and not the folder of a {kind} (no {mark}); name a '
            'new folder'
        )


def claim(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, versions: Mapping[str, str]
) -> None:
    """Makes a locked folder this run's own: writes `config.json` and `versions.json`, or checks
    those that are there.

    Args:
      workdir: the run's folder.
      config: the run's config.
      versions: `environment.versions()`.

    Raises:
      InputError: the folder holds a run with another config or of other versions.
    """
    if not (workdir / 'config.json').exists():
        write_json(workdir / 'versions.json', versions)
        write_json(workdir / 'config.json', config.to_dict())
        return
    check_same_config(workdir, config)
    if not config.checkpoints.other_versions:
        _check_same_versions(workdir, versions)


def _check_same_versions(workdir: pathlib.Path, here: Mapping[str, str]) -> None:
    path = workdir / 'versions.json'
    way_on = 'set --config.checkpoints.other_versions=True'
    try:
        there = json.loads(path.read_text()) if path.exists() else {}
    except UNREADABLE as error:
        raise InputError(
            f'{path}: cannot be read: {error}; to go on with the versions here {way_on}'
        ) from None
    differing = [
        f'{name}: {there.get(name)}, {here.get(name)}'
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise InputError(
            f'--workdir={workdir}: begun with other versions (there, here): '
            f'{"; ".join(differing)}. Go on with those, name another folder, or {way_on}: the '
            'result may then differ from that of either'
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
    except (*UNREADABLE, AttributeError) as error:
        raise InputError(
            f'{path}: cannot be read as a config: {error}; write it again from a copy: every '
            "checkpoint has one, in its record/metadata under 'config'"
        ) from None


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
        if not isinstance(summary, dict) or summary != sealed(summary):
            raise ValueError('its checksum is not that of its content')
        return summary
    except UNREADABLE as error:
        raise InputError(
            f'{path}: cannot be read: {error}; remove it, and the same command makes it again '
            'from the newest checkpoint'
        ) from None


def write_summary(workdir: pathlib.Path, summary: dict) -> dict:
    """Writes `summary.json`, sealed, and returns its content."""
    summary = json.loads(json_line(sealed(summary)))
    write_json(workdir / 'summary.json', summary)
    return summary


def sealed(summary: dict) -> dict:
    """The content of `summary.json` with its own 'checksum', CRC-32 of all else in it."""
    content = {name: value for name, value in summary.items() if name != 'checksum'}
    return {**content, 'checksum': zlib.crc32(json_line(content).encode())}


def file_checksums(workdir: pathlib.Path, names: Iterable[str]) -> dict[str, int | None]:
    """CRC-32 of files of a run by name; None for one that cannot be read."""
    found = dict.fromkeys(names)
    for name in found:
        with contextlib.suppress(OSError):
            found[name] = zlib.crc32((workdir / name).read_bytes())
    return found


def check_same_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises InputError, with the keys that differ, if `workdir` holds a run of another config."""
    differing = differences(read_config(workdir), config)
    if differing:
        raise InputError(
            f'--workdir={workdir}: holds a run with another config (key: there, here): '
            f'{"; ".join(differing)}. Name another folder, or give the config that is there'
        )


def read_json(path: pathlib.Path, way_on: str = 'remove it to have it made again'):
    """Content of a JSON file. Raises InputError, with the way on, where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except UNREADABLE as error:
        raise InputError(f'{path}: cannot be read: {error}; {way_on}') from None


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
    write_bytes(path, text.encode())


def write_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes a compressed .npz that is there whole or not at all."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_bytes(path, file.getvalue())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all, even if the machine stops.

    Raises:
      InputError: it cannot be written; what was there before is undamaged.
    """
    with WholeFile(path, told) as file:
        file.write(content)


@contextlib.contextmanager
def told(path: pathlib.Path):
    """Turns an OSError into the InputError that says which file cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f'{path}: cannot be written: {error.strerror or error}; what was saved before is '
            'undamaged, and when that is mended the same command goes on'
        ) from error
