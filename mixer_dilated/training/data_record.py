"""What a run records of its data: `data.json`, and of a folder of images `splits.npz`."""

import hashlib
import os
import pathlib
import reprlib
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from mixer_dilated.data.class_folders import SplitFiles
from mixer_dilated.data.datasets import open_dataset
from mixer_dilated.data.examples import Dataset
from mixer_dilated.errors import UserError
from mixer_dilated.files import read_arrays, read_json, write_arrays, write_json
from mixer_dilated.parallel.multihost import DATA_DIFFERS, assert_equal_across_hosts, on_primary
from mixer_dilated.paths import exists
from mixer_dilated.training.setup import Setup, create_setup, is_list_of_names

RECORD, SPLIT_FILES = 'data.json', 'splits.npz'
HINT = 'remove it, and the same command writes it again'


def open_setup(workdir: pathlib.Path, config: ConfigDict, dataset: Dataset | None = None) -> Setup:
    """`create_setup` of a run, whose splits of a folder of images are those that it began with.

    A run without checkpoints begins anew. That a run of an earlier version has no record of its
    splits is a warning, if its data have changed. Raises UserError as `create_setup`, and if the
    data set has other classes than that of the run, whose labels would mean something else.
    """
    checkpoints = workdir / 'checkpoints'
    if not exists(checkpoints) or not any(path.name.isdigit() for path in checkpoints.iterdir()):
        return create_setup(config, dataset)
    dataset = dataset or open_dataset(config.dataset, read_split_files(workdir))
    setup = create_setup(config, dataset)
    recorded = read_json(workdir / RECORD, HINT) if exists(workdir / RECORD) else {}
    split_anew = hasattr(setup.dataset, 'split_files') and not exists(workdir / SPLIT_FILES)
    identity, *old = split_identities(setup, 'train')
    if split_anew and not _is_same_split(recorded.get('train'), {'identity': identity}, old):
        has_changed = 'has changed' if recorded else 'may have changed'
        warnings.warn(
            f'{workdir}: of an earlier version, without a record of its split ({SPLIT_FILES}); '
            f'{config.dataset.name} {has_changed} since and is split anew, so that images that '
            'were trained on may be tested: take out what was added, or train a new run',
            stacklevel=2,
        )
    names, own = recorded.get('class_names'), [*setup.dataset.class_names]
    if names and not is_list_of_names(names):
        names = f'class_names = {reprlib.repr(names)}'
        raise UserError(f'{workdir / RECORD}: {names}: allowed is a list of names; {HINT}')
    if names and names != own:
        differing = sorted({*names} ^ {*own})
        how = f'{differing[0]!r} is in one of them only' if differing else 'their order is another'
        raise UserError(
            f'config.dataset.name = {config.dataset.name!r}: has other classes than the run in '
            f'{workdir} ({how}); name data of the same classes'
        )
    return setup


def record_data(
    workdir: pathlib.Path, setup: Setup, checksums: Mapping[str, Mapping], *, saved: bool
) -> None:
    """Writes `data.json` and `splits.npz`, or, if the run has `saved`, raises UserError where it
    was begun on other examples. `checksums` are of each split, empty where it streams.
    """
    identities = {part: split_identities(setup, part) for part in checksums}
    facts = {part: {'identity': identities[part][0], **checksums[part]} for part in checksums}
    assert_equal_across_hosts(facts, DATA_DIFFERS)
    facts['class_names'] = [*setup.dataset.class_names]
    old = {part: identities[part][1:] for part in checksums}
    on_primary(check_same_data, workdir, facts, old, saved=saved)
    on_primary(write_split_files, workdir, setup.dataset, saved=saved)


def split_identities(setup: Setup, part: str) -> list[str]:
    """The identity of 'train', 'val' or 'test', and those that earlier versions recorded of it.

    They follow from names and sizes of files, and not from pixels.
    """
    split, dataset = setup.config.dataset[f'{part}_split'], setup.dataset
    identities = dataset.identity, *getattr(dataset, 'old_identities', ())
    return [hashlib.sha256(f'{text}\n{split}'.encode()).hexdigest() for text in identities]


def write_split_files(workdir: pathlib.Path, dataset: Dataset, *, saved: bool) -> None:
    """Writes `splits.npz`, of a folder of images, unless a run that has saved has it: arrays of
    bytes, `class_names` (classes,), and for each split its paths (examples,).
    """
    files = getattr(dataset, 'split_files', None)
    if files and not (saved and exists(workdir / SPLIT_FILES)):
        names = {'class_names': files.class_names, **files.paths}
        arrays = {key: np.array([os.fsencode(name) for name in names[key]]) for key in names}
        write_arrays(workdir / SPLIT_FILES, **arrays)


def read_split_files(workdir: pathlib.Path) -> SplitFiles | None:
    """The content of `splits.npz`; None where there is none."""
    if not exists(workdir / SPLIT_FILES):
        return None
    hint = 'restore it, or remove it to have the folder split anew'
    arrays = read_arrays(workdir / SPLIT_FILES, hint)
    if 'class_names' not in arrays or any(array.dtype.kind != 'S' for array in arrays.values()):
        raise UserError(f'{workdir / SPLIT_FILES}: not the names of files; {hint}')
    names = {key: [os.fsdecode(name) for name in arrays[key]] for key in arrays}
    return SplitFiles(tuple(names.pop('class_names')), names)


def check_same_data(
    workdir: pathlib.Path, facts: Mapping, old: Mapping[str, list[str]], *, saved: bool
) -> None:
    """Writes `data.json`, or raises UserError if a run that has saved has other splits there.

    `facts` are 'class_names', and of every split its identity and checksums; `old` are other
    identities of splits that are as good. A run without a checkpoint may begin anew.
    """
    path = workdir / RECORD
    if not saved or not exists(path):
        write_json(path, facts)
        return
    there = read_json(path, HINT)
    parts = facts.keys() - {'class_names'}
    if not all(_is_same_split(there.get(part), facts[part], old.get(part, ())) for part in parts):
        raise UserError(
            f'--workdir={workdir}: this run was begun on other examples ({path} differs from the '
            'data that is there now); give it its own data again, or name a new folder'
        )


def _is_same_split(recorded: dict | None, facts: dict, old: Sequence[str]) -> bool:
    """By checksums if both have them: a run may change between memory and streaming."""
    if not isinstance(recorded, dict):
        return False
    if common := (recorded.keys() & facts.keys()) - {'identity'}:
        return all(recorded[name] == facts[name] for name in common)
    return recorded.get('identity') in (facts['identity'], *old)
