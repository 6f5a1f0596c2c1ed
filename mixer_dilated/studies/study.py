"""A study from a sweep to its folder: trains what is not trained yet, times, compares, writes."""

import collections
import contextlib
import json
import pathlib
import reprlib
from collections.abc import Mapping, Sequence

from mixer_dilated.config import resolve
from mixer_dilated.config_differences import differences
from mixer_dilated.errors import BusyError, UserError
from mixer_dilated.files import REMOVE_HINT, write_json, write_json_lines
from mixer_dilated.paths import PathLike, as_path, exists
from mixer_dilated.reports.schema import NUMBER, read_object
from mixer_dilated.studies.analysis import analyze, write_table
from mixer_dilated.studies.epoch_times import epoch_seconds
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.resolution import resolution_rows, resolution_statistics
from mixer_dilated.studies.robustness import robustness_rows, robustness_sentences
from mixer_dilated.studies.sweep import PreparedTrial, Sweep, pair_with_reference, prepare
from mixer_dilated.studies.trials import help_train, is_finished, train_all
from mixer_dilated.training.run_folder import check_workdir, environment, lock_folder

# Epochs of each trial that are timed: of a few trials more than of many.
TIMED_ROUNDS, FEW_TRIALS, TIMED_ROUNDS_OF_MANY = 9, 20, 3
# Programs that are held at once for timing; each takes some 450 of the 65 530 memory mappings that
# Linux gives a process.
MAX_TIMED = 40
OF_ALL_TRIALS = ('statistics.json', 'robustness.jsonl', 'resolution.jsonl')


def run_study(
    sweep: Sweep,
    folder: PathLike,
    *,
    command: str,
    observer: StudyObserver | None = None,
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

    Returns:
      The content of `statistics.json`; None if another process leads, which writes it.

    Raises:
      UserError: the sweep is invalid, the folder holds another study, or another process works
        in it at another one, or at one of kind 'resolution', which is not shared.
      NonFiniteError: the loss of some trials did not stay finite; all others are trained.
    """
    observer, folder = observer or StudyObserver(), as_path(folder)
    trials = prepare(sweep)
    check_workdir(folder, 'study', 'study.json')
    description = _description(sweep, trials, command)
    while True:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock_folder(folder))
            except BusyError:
                if sweep.kind == 'resolution':
                    raise
            else:
                _write_description(folder, description)
                observer.on_start(trials)
                return _lead(sweep, trials, folder, observer)
        # Where it has helped, the process that led may be gone meanwhile.
        if not help_train(trials, folder, description, observer):
            return None


def _lead(
    sweep: Sweep, trials: list[PreparedTrial], folder: pathlib.Path, observer: StudyObserver
) -> dict:
    """Runs the study in a locked folder; writes and returns its statistics."""
    references = pair_with_reference(trials, sweep.reference)
    if sweep.kind == 'resolution':
        rows = list(resolution_rows(trials, sweep.image_sizes, observer))
        write_json_lines(folder / 'resolution.jsonl', rows)
        statistics = resolution_statistics(trials, rows, references)
    else:
        statistics = _train_and_compare(sweep.kind, trials, references, folder, observer)
    write_json(folder / 'statistics.json', statistics)
    return statistics


def _train_and_compare(
    kind: str,
    trials: list[PreparedTrial],
    references: Mapping[str, str],
    folder: pathlib.Path,
    observer: StudyObserver,
) -> dict:
    """Trains and times the trials, writes the tables and returns the statistics."""
    valid = [trial for trial in trials if not trial.invalid]
    summaries, timing = {}, folder / 'timing.json'
    seconds = _read_times(timing) if exists(timing) else {}
    for trial in valid:  # an earlier trial of this name may have been timed
        if not is_finished(folder, trial) and seconds.pop(trial.name, None):
            write_json(timing, seconds)
    for trial, summary, finished in train_all(valid, folder, observer):
        summaries[trial.name] = summary
        observer.on_trial_end(trial, summary, finished)
        write_table(folder, trials, summaries, seconds)
    rounds = TIMED_ROUNDS if len(valid) <= FEW_TRIALS else TIMED_ROUNDS_OF_MANY
    for group in group_for_timing(valid, references):
        if not seconds.keys() >= {trial.name for trial in group}:
            seconds |= epoch_seconds({trial.name: trial.setup for trial in group}, rounds, observer)
            write_json(timing, seconds)
    rows = write_table(folder, trials, summaries, seconds)
    statistics = analyze(kind, trials, rows, references, seconds)
    if kind == 'robustness':
        robustness = list(robustness_rows(valid, folder, observer))
        write_json_lines(folder / 'robustness.jsonl', robustness)
        statistics['verdicts'] += robustness_sentences(valid, robustness, references)
    return statistics


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
        **{key: getattr(sweep, key) for key in ('kind', 'title', 'question')},
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
    for key in ('kind', 'axes'):
        if there.get(key) != description[key]:
            raise UserError(
                f'--workdir={folder}: holds another study ({key} {there.get(key)!r}, here '
                f'{description[key]!r}); name another folder'
            )
    recorded = resolve(there.get('config', {}), warn=False)  # of a version with fewer keys
    if differing := differences(recorded, description['config']):
        raise UserError(
            f'--workdir={folder}: holds this study with other settings (key: there, '
            f'here): {"; ".join(differing)}. Name another folder, or give those settings'
        )
    if json.dumps(there.get('cells')) != json.dumps(description['cells']):
        for name in OF_ALL_TRIALS:  # of all trials, which have changed
            (folder / name).unlink(missing_ok=True)
    write_json(path, description)
