"""A study from a sweep to its folder: trains what is not trained yet, times, compares, writes."""

import contextlib
import dataclasses
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from mixer_dilated.config import changed
from mixer_dilated.config_differences import differences
from mixer_dilated.errors import BusyError, UserError
from mixer_dilated.files import REMOVE_HINT, write_json, write_json_lines
from mixer_dilated.paths import PathLike, as_path, exists
from mixer_dilated.reports.formatting import count_text
from mixer_dilated.reports.schema import read_object
from mixer_dilated.studies.analysis import analyze, write_table
from mixer_dilated.studies.epoch_times import TIMES, read_times, time_trials
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.resolution import resolution_rows, resolution_statistics
from mixer_dilated.studies.robustness import robustness_rows, robustness_sentences
from mixer_dilated.studies.sweep import PreparedTrial, Sweep, prepare
from mixer_dilated.studies.trials import help_train, is_finished, recorded_config, train_all
from mixer_dilated.training.run_folder import check_workdir, environment, lock_folder
from mixer_dilated.training.setup import create_setup


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
    trials, epochs = prepare(sweep), {}
    check_workdir(folder, 'study', 'study.json')
    while True:
        if sweep.train_seconds:
            epochs = _recorded_epochs(folder, trials)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock_folder(folder))
            except BusyError:
                unknown = {trial.name for trial in trials if not trial.invalid} - epochs.keys()
                if sweep.kind == 'resolution' or (sweep.train_seconds and unknown):
                    raise
            else:
                _write_description(folder, _describe(sweep, trials, command, epochs))
                if sweep.train_seconds:
                    epochs = _fit_epochs(sweep.train_seconds, trials, epochs, folder, observer)
                    write_json(folder / 'study.json', _describe(sweep, trials, command, epochs))
                    trials = _change_epochs(trials, epochs)
                observer.on_start(trials)
                results = _lead(sweep, trials, folder, observer, timed)
                results['verdicts'] = [chosen] * bool(chosen) + results['verdicts']
                write_json(folder / 'statistics.json', results)
                return results
        # Where it has helped, the process that led may be gone meanwhile.
        description = _describe(sweep, trials, command, epochs)
        if not help_train(_change_epochs(trials, epochs), folder, description, observer):
            return None


def _lead(
    sweep: Sweep,
    trials: list[PreparedTrial],
    folder: pathlib.Path,
    observer: StudyObserver,
    timed: bool,
) -> dict:
    """Runs the study in a locked folder; returns its statistics."""
    if sweep.kind == 'resolution':
        rows = list(resolution_rows(trials, sweep.image_sizes, observer))
        write_json_lines(folder / 'resolution.jsonl', rows)
        return resolution_statistics(trials, rows)
    valid, summaries = [trial for trial in trials if not trial.invalid], {}
    seconds = read_times(folder)
    for trial in valid:  # an earlier trial of this name may have been timed
        if not (sweep.train_seconds or is_finished(folder, trial)) and seconds.pop(trial.name, 0):
            write_json(folder / TIMES, seconds)
    for name, summary in train_all(valid, folder, observer):
        summaries[name] = summary
        write_table(folder, trials, summaries, seconds)
    if timed:
        seconds = time_trials(valid, folder, observer)
    rows = write_table(folder, trials, summaries, seconds)
    results = analyze(sweep.kind, trials, rows, seconds)
    if sweep.kind == 'robustness':
        robustness = list(robustness_rows(valid, folder, observer))
        write_json_lines(folder / 'robustness.jsonl', robustness)
        results['verdicts'] += robustness_sentences(valid, robustness)
    return results


def _recorded_epochs(folder: pathlib.Path, trials: Sequence[PreparedTrial]) -> dict[str, int]:
    """{trial: the epochs that fit}, of the trials whose changes `study.json` has as here."""
    path = folder / 'study.json'
    if not exists(path):
        return {}
    content = read_object(path, {'cells': [{'name': str, 'epochs?': int}]}, REMOVE_HINT)
    changes = json.loads(json.dumps({trial.name: dict(trial.changes) for trial in trials}))
    return {
        cell['name']: cell['epochs']
        for cell in content['cells']
        if 'epochs' in cell and cell.get('changes') == changes.get(cell['name'], ())
    }


def _fit_epochs(
    train_seconds: float,
    trials: Sequence[PreparedTrial],
    recorded: Mapping[str, int],
    folder: pathlib.Path,
    observer: StudyObserver,
) -> dict[str, int]:
    """{trial: as many epochs as `train_seconds` allow}, one at least.

    Those that are recorded stay, so that a study that is resumed has the same bits; other trials
    are timed, in turns.
    """
    valid, seconds = [trial for trial in trials if not trial.invalid], {}
    if recorded and (times := read_times(folder)):  # of trials that had other changes, maybe
        write_json(folder / TIMES, {name: times[name] for name in times if name in recorded})
    if not recorded.keys() >= {trial.name for trial in valid}:
        seconds = time_trials(valid, folder, observer)
    fit = {name: max(1, int(train_seconds / statistics.median(s))) for name, s in seconds.items()}
    return {trial.name: (fit | recorded)[trial.name] for trial in valid}


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


def _describe(
    sweep: Sweep, trials: list[PreparedTrial], command: str, epochs: Mapping[str, int]
) -> dict:
    """The content of `study.json`, with the epochs that fit."""
    cells = [
        {
            'name': trial.name,
            'label': trial.label,
            'settings': dict(trial.settings),
            'changes': dict(trial.changes),
            'impossible': trial.invalid,
            **({'epochs': epochs[trial.name]} if trial.name in epochs else {}),
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
        # Of all trials, which have changed.
        for name in ('statistics.json', 'robustness.jsonl', 'resolution.jsonl'):
            (folder / name).unlink(missing_ok=True)
    write_json(path, description)
