"""A run's folder: its config, lock, versions, data and summary."""

import contextlib
import errno
import importlib.metadata
import json
import os
import pathlib
import platform
import warnings
import zlib
from collections.abc import Iterable

import filelock
from ml_collections import ConfigDict

import mixer_dilated
from mixer_dilated.config import changed, resolve
from mixer_dilated.config_differences import changes_on_resume, differences_on_resume
from mixer_dilated.errors import BusyError, UserError
from mixer_dilated.files import file_checksum, json_line, read_json, write_json
from mixer_dilated.paths import exists, is_bucket

# Errors of a file system that has no locks, as a mounted Google Drive.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
# Files of a finished run whose checksums its summary holds.
RESULTS = ('metrics.jsonl', 'predictions.npz', 'weights.npz')
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def versions() -> dict[str, str]:
    """Versions of everything that the bits of a result, or the form of a checkpoint, depend on."""
    packages = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {'mixer_dilated': mixer_dilated.__version__, **packages}


def environment() -> dict:
    """'versions' of what computes, and the 'device' it computes on."""
    import jax  # a report, which reads a run's folder, needs none

    device = {'platform': jax.default_backend(), 'kind': jax.devices()[0].device_kind}
    return {
        'versions': {'python': platform.python_version(), **versions()},
        'device': {**device, 'count': jax.device_count()},
    }


@contextlib.contextmanager
def lock_folder(folder: pathlib.Path):
    """Keeps every other process from working in a folder, which is made if it is not there.

    The lock ends with the process. A bucket, or a file system without locks, is a warning. Raises
    BusyError if another process works there, UserError if the folder cannot be written.
    """
    lock = None
    try:
        if not is_bucket(folder):  # which has no folders either, only names with slashes
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / '.lock').acquire(timeout=0)
    except filelock.Timeout:
        raise BusyError(
            f'--workdir={folder}: another process works in this folder; wait until it ends, or '
            f'name another folder (if surely none does, as on a disk of a machine that is gone, '
            f'remove {folder / ".lock"})'
        ) from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, 'errno', errno.ENOSYS) not in NO_LOCKS:
            raise UserError(f'--workdir={folder}: cannot be written: {error.strerror}') from None
    if not lock:
        kind = 'a bucket' if is_bucket(folder) else 'its file system'
        warnings.warn(f'{folder}: {kind} has no locks; let one process work in it', stacklevel=3)
    with lock or contextlib.nullcontext():
        yield


def is_locked(folder: pathlib.Path) -> bool:
    """Whether another process works in a folder now."""
    try:
        with lock_folder(folder) if exists(folder) else contextlib.nullcontext():
            return False
    except BusyError:
        return True


def check_workdir(folder: pathlib.Path, kind: str, mark: str) -> None:
    """Raises UserError if a folder holds files, but not `mark`, as that of every 'run' or 'study'
    does.
    """
    entries = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for name in entries:
        if os.path.islink(folder / name):
            raise UserError(
                f'--workdir={folder}: {name} is a link, and what is written to it would be '
                'elsewhere; put what it leads to in its place, or name a new folder'
            )
    # Names that a process leaves that is killed when it has just begun.
    just_begun = {name for name in entries if name.startswith('.')} | {'versions.json'}
    others = entries - just_begun
    left = others <= {'checkpoints', 'cells'}
    left = left and all(_is_of_unfinished_checkpoint(folder / name) for name in others)
    if mark not in entries and not left:
        raise UserError(
            f'--workdir={folder}: not empty, and not the folder of a {kind} (no {mark}); name a '
            'new folder'
        )


def _is_of_unfinished_checkpoint(path: pathlib.Path) -> bool:
    """Whether nothing is below a path but checkpoints that orbax has not finished.

    TensorStore makes the folder again in which it writes, if that is removed meanwhile.
    """
    if os.path.islink(path) or not path.is_dir():
        return False
    if path.parent.name == 'checkpoints':
        return path.name.endswith('.orbax-checkpoint-tmp')
    entries = list(path.iterdir())
    return bool(entries) and all(map(_is_of_unfinished_checkpoint, entries))


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes a locked folder this run's own: writes `config.json` and `versions.json`, or checks
    those that are there. Another version is a warning; raises UserError for another config.
    """
    path, own = workdir / 'versions.json', versions()
    if not exists(workdir / 'config.json'):
        write_json(path, own)
        write_json(workdir / 'config.json', config.to_dict())
        return
    check_same_config(workdir, config)
    recorded = read_json(path, 'remove it; it only records versions') if exists(path) else {}
    names = [name for name in sorted({*recorded, *own}) if recorded.get(name) != own.get(name)]
    differing = [f'{name}: {recorded.get(name)}, {own.get(name)}' for name in names]
    if differing:
        warnings.warn(
            f'{workdir}: begun with other versions (there, here): {"; ".join(differing)}; the '
            'result may differ from that of either',
            stacklevel=2,
        )


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The resolved config of a run. Raises UserError: no run there, or it cannot be read."""
    path = workdir / 'config.json'
    if not exists(path):
        study = exists(workdir / 'study.json')
        hint = f'; it is a study, whose runs are in {workdir / "cells"}' if study else ''
        raise UserError(f'--workdir={workdir}: no run there (no {path}){hint}')
    hint = "write it again from a copy, 'config' in the record/metadata of a checkpoint"
    config = read_json(path, hint)
    try:
        return resolve(config, warn=False)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f'{path}: cannot be read as a config: {error}; {hint}') from None


