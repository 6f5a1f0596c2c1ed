"""Successive halving (Jamieson and Talwalkar 2016): all methods shortly, the best of them longer.

Each rung is a study in a separate folder, `rung-1`, `rung-2`, …: one seed of every method that is
left, for η times the epochs of the rung before. One of η is kept, those of the highest validation
accuracy; over several data sets, of the lowest mean rank. What is left at the end is trained with
all seeds, in the folder `final`.
"""

import dataclasses
import pathlib
import re
import time
from collections.abc import Mapping, Sequence

from mixer_dilated.config import changed
from mixer_dilated.errors import NonFiniteError, UserError
from mixer_dilated.paths import exists
from mixer_dilated.reports.formatting import count_text
from mixer_dilated.studies.meta_analysis import dataset_text, group_by_method, mean_ranks
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.study import run_study
from mixer_dilated.studies.sweep import PreparedTrial, Sweep, Trial, prepare
from mixer_dilated.studies.trials import POLL_SECONDS, is_finished, trial_folder
from mixer_dilated.studies.verdicts import listing
from mixer_dilated.training.run_folder import is_locked, read_summary
from mixer_dilated.training.setup import create_setup, example_val_split


def successive_halving(
    sweep: Sweep, folder: pathlib.Path, factor: int, *, command: str, observer: StudyObserver
) -> dict | None:
    """Runs the rungs and the final study; the same call resumes it, or helps another process.

    What a method is compared with is trained beside it, and does not compete. The trials of the
    sweep have the epochs of the last rung and of the final study; one of η methods, `factor`, is
    kept. Command and observer are as of `run_study`, and so is what the final study returns.

    Raises:
      UserError: the sweep is of another kind than 'sweep' or has `train_seconds`, the folder holds
        other files, a data set has no valid trial, a trial has no validation split, has
        `total_steps` or is too short for the first rung, or as `run_study`.
      NonFiniteError: no method's loss stayed finite.
    """
    _check(sweep, folder)
    trials = prepare(sweep)
    valid = [trial for trial in trials if not trial.invalid]
    references = {trial.reference for trial in valid}
    methods = group_by_method([trial for trial in valid if trial.name not in references])
    lacking = {dataset_text(trial.settings): trial for trial in trials if trial.invalid}
    for dataset in lacking.keys() - {dataset_text(trial.settings) for trial in valid}:
        raise UserError(f'--halving: data set {dataset}: {lacking[dataset].invalid}')
    if not methods:
        raise UserError(
            '--halving: no method has a valid trial on every data set, beside those that others '
            'are compared with; add methods'
        )
    divisors, looked_at = _divisors(valid, len(methods), factor), []
    for trial in valid:
        _check_trial(trial, divisors[0])
    for number, divisor in enumerate(divisors, 1):
        path, not_finite = folder / f'rung-{number}', None
        rung = _with_references(valid, methods)
        looked_at.append(len(methods))
        observer.on_rung(f'rung {number} of {len(divisors)}', path)
        part = _part(sweep, rung, divisor)  # one seed, evaluated once, for a part of the epochs
        part = dataclasses.replace(part, base=changed(sweep.base, {'num_seeds': 1}))
        try:
            while not run_study(part, path, command=command, observer=observer, timed=False):
                _wait(path, observer)  # for the process that leads
        except NonFiniteError as error:  # those trials are out
            not_finite = error
            _wait(path, observer)
        accuracies = {
            trial.name: read_summary(trial_folder(path, trial))['val_accuracy']
            for trial in rung
            if is_finished(path, trial)
        }
        best = [*mean_ranks(methods, accuracies)][: -(-len(methods) // factor)]
        if not best:
            raise not_finite
        methods = {method: methods[method] for method in best}
    path = folder / 'final'
    observer.on_rung('final study', path)
    invalid = [trial for trial in trials if trial.invalid]  # which its report names
    final = _part(sweep, [*_with_references(valid, methods), *invalid])
    chosen = (
        f'Methods looked at: {looked_at[0]}, in {count_text(len(looked_at), "rung")} of '
        f'{listing([*map(str, looked_at)])}, one seed each, by validation accuracy; {len(methods)} '
        'were kept for this study.'
    )
    return run_study(final, path, command=command, observer=observer, chosen=chosen)


def _check(sweep: Sweep, folder: pathlib.Path) -> None:
    """Raises UserError if a sweep cannot be halved, or not in this folder."""
    if sweep.kind != 'sweep':
        raise UserError(f"--halving: kind = {sweep.kind!r}: only a sweep of kind 'sweep' is halved")
    if sweep.train_seconds:
        raise UserError(
            f'--halving: train_seconds = {sweep.train_seconds}: rungs are parts of num_epochs; '
            'leave train_seconds out of the sweep'
        )
    for path in folder.iterdir() if exists(folder) else ():
        if not re.fullmatch('rung-[0-9]+|final', path.name):
            raise UserError(
                f'--workdir={folder}: holds {path.name}, which is of no halved sweep; name a new '
                'folder'
            )


def _check_trial(trial: PreparedTrial, divisor: int) -> None:
    """Raises UserError if a trial cannot be tried for a part of its epochs."""
    config = trial.setup.config
    if not config.dataset.val_split:
        raise UserError(
            f'--halving: {trial.label} has no validation examples, by which methods are chosen; '
            f'set them apart in the sweep file or with {example_val_split(trial.setup)}'
        )
    if config.total_steps:
        raise UserError(
            f'--halving: {trial.label} has total_steps = {config.total_steps}; rungs are parts of '
            'num_epochs: set that instead'
        )
    epochs = _epochs(trial, divisor)
    try:
        create_setup(changed(config, {'num_epochs': epochs}), trial.setup.dataset)
    except UserError as error:
        what = f'{trial.label}, for {count_text(epochs, "epoch")} in rung 1'
        raise UserError(f'--halving: {what}: {error}') from None


def _divisors(valid: Sequence[PreparedTrial], count: int, factor: int) -> list[int]:
    """Of `num_epochs` in each rung, [9, 3, 1]: an epoch at least in the first, and methods for as
    many rungs."""
    most = min(count // factor, *(trial.setup.config.num_epochs for trial in valid))
    divisors = [1]
    while divisors[0] * factor <= most:
        divisors.insert(0, divisors[0] * factor)
    return divisors


def _epochs(trial: PreparedTrial, divisor: int) -> int:
    return max(1, round(trial.setup.config.num_epochs / divisor))


def _with_references(
    valid: Sequence[PreparedTrial], methods: Mapping[str, Mapping[str, str]]
) -> list[PreparedTrial]:
    """The trials of methods, and those that they are compared with, in the sweep's order."""
    names = {name for of_method in methods.values() for name in of_method.values()}
    names |= {trial.reference for trial in valid if trial.name in names}
    return [trial for trial in valid if trial.name in names]


def _part(sweep: Sweep, trials: Sequence[PreparedTrial], divisor: int = 0) -> Sweep:
    """The sweep of some trials, without a reference if none has one; with a divisor each has that
    part of its epochs, and is evaluated at the end."""
    names, part = {trial.name for trial in trials}, []
    for trial in trials:
        changes = dict(trial.changes)
        if divisor:
            changes['num_epochs'] = changes['eval_every'] = _epochs(trial, divisor)
        part.append(Trial(trial.settings, changes))
    is_compared = any(trial.reference in names for trial in trials)
    return dataclasses.replace(
        sweep, trials=part, reference=sweep.reference if is_compared else None
    )


def _wait(folder: pathlib.Path, observer: StudyObserver) -> None:
    """Until no other process works in a folder."""
    while is_locked(folder):
        observer.on_wait([folder])
        time.sleep(POLL_SECONDS)
