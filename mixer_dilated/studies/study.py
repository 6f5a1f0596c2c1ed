"""A study from a sweep to its folder: trains what is not trained yet, times, compares, writes."""

import collections
import contextlib
import dataclasses
import json
import pathlib
import reprlib
import statistics
from collections.abc import Mapping, Sequence

from mixer_dilated.config import changed
from mixer_dilated.config_differences import differences
from mixer_dilated.errors import BusyError, UserError
from mixer_dilated.files import REMOVE_HINT, write_json, write_json_lines
from mixer_dilated.paths import PathLike, as_path, exists
from mixer_dilated.reports.formatting import count_text
from mixer_dilated.reports.schema import NUMBER, read_object
from mixer_dilated.studies.analysis import analyze, write_table
from mixer_dilated.studies.epoch_times import epoch_seconds
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.resolution import resolution_rows, resolution_statistics
from mixer_dilated.studies.robustness import robustness_rows, robustness_sentences
from mixer_dilated.studies.sweep import PreparedTrial, Sweep, pair_with_reference, prepare
from mixer_dilated.studies.trials import help_train, is_finished, recorded_config, train_all
from mixer_dilated.training.run_folder import check_workdir, environment, lock_folder
from mixer_dilated.training.setup import create_setup

# Epochs of each trial that are timed: of a few trials more than of many.
TIMED_ROUNDS, FEW_TRIALS, TIMED_ROUNDS_OF_MANY = 9, 20, 3
# Programs that are held at once for timing; each takes some 450 of the 65 530 memory mappings that
# Linux gives a process.
MAX_TIMED = 40
TIMES = 'timing.json'
OF_ALL_TRIALS = ('statistics.json', 'robustness.jsonl', 'resolution.jsonl')


def run_study(
    sweep: Sweep,
    folder: PathLike,
    *,
    command: str,
    observer: StudyObserver | None = None,
    timed: bool = True,
    chosen: str = '',
) -> dict | None:
    """Runs a study in a folder; a trial that is trained there already is not trained again.

    If another process leads the same study, this one helps to train its trials (see `trials.py`).

    Every trial is a run in `folder/cells/NAME`. When all are trained, their epochs are timed in
    turns (of many trials, those that are compared), and the table, the statistics and the sentences
    are written. The costs of a resolution study and the accuracies on corrupted images are measured
    anew each time.

    Args:
      sweep, folder: what to compare, and where; the folder is made if it is not there.
      command: the command that makes it, for the report.
      observer: of the study's progress.
      timed: whether epochs are timed when all is trained.
      chosen: a sentence on how its trials were chosen, which comes before what is found.

    Returns:
      The content of `statistics.json`; None if another process leads, which writes it.

    Raises:
      UserError: the sweep is invalid, the folder holds another study, or another process works
        in it at another one, or at one of kind 'resolution', which is not shared.
      NonFiniteError: the loss of some trials did not stay finite; all others are trained.
    """
    observer, folder = observer or StudyObserver(), as_path(folder)
    trials = prepare(sweep)
    references = pair_with_reference(trials, sweep.reference)
    check_workdir(folder, 'study', 'study.json')
    while True:
        description = _description(sweep, trials, command)
        epochs = _recorded_epochs(folder, description) if sweep.train_seconds else {}
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock_folder(folder))
            except BusyError:
                unknown = {t.name for t in trials if not t.invalid} - epochs.keys()
                if sweep.kind == 'resolution' or (sweep.train_seconds and unknown):
                    raise
            else:
                _write_description(folder, _with_epochs(description, epochs))
                if sweep.train_seconds:
                    epochs = _fit_epochs(sweep, trials, epochs, references, folder, observer)
                    description = _with_epochs(description, epochs)
                    write_json(folder / 'study.json', description)
                    trials = _change_epochs(trials, epochs)
                observer.on_start(trials)
                results = _lead(sweep, trials, references, folder, observer, timed)
                results['verdicts'] = [chosen] * bool(chosen) + results['verdicts']
                write_json(folder / 'statistics.json', results)
                return results
        # Where it has helped, the process that led may be gone meanwhile.
        helped = _change_epochs(trials, epochs)
        if not help_train(helped, folder, _with_epochs(description, epochs), observer):
            return None