def read_summary(workdir: pathlib.Path) -> dict | None:
    """The result of a run; None if it is not finished. Raises UserError if it is damaged."""
    path = workdir / 'summary.json'
    if not exists(path):
        return None
    hint = 'remove it, and the same command makes it again from the newest checkpoint'
    summary = read_json(path, hint)
    if summary != with_checksum(summary):
        raise UserError(f'{path}: its checksum is not that of its content; {hint}')
    for name, kind in {'files': dict, 'num_epochs': int, 'skipped_steps': int}.items():
        if not isinstance(summary.get(name), kind):
            raise UserError(f'{path}: {name} = {summary.get(name)!r} cannot be; {hint}')
    return summary


def check_is_last(workdir: pathlib.Path, config: ConfigDict, step: int) -> None:
    """Warns where a finished run's newest checkpoint, of `step`, is not that of its end."""
    with contextlib.suppress(UserError):  # of a summary, which who reads a checkpoint need not have
        summary = read_summary(workdir) or {}
        steps_per_epoch = summary.get('train_examples', 0) // config.batch
        end = config.total_steps or config.num_epochs * steps_per_epoch
        if summary and step < end:
            warnings.warn(
                f'{workdir}: the run is finished, after {end} steps, and its newest checkpoint is '
                f'of step {step}: restore the last one, or remove summary.json and resume the run',
                stacklevel=4,
            )


def write_summary(workdir: pathlib.Path, summary: dict) -> dict:
    """Writes `summary.json`, with its checksum, and returns its content."""
    summary = json.loads(json_line(with_checksum(summary)))
    write_json(workdir / 'summary.json', summary)
    return summary


def with_checksum(summary: dict) -> dict:
    """The content of `summary.json` with its own 'checksum', CRC-32 of all else in it."""
    content = {name: value for name, value in summary.items() if name != 'checksum'}
    return {**content, 'checksum': zlib.crc32(json_line(content).encode())}


def file_checksums(workdir: pathlib.Path, names: Iterable[str]) -> dict[str, int | None]:
    """CRC-32 of files of a run by name; None for one that cannot be read."""
    checksums = dict.fromkeys(names)
    for name in checksums:
        with contextlib.suppress(UserError):
            checksums[name] = file_checksum(workdir / name)
    return checksums


def check_same_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Raises UserError, with the keys that differ, if `workdir` holds a run of another config, but
    for `changes_on_resume`.
    """
    recorded = read_config(workdir)
    differing = '; '.join(differences_on_resume(recorded, config))
    if not differing:
        return
    hint = 'Name another folder, or give the config that is there'
    if config.num_epochs > recorded.num_epochs or config.total_steps > recorded.total_steps:
        hint += (
            '; to train on where the rest of it would change, begin a new run with its '
            f'weights: --config.init_from={workdir} --config.transfer.head=keep'
        )
    there = 'holds a run with another config (key: there, here)'
    raise UserError(f'--workdir={workdir}: {there}: {differing}. {hint}')


def keep_gelu(workdir: pathlib.Path, config: ConfigDict) -> ConfigDict:
    """The config with the GELU of the run that is there, if both start from the same weights.

    'auto' is what the weights record, which may be gone, or be read otherwise by another version.
    """
    if not config.init_from or not exists(workdir / 'config.json'):
        return config
    recorded = read_config(workdir)
    if recorded.init_from != config.init_from or recorded.model.gelu == config.model.gelu:
        return config
    warnings.warn(
        f'{workdir}: begun with config.model.gelu = {recorded.model.gelu!r}, which it keeps',
        stacklevel=3,
    )
    return changed(config, {'model.gelu': recorded.model.gelu})


def update_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Records that a run goes on with another `dataset.name` or more epochs, with a warning.

    A finished run is then unfinished: its summary is removed.
    """
    recorded = read_config(workdir)
    changes = changes_on_resume(recorded, config)
    for key, value in changes.items():
        old = recorded.num_epochs if key == 'num_epochs' else recorded.dataset.name
        warnings.warn(f'{workdir}: config.{key} was {old!r} and is {value!r} now', stacklevel=3)
    if changes:
        if 'num_epochs' in changes and exists(workdir / 'summary.json'):
            (workdir / 'summary.json').unlink()
        write_json(workdir / 'config.json', changed(recorded, changes).to_dict())


def read_finished(workdir: pathlib.Path, config: ConfigDict) -> dict | None:
    """The summary of a finished run; None if the run is damaged, or goes on with changes."""
    summary = read_summary(workdir)
    if not summary:
        return None
    check_same_config(workdir, config)
    # Whether data that moved is that of the run is known when it is opened.
    has_more_epochs = not config.total_steps and summary['num_epochs'] != config.num_epochs
    if has_more_epochs or changes_on_resume(read_config(workdir), config):
        return None
    check_none_skipped(workdir, config, summary['skipped_steps'])
    checksums = file_checksums(workdir, RESULTS)
    damaged = [name for name in RESULTS if checksums[name] != summary['files'].get(name)]
    if not damaged:
        return summary
    text = f'{", ".join(damaged)} damaged or gone; made again from the checkpoint'
    warnings.warn(f'{workdir}: {text}', stacklevel=3)
    return None


def check_none_skipped(workdir: pathlib.Path, config: ConfigDict, skipped_steps: int) -> None:
    """Raises UserError if `on_nonfinite` is 'stop' and the run has skipped steps."""
    if skipped_steps and config.on_nonfinite == 'stop':
        raise UserError(
            f"config.on_nonfinite = 'stop': {workdir} holds a run that left out {skipped_steps} "
            "steps; allowed is 'skip', or a new folder"
        )
