"""Successive halving (Jamieson and Talwalkar 2016): all methods shortly, the best of them longer.

Each rung is a study in a separate folder, `rung-1`, `rung-2`, …: one seed of every method that is
left, for η times the epochs of the rung before. One of η is kept, those of the highest validation
accuracy; over several data sets, of the lowest mean rank. What is left at the end is trained with
all seeds, in the folder `final`.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from mixer_dilated.config import changed
from mixer_dilated.errors import NonFiniteError, UserError
from mixer_dilated.paths import exists
from mixer_dilated.reports.formatting import count_text
from mixer_dilated.reports.schema import OPTIONAL, read_rows
from mixer_dilated.studies.meta_analysis import DATASET, method_text
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.study import run_study
from mixer_dilated.studies.sweep import PreparedTrial, Sweep, Trial, pair_with_reference, prepare
from mixer_dilated.studies.wording import listing

RESULTS = {'cell': str, 'val_accuracy?': OPTIONAL}


def successive_halving(
    sweep: Sweep, folder: pathlib.Path, factor: int, *, command: str, observer: StudyObserver
) -> dict | None:
    """Runs the rungs and the final study; the same call resumes it.

    Methods that others are compared with are always kept, and do not count.

    Args:
      sweep: its trials have the epochs (or the sweep the seconds) of the last rung and the final.
      folder: for the folders of the rungs.
      factor: η; one method of so many is kept.
      command, observer: as of `run_study`.

    Returns:
      What `run_study` does of the final study; None if another process leads that or a rung.

    Raises:
      UserError: the sweep is of another kind than 'sweep', the folder is that of a study, a trial
        has no validation split or has `total_steps`, or as `run_study`.
      NonFiniteError: no method's loss stayed finite.
    """
    if sweep.kind != 'sweep':
        raise UserError(f"--halving: kind = {sweep.kind!r}: only a sweep of kind 'sweep' is halved")
    if exists(folder / 'study.json'):
        raise UserError(
            f'--workdir={folder}: holds a study that is not halved; name another folder'
        )
    valid = [trial for trial in prepare(sweep) if not trial.invalid]
    for trial in valid:
        _check(trial)
    references = {*pair_with_reference(valid, sweep.reference).values()}
    methods = {trial.name: method_text(trial.settings) for trial in valid}
    kept = {methods[name] for name in references}
    left = [method for method in dict.fromkeys(methods.values()) if method not in kept]
    divisors, looked_at = _divisors(valid, len(left), factor), []
    for number, divisor in enumerate(divisors, 1):
        looked_at.append(len(left))
        path, not_finite = folder / f'rung-{number}', None
        trials = [trial for trial in valid if methods[trial.name] in {*left, *kept}]
        observer.on_rung(f'rung {number} of {len(divisors)}', path)
        try:
            rung = _rung(sweep, trials, divisor)
            if not run_study(rung, path, command=command, observer=observer, timed=False):
                return None
        except NonFiniteError as error:  # those trials are out
            not_finite = error
        ranks = _mean_ranks(trials, read_rows(path / 'results.jsonl', RESULTS))
        best = sorted((method for method in ranks if method in left), key=ranks.get)
        if not best:
            raise not_finite
        left = best[: -(-len(left) // factor)]
    path = folder / 'final'
    trials = [trial for trial in valid if methods[trial.name] in {*left, *kept}]
    observer.on_rung('final study', path)
    final = dataclasses.replace(sweep, trials=[Trial(t.settings, t.changes) for t in trials])
    chosen = (
        f'{count_text(looked_at[0], "method")} were looked at: rungs of '
        f'{listing([*map(str, looked_at)])}, one seed each, by validation accuracy; {len(left)} '
        'were kept for this study.'
    )
    return run_study(final, path, command=command, observer=observer, chosen=chosen)


def _check(trial: PreparedTrial) -> None:
    """Raises UserError if a trial cannot be tried for a part of its epochs."""
    config = trial.setup.config
    if not config.dataset.val_split:
        raise UserError(
            f'--halving: {trial.label} has no validation examples, by which methods are chosen; '
            "set dataset.val_split, for example --config.dataset.val_split='train[50000:]'"
        )
    if config.total_steps:
        raise UserError(
            f'--halving: {trial.label} has total_steps = {config.total_steps}; rungs are parts of '
            'num_epochs: set that instead'
        )


def _divisors(valid: Sequence[PreparedTrial], count: int, factor: int) -> list[int]:
    """Of `num_epochs` in each rung, [9, 3, 1]: an epoch at least in the first, and methods for as
    many rungs."""
    most = min(count // factor, *(trial.setup.config.num_epochs for trial in valid))
    divisors = [1]
    while divisors[0] * factor <= most:
        divisors.insert(0, divisors[0] * factor)
    return divisors


def _rung(sweep: Sweep, trials: Sequence[PreparedTrial], divisor: int) -> Sweep:
    """One seed of each trial, evaluated once, after a part of its epochs."""
    shorter = []
    for trial in trials:
        epochs = max(1, round(trial.setup.config.num_epochs / divisor))
        changes = {'num_epochs': epochs, 'eval_every': epochs}
        shorter.append(Trial(trial.settings, {**trial.changes, **changes}))
    seconds = sweep.train_seconds and sweep.train_seconds / divisor
    base = changed(sweep.base, {'num_seeds': 1})
    return dataclasses.replace(sweep, base=base, trials=shorter, train_seconds=seconds)


def _mean_ranks(trials: Sequence[PreparedTrial], rows: Sequence[dict]) -> dict[str, float]:
    """{method: mean over the data sets of its rank in validation accuracy}, of those that have one
    on every data set.
    """
    from scipy import stats

    datasets = collections.defaultdict(dict)
    accuracies = {row['cell']: row.get('val_accuracy') for row in rows}
    for trial in trials:
        if accuracies.get(trial.name) is not None:
            of_dataset = datasets[trial.settings.get(DATASET)]
            of_dataset[method_text(trial.settings)] = accuracies[trial.name]
    ranks = collections.defaultdict(list)
    for of_dataset in datasets.values():
        of_each = stats.rankdata([-accuracy for accuracy in of_dataset.values()])
        for method, rank in zip(of_dataset, of_each, strict=True):
            ranks[method].append(rank)
    return {method: np.mean(of) for method, of in ranks.items() if len(of) == len(datasets)}
