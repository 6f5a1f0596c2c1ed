"""Runs with a validation split: their epochs are of it, and trials are chosen by it."""

import json

import pytest

from mixer_dilated.reports.formatting import NOTHING
from mixer_dilated.reports.page.result_tables import trials_tables
from mixer_dilated.reports.plots.curves import training_curves
from mixer_dilated.reports.plots.run_plots import split_text
from mixer_dilated.reports.result_files import read_run, read_study
from mixer_dilated.reports.tables.run_tables import print_study
from mixer_dilated.training.run_folder import write_summary
from tests.report_folders import make_kind


def validate(folder, accuracy):
    """Turns a folder of a run into that of one with a validation split, also for its study."""
    summary = json.loads((folder / 'summary.json').read_text())
    summary |= {'val_split': 'train[300:]', 'val_examples': 100, 'val_accuracy': accuracy}
    for result in summary['results']:
        result |= {'val_accuracy': accuracy, 'val_correct': round(100 * accuracy), 'val_loss': 0.5}
    write_summary(folder, summary)
    path = folder / 'metrics.jsonl'
    path.write_text(path.read_text().replace('"test_', '"val_'))
    path = folder.parents[1] / 'statistics.json'
    if path.exists():
        statistics = json.loads(path.read_text())
        spread = {'count': 3, 'mean': accuracy, 'std': 0.0, 'low': accuracy, 'high': accuracy}
        statistics['cells'][folder.name]['val_accuracy'] = spread
        path.write_text(json.dumps(statistics))


def test_the_curves_of_a_run_are_of_its_validation_split(tmp_path):
    folder = make_kind('run', tmp_path / 'run')
    tested = read_run(folder)
    curves = tested.curves
    validate(folder, 0.5)
    validated = read_run(folder)
    assert (tested.epoch_split, validated.epoch_split) == ('test', 'val')
    assert (split_text([tested]), split_text([tested, validated])) == ('test', 'validation')
    assert validated.curves.equals(curves)  # by the names that both have
    figure = training_curves({'a run': validated.curves}, split_text([validated]))
    titles = {axes.get_title() for axes in figure.axes}
    assert {'validation accuracy', 'validation loss'} <= titles
    assert validated.accuracy('val')['mean'] == 0.5


def test_trials_are_chosen_by_validation_accuracy(tmp_path, capsys):
    folder = make_kind('table1', tmp_path / 'study')
    study = read_study(folder)
    by_test = max(study.finished, key=study.mean_accuracy)
    for trial in study.finished:
        validate(trial.run.folder, 0.1 if trial.name == by_test.name else 0.9)
    study = read_study(folder)
    best = max(study.finished, key=study.mean_accuracy)
    assert best.name != by_test.name and study.mean_accuracy(best) == pytest.approx(0.9)
    print_study(folder)
    assert ' val ' in capsys.readouterr().out


def test_a_trial_without_a_validation_split_leaves_its_place_empty(tmp_path, capsys):
    folder = make_kind('table1', tmp_path / 'study')
    validate(read_study(folder).finished[0].run.folder, 0.75)
    print_study(folder)
    printed = capsys.readouterr().out
    study = read_study(folder)
    # A validation accuracy is not ranked beside a test accuracy.
    assert '0.7500' in printed and 'ranked by test accuracy' in printed
    accuracies = [trial.run.summary['test_accuracy'] for trial in study.finished]
    assert [*map(study.mean_accuracy, study.finished)] == accuracies
    table, *_ = trials_tables(study)
    column = [*table.texts['validation accuracy']]
    assert column[0].startswith('0.7500') and {*column[1:]} == {NOTHING}
