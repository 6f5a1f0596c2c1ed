"""Studies over data sets, on shared axes, and trials chosen by their validation accuracy."""

import dataclasses

import pytest

from mixer_dilated.reports.formatting import NOTHING, p_text
from mixer_dilated.reports.page.result_tables import (
    TOLERANCE,
    datasets_table,
    equal_cost_table,
    trials_table,
)
from mixer_dilated.reports.plots import study_plots
from mixer_dilated.reports.plots.curves import training_curves
from mixer_dilated.reports.plots.run_plots import split_text
from mixer_dilated.reports.result_files import read_run, read_study
from mixer_dilated.reports.tables import run_tables
from mixer_dilated.studies.stats import compare
from mixer_dilated.training.run_folder import write_summary
from tests.conftest import small_config
from tests.report_folders import digits_images, make_kind, make_study, patches

DATASETS = {'MNIST': 0.9, 'a / b': 0.55}
GAINS = {1: 0.02, 2: 0.06, 3: -0.2}  # of each size; one is far below the reference


def accuracies_of(trial):
    return [result['test_accuracy'] for result in trial.run.summary['results']]


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp('reports') / 'study'
    trials = {
        f'size {size}, {dataset}': (
            {'size': size, 'dataset': dataset},
            small_config(num_seeds=3, **patches(size=size)),
            accuracy + gain,
        )
        for dataset, accuracy in DATASETS.items()
        for size, gain in GAINS.items()
    }
    return read_study(make_study(folder, 'sweep', trials, *digits_images(), reference={'size': 1}))


def test_a_table_has_every_method_on_every_data_set(study):
    table = datasets_table(study)
    assert [*table['mean rank'].astype(float)] == sorted(table['mean rank'].astype(float))
    against = dict(zip(table.method, table.against, strict=True))
    assert against == {'size 1': '–', 'size 2': 'size 1', 'size 3': 'size 1'}
    (text,) = table['test accuracy, MNIST'][table.method == 'size 1']
    assert text.startswith(f'{study.mean_accuracy(study.trials[0]):.4f}')


def test_of_many_trials_the_most_accurate_on_each_data_set_are_printed(study, monkeypatch, capsys):
    monkeypatch.setattr(run_tables, 'MAX_ROWS', 3)
    run_tables.print_study(study.folder)
    printed = capsys.readouterr().out
    for part in study.datasets.values():
        best = max(part.finished, key=study.mean_accuracy)
        shown = [trial for trial in part.trials if study.labels[trial.name] + '  ' in printed]
        assert shown == [best]
    assert 'the 2 most accurate trials; 4 more in results.csv' in printed


def test_plots_are_of_one_data_set_each_and_costs_share_their_axes(study, monkeypatch):
    for of_runs in ('overview_plots', 'detail_plots'):
        monkeypatch.setattr(study_plots, of_runs, lambda runs: ())
    plots = {plot.name: plot for plot in study_plots.study_plots(study)}
    for cost in ('time', 'flops'):
        first, second = plots[f'pareto_{cost}_MNIST'], plots[f'pareto_{cost}_a=-=b']
        axes = [plot.figure.axes[0] for plot in (first, second)]
        assert axes[0].get_xlim() == axes[1].get_xlim()
        assert axes[0].get_ylim() == axes[1].get_ylim()
        (low, _), (below, above) = axes[0].get_xlim(), axes[0].get_ylim()
        assert not any('not drawn' in text.get_text() for text in axes[0].texts + axes[1].texts)
        assert low < 1 and below < 0 < above and 'relative to size 1, and' in first.caption
    lines = plots['accuracy_by_seconds_MNIST'].figure.axes[0].lines
    # Size 3 is neither on the front nor the reference, and not among these lines.
    drawn = [trial for trial in study.trials if trial.settings['size'] != 3]
    longest = max(3 * study.epoch_seconds[trial.name] for trial in drawn)
    ends = [line.get_xdata().max() for line in lines if len(line.get_xdata())]
    assert max(ends) == pytest.approx(longest)


def test_a_data_set_on_which_nothing_is_trained_yet_is_left_out(study):
    trials = [t if t.settings['dataset'] == 'MNIST' else t._replace(run=None) for t in study.trials]
    plots = study_plots.study_plots(dataclasses.replace(study, trials=trials))
    drawn = {plot.name for plot in plots if plot.figure}
    assert 'pareto_time_MNIST' in drawn and not [name for name in drawn if 'MNIST' not in name]


def test_equal_costs_are_equal_to_5_percent_and_the_most_accurate_comes_first(study):
    runs = {trial.label: trial for trial in study.datasets['MNIST'].trials}
    assert [*runs] == [f'size {size}' for size in GAINS]
    table = equal_cost_table(study)
    rows = table[table['equal in'] == 'FLOPs, MNIST']
    assert len(rows) and (table.trials > 1).all()
    for row in rows.itertuples(index=False):
        best, second = runs[row[3]], runs[row[5]]
        assert study.mean_accuracy(best) >= study.mean_accuracy(second)
        costs = sorted(trial.run.evaluation_mflops for trial in (best, second))
        assert costs[1] <= (1 + TOLERANCE) * costs[0]
        expected = compare(accuracies_of(best), accuracies_of(second), reference='')
        assert row[7] == f'{100 * expected["difference"]:+.2f}'
        assert row[9] == ('–' if expected['p'] is None else p_text(expected['p']))


@pytest.fixture
def table1(tmp_path):
    return read_study(make_kind('table1', tmp_path / 'study'))


def validate(run, accuracy):
    """Turns a folder of a run into that of one with a validation split."""
    summary = {**run.summary, 'val_split': 'train[300:]', 'val_examples': 100}
    for result in [summary, *summary['results']]:
        result |= {'val_accuracy': accuracy, 'val_correct': round(100 * accuracy), 'val_loss': 0.5}
    write_summary(run.folder, summary)
    path = run.folder / 'metrics.jsonl'
    path.write_text(path.read_text().replace('"test_', '"val_'))


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


def test_trials_are_chosen_by_validation_accuracy(table1, capsys):
    by_test = max(table1.finished, key=table1.mean_accuracy)
    for trial in table1.finished:
        validate(trial.run, 0.1 if trial is by_test else 0.9)
    study = read_study(table1.folder)
    best = max(study.finished, key=study.mean_accuracy)
    assert best.name != by_test.name and study.mean_accuracy(best) == pytest.approx(0.9)
    run_tables.print_study(table1.folder)
    assert ' val ' in capsys.readouterr().out


def test_a_trial_without_a_validation_split_leaves_its_place_empty(table1, capsys):
    validate(table1.finished[0].run, 0.75)
    run_tables.print_study(table1.folder)
    printed, study = capsys.readouterr().out, read_study(table1.folder)
    # A validation accuracy is not ranked beside a test accuracy.
    assert '0.7500' in printed and 'ranked by test accuracy' in printed
    for trial in study.finished:
        assert study.mean_accuracy(trial) == trial.run.summary['test_accuracy']
    column = [*trials_table(study)['validation accuracy']]
    assert column[0].startswith('0.7500') and {*column[1:]} == {NOTHING}