def _lead(
    sweep: Sweep,
    trials: list[PreparedTrial],
    references: Mapping[str, str],
    folder: pathlib.Path,
    observer: StudyObserver,
    timed: bool,
) -> dict:
    """Runs the study in a locked folder; returns its statistics."""
    if sweep.kind == 'resolution':
        rows = list(resolution_rows(trials, sweep.image_sizes, observer))
        write_json_lines(folder / 'resolution.jsonl', rows)
        return resolution_statistics(trials, rows, references)
    valid, summaries, seconds = [trial for trial in trials if not trial.invalid], {}, {}
    if exists(folder / TIMES):
        seconds = _read_times(folder / TIMES)
    for trial in valid:  # an earlier trial of this name may have been timed
        if not (sweep.train_seconds or is_finished(folder, trial)) and seconds.pop(trial.name, 0):
            write_json(folder / TIMES, seconds)
    for trial, summary, finished in train_all(valid, folder, observer):
        summaries[trial.name] = summary
        observer.on_trial_end(trial, summary, finished)
        write_table(folder, trials, summaries, seconds)
    if timed:
        seconds = _time(valid, references, folder, observer)
    rows = write_table(folder, trials, summaries, seconds)
    results = analyze(sweep.kind, trials, rows, references, seconds)
    if sweep.kind == 'robustness':
        robustness = list(robustness_rows(valid, folder, observer))
        write_json_lines(folder / 'robustness.jsonl', robustness)
        results['verdicts'] += robustness_sentences(valid, robustness, references)
    return results


def _recorded_epochs(folder: pathlib.Path, description: Mapping) -> dict[str, int]:
    """{trial: the epochs that fit}, of the trials whose changes `study.json` has as here."""
    path = folder / 'study.json'
    if not exists(path):
        return {}
    content = read_object(path, {'cells': [{'name': str, 'epochs?': int}]}, REMOVE_HINT)
    recorded = {cell['name']: cell for cell in content['cells']}
    epochs = {}
    for cell in json.loads(json.dumps(description['cells'])):
        there = recorded.get(cell['name'], {})
        if 'epochs' in there and there.get('changes') == cell['changes']:
            epochs[cell['name']] = there['epochs']
    return epochs


def _with_epochs(description: Mapping, epochs: Mapping[str, int]) -> dict:
    """The content of `study.json` with the epochs that fit."""
    cells = [
        {**cell, **({'epochs': epochs[cell['name']]} if cell['name'] in epochs else {})}
        for cell in description['cells']
    ]
    return {**description, 'cells': cells}


def _fit_epochs(
    sweep: Sweep,
    trials: Sequence[PreparedTrial],
    recorded: Mapping[str, int],
    references: Mapping[str, str],
    folder: pathlib.Path,
    observer: StudyObserver,
) -> dict[str, int]:
    """{trial: as many epochs as `sweep.train_seconds` allow}, one at least.

    Those that are recorded stay, so that a study that is resumed has the same bits; other trials
    are timed, in turns.
    """
    valid, epochs = [trial for trial in trials if not trial.invalid], dict(recorded)
    if recorded and exists(folder / TIMES):  # trials of these names may have had other changes
        times = _read_times(folder / TIMES)
        write_json(folder / TIMES, {name: times[name] for name in times if name in recorded})
    if not epochs.keys() >= {trial.name for trial in valid}:
        for name, seconds in _time(valid, references, folder, observer).items():
            fit = int(sweep.train_seconds / statistics.median(seconds))
            epochs.setdefault(name, max(1, fit))
    return {trial.name: epochs[trial.name] for trial in valid}


