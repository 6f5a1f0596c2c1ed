"""Runs with a validation split: their epochs are of it, and trials are chosen by it."""

import json

import pytest

from mixer_dilated.reports.formatting import NOTHING
from mixer_dilated.reports.page.result_tables import trials_table
from mixer_dilated.reports.plots.curves import training_curves
from mixer_dilated.reports.plots.run_plots import split_text
from mixer_dilated.reports.result_files import read_run, read_study
from mixer_dilated.reports.tables.run_tables import print_study
from mixer_dilated.training.run_folder import write_summary
from tests.report_folders import make_kind


@pytest.fixture
def study(tmp_path):
    return read_study(make_kind('table1', tmp_path / 'study'))


def validate(run, accuracy):
    """Turns a folder of a run into that of one with a validation split, also for its study."""
    summary = {**run.summary, 'val_split': 'train[300:]', 'val_examples': 100}
    for result in [summary, *summary['results']]:
        result |= {'val_accuracy': accuracy, 'val_correct': round(100 * accuracy), 'val_loss': 0.5}
    write_summary(run.folder, summary)
    path = run.folder / 'metrics.jsonl'
    path.write_text(path.read_text().replace('"test_', '"val_'))
    path = run.folder.parents[1] / 'statistics.json'
    if path.exists():
        statistics = json.loads(path.read_text())
        spread = {'count': 3, 'mean': accuracy, 'std': 0.0, 'low': accuracy, 'high': accuracy}
        statistics['cells'][run.folder.name]['val_accuracy'] = spread
        path.write_text(json.dumps(statistics))


def test_the_curves_of_a_run_are_of_its_validation_split(tmp_path):
    tested = read_run(make_kind('run', tmp_path / 'run'))
    curves = tested.curves
    validate(tested, 0.5)
    validated = read_run(tested.folder)
    assert (tested.epoch_split, validated.epoch_split) == ('test', 'val')
    assert (split_text([tested]), split_text([tested, validated])) == ('test', 'validation')
    assert validated.curves.equals(curves)  # by the names that both have
    figure = training_curves({'a run': validated.curves}, split_text([validated]))
    titles = {axes.get_title() for axes in figure.axes}
    assert {'validation accuracy', 'validation loss'} <= titles
    assert validated.accuracy('val')['mean'] == 0.5


def test_trials_are_chosen_by_validation_accuracy(study, capsys):
    by_test = max(study.finished, key=study.mean_accuracy)
    for trial in study.finished:
        validate(trial.run, 0.1 if trial is by_test else 0.9)
    study = read_study(study.folder)
    best = max(study.finished, key=study.mean_accuracy)
    assert best.name != by_test.name and study.mean_accuracy(best) == pytest.approx(0.9)
    print_study(study.folder)
    assert ' val ' in capsys.readouterr().out


def test_a_trial_without_a_validation_split_leaves_its_place_empty(study, capsys):
    validate(study.finished[0].run, 0.75)
    print_study(study.folder)
    printed, study = capsys.readouterr().out, read_study(study.folder)
    # A validation accuracy is not ranked beside a test accuracy.
    assert '0.7500' in printed and 'ranked by test accuracy' in printed
    for trial in study.finished:
        assert study.mean_accuracy(trial) == trial.run.summary['test_accuracy']
    column = [*trials_table(study)['validation accuracy']]
    assert column[0].startswith('0.7500') and {*column[1:]} == {NOTHING}
