"""Trains the trials of a study, which several processes may share.

The first process leads: it trains, waits for the trials that others train, and compares. A later
one helps: it trains trials that no process has begun. The lock of a trial's folder says who trains
it. On disk trials are called cells, as in studies of earlier versions.
"""

import contextlib
import json
import pathlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence

import jax
from ml_collections import ConfigDict

from mixer_dilated.config import resolve
from mixer_dilated.config_differences import differences
from mixer_dilated.errors import BusyError, NonFiniteError, UserError
from mixer_dilated.files import REMOVE_HINT
from mixer_dilated.paths import exists
from mixer_dilated.reports.schema import read_object
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.sweep import PreparedTrial
from mixer_dilated.training.run_folder import is_locked
from mixer_dilated.training.train import train_and_evaluate

POLL_SECONDS = 0.5  # at trials that other processes train
GRACE_SECONDS = 10  # for the first process to write `study.json`
# What of `study.json` processes that share a study have in common.
SHARED = ('kind', 'axes', 'reference', 'train_seconds', 'cells', 'versions')


def train_all(
    trials: Sequence[PreparedTrial], folder: pathlib.Path, observer: StudyObserver
) -> Iterator[tuple[str, dict]]:
    """Trains valid trials of a study in its folder, or waits until another process has; yields the
    name and summary of each.

    Raises:
      NonFiniteError: the loss of some trials did not stay finite; all others are trained.
    """
    left, not_finite = list(trials), []
    while left:
        free = [trial for trial in left if not is_locked(trial_folder(folder, trial))]
        if not free:
            observer.on_wait([trial_folder(folder, trial) for trial in left])
            time.sleep(POLL_SECONDS)
        for trial in free:
            with contextlib.suppress(BusyError):  # another process was faster
                summary = _train(trial, folder, observer, not_finite)
                left.remove(trial)
                if summary:
                    yield trial.name, summary
    _raise_not_finite(not_finite, len(trials))


def help_train(
    trials: Sequence[PreparedTrial],
    folder: pathlib.Path,
    description: Mapping,
    observer: StudyObserver,
) -> int:
    """Trains trials that no process has begun, while another leads; returns how many.

    `description` is what this process would write to `study.json`.

    Raises:
      UserError: the other process works at another study.
      NonFiniteError: as in `train_all`.
    """
    _check_same(folder, description)

    def is_free(trial: PreparedTrial) -> bool:
        return not (is_finished(folder, trial) or is_locked(trial_folder(folder, trial)))

    free = [trial for trial in trials if not trial.invalid and is_free(trial)]
    if free:
        observer.on_start(trials)
        observer.on_help()
    trained, not_finite = 0, []
    for trial in filter(is_free, free):  # looked up again before each
        with contextlib.suppress(BusyError):
            trained += bool(_train(trial, folder, observer, not_finite))
    _raise_not_finite(not_finite, len(free))
    return trained


def trial_folder(folder: pathlib.Path, trial: PreparedTrial) -> pathlib.Path:
    return folder / 'cells' / trial.name


def is_finished(folder: pathlib.Path, trial: PreparedTrial) -> bool:
    return exists(trial_folder(folder, trial) / 'summary.json')


def _train(
    trial: PreparedTrial, folder: pathlib.Path, observer: StudyObserver, not_finite: list[str]
) -> dict | None:
    """The summary of a trial; None, and its label in `not_finite`, if its loss did not stay so."""
    workdir, finished = trial_folder(folder, trial), is_finished(folder, trial)
    try:
        if workdir.is_symlink():
            raise UserError(f'{workdir}: a link, which would be trained into; put a folder there')
        if not exists(folder / 'study.json'):  # `workdir` would be made in what is no study
            raise UserError(
                f'{folder}: gone while the study was running (no study.json); the same command '
                'resumes the study where the folder is put back, and else begins it anew'
            )
        with observer.trial(trial, finished) as epochs:
            named = {'name': trial.label, 'progress': epochs}
            summary = train_and_evaluate(trial.setup.config, workdir, **named)
        if summary:  # on the first of several hosts
            observer.on_trial_end(trial, summary, finished)
        return summary
    except NonFiniteError as error:
        not_finite.append(trial.label)
        warnings.warn(f'{trial.label}: {error}', stacklevel=3)
        return None
    finally:
        jax.clear_caches()  # no trial needs the programs of another


def recorded_config(path: pathlib.Path, there: Mapping) -> ConfigDict:
    """The settings of all trials in `study.json`; raises UserError if they are not allowed."""
    try:
        return resolve(there.get('config', {}), warn=False)  # of a version with fewer keys
    except UserError as error:
        raise UserError(f'{path}: {error}; {REMOVE_HINT}') from None


def _raise_not_finite(labels: Sequence[str], num_trials: int) -> None:
    if labels:
        raise NonFiniteError(
            f'the loss of {len(labels)} of {num_trials} trials did not stay finite '
            f'({", ".join(labels)}); the others are trained. Change those trials in the sweep '
            'file, or continue with --config.on_nonfinite=skip'
        )


def _check_same(folder: pathlib.Path, description: Mapping) -> None:
    """Raises UserError unless `study.json` of the process that leads is that of this study."""
    here, path = json.loads(json.dumps(description)), folder / 'study.json'
    until = time.monotonic() + GRACE_SECONDS
    while True:
        there = read_object(path, {'config?': dict}) if exists(path) else {}
        differing = [key for key in SHARED if there.get(key) != here[key]]
        differing += differences(recorded_config(path, there), here['config'])
        if not differing:
            return
        if time.monotonic() > until:
            raise UserError(
                f'--workdir={folder}: another process works here at another study (what differs: '
                f'{"; ".join(differing)}); give the same command to help it, or name '
                'another folder'
            )
        time.sleep(POLL_SECONDS)