def _change_epochs(
    trials: Sequence[PreparedTrial], epochs: Mapping[str, int]
) -> list[PreparedTrial]:
    """Trials with these epochs; raises UserError if they do not suffice for a trial's warm-up."""
    changed_trials = []
    for trial in trials:
        if trial.name in epochs:
            config = changed(trial.setup.config, {'num_epochs': epochs[trial.name]})
            try:
                setup = create_setup(config, trial.setup.dataset)
            except UserError as error:
                fit = count_text(epochs[trial.name], 'epoch')
                raise UserError(f'{trial.label}: train_seconds gives it {fit}: {error}') from None
            trial = dataclasses.replace(trial, setup=setup)
        changed_trials.append(trial)
    return changed_trials


def _time(
    trials: Sequence[PreparedTrial],
    references: Mapping[str, str],
    folder: pathlib.Path,
    observer: StudyObserver,
) -> dict[str, list[float]]:
    """Seconds of an epoch of each trial in each round; those that `timing.json` lacks are timed."""
    path = folder / TIMES
    seconds = _read_times(path) if exists(path) else {}
    rounds = TIMED_ROUNDS if len(trials) <= FEW_TRIALS else TIMED_ROUNDS_OF_MANY
    for group in group_for_timing(trials, references):
        if not seconds.keys() >= {trial.name for trial in group}:
            seconds |= epoch_seconds({trial.name: trial.setup for trial in group}, rounds, observer)
            write_json(path, seconds)
    return seconds


def _read_times(path: pathlib.Path) -> dict[str, list[float]]:
    """Seconds of an epoch of each trial in each round. Raises UserError if they cannot be."""
    times = read_object(path, {str: [NUMBER]}, REMOVE_HINT)
    for name, seconds in times.items():
        if not seconds or min(seconds) <= 0:
            raise UserError(
                f'{path}: {name} = {reprlib.repr(seconds)}: allowed are seconds above 0, of each '
                f'round; {REMOVE_HINT}'
            )
    return times


def group_for_timing(
    trials: Sequence[PreparedTrial], references: Mapping[str, str], max_group: int = MAX_TIMED
) -> list[list[PreparedTrial]]:
    """Groups of at most `max_group` trials whose epochs are timed in turns.

    What is compared is in one group, but for some of those that are too many for one.
    """
    families = collections.defaultdict(list)
    for trial in trials:
        families[references.get(trial.name, trial.name)].append(trial)
    groups = [[]]
    for family in families.values():
        for start in range(0, len(family), max_group):
            part = family[start : start + max_group]
            if len(groups[-1]) + len(part) > max_group:
                groups.append([])
            groups[-1] += part
    return groups


def _description(sweep: Sweep, trials: list[PreparedTrial], command: str) -> dict:
    """The content of `study.json`."""
    cells = [
        {
            'name': trial.name,
            'label': trial.label,
            'settings': dict(trial.settings),
            'changes': dict(trial.changes),
            'impossible': trial.invalid,
        }
        for trial in trials
    ]
    return {
        **{key: getattr(sweep, key) for key in ('kind', 'title', 'question', 'train_seconds')},
        'command': command,
        'config': sweep.base.to_dict(),
        **environment(),
        'axes': [*trials[0].settings],
        'reference': dict(sweep.reference) if sweep.reference else None,
        'cells': cells,
    }


def _write_description(folder: pathlib.Path, description: Mapping) -> None:
    """Writes `study.json`; raises UserError if the folder holds another study."""
    path = folder / 'study.json'
    there = read_object(path, {'config?': dict}, REMOVE_HINT) if exists(path) else description
    for key in ('kind', 'axes', 'train_seconds'):
        if there.get(key) != description[key]:
            raise UserError(
                f'--workdir={folder}: holds another study ({key} {there.get(key)!r}, here '
                f'{description[key]!r}); name another folder'
            )
    if differing := differences(recorded_config(path, there), description['config']):
        raise UserError(
            f'--workdir={folder}: holds this study with other settings (key: there, '
            f'here): {"; ".join(differing)}. Name another folder, or give those settings'
        )
    if json.dumps(there.get('cells')) != json.dumps(description['cells']):
        for name in OF_ALL_TRIALS:  # of all trials, which have changed
            (folder / name).unlink(missing_ok=True)
    write_json(path, description)
