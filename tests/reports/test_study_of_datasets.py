"""A study over data sets: its tables, and plots of each data set on shared axes."""

import json
import types

import pytest

from mixer_dilated.reports.formatting import p_text
from mixer_dilated.reports.page.result_tables import TOLERANCE, datasets_table, equal_cost_table
from mixer_dilated.reports.plots import study_plots
from mixer_dilated.reports.result_files import read_study
from mixer_dilated.studies.meta_analysis import over_datasets
from mixer_dilated.studies.stats import compare
from tests.conftest import small_config
from tests.report_folders import digits_images, make_study, patches

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
    make_study(folder, 'sweep', trials, *digits_images())
    study = read_study(folder)
    comparisons = {
        trial.name: compare(accuracies_of(trial), accuracies_of(other), reference=other.name)
        for trial in study.trials
        for other in study.trials
        if other is not trial and other.settings == {**trial.settings, 'size': 1}
    }
    means = {trial.name: study.mean_accuracy(trial) for trial in study.trials}
    cells = [types.SimpleNamespace(**cell) for cell in study.content['cells']]
    datasets = over_datasets(cells, means, comparisons)
    statistics = {**study.statistics, 'comparisons': comparisons, 'datasets': datasets}
    (folder / 'statistics.json').write_text(json.dumps(statistics))
    return read_study(folder)


def test_a_table_has_every_method_on_every_data_set(study):
    table = datasets_table(study)
    assert [*table['mean rank'].astype(float)] == sorted(table['mean rank'].astype(float))
    against = dict(zip(table.method, table.against, strict=True))
    assert against == {'size 1': '–', 'size 2': 'size 1', 'size 3': 'size 1'}
    (text,) = table['test accuracy, MNIST'][table.method == 'size 1']
    assert text.startswith(f'{study.mean_accuracy(study.trials[0]):.4f}')


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
