"""One result over several data sets, against its formulas written out in NumPy."""

import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from mixer_dilated.studies.meta_analysis import combine, over_datasets
from mixer_dilated.studies.verdicts import datasets_sentence

DIFFERENCES = st.floats(-0.05, 0.05)
DEVIATIONS = st.floats(0.001, 0.02)


@given(
    rows=st.lists(st.tuples(DIFFERENCES, DEVIATIONS, st.integers(2, 20)), min_size=2, max_size=6)
)
def test_differences_are_combined_as_paule_and_mandel_do(rows):
    mean, std, count = np.array(rows).T
    combined = combine([{'difference': m, 'std': s, 'count': n} for m, s, n in rows])

    def weigh(between):
        weights = 1 / (std**2 / count + between)
        return weights, (weights * mean).sum() / weights.sum()

    def excess(between):
        weights, centre = weigh(between)
        return (weights * (mean - centre) ** 2).sum() - (len(rows) - 1)

    between = optimize.brentq(excess, 0, 1) if excess(0) > 0 else 0
    weights, difference = weigh(between)
    shares = weights / weights.sum()
    hartung_knapp = (shares * (mean - difference) ** 2).sum() / (len(rows) - 1)
    error = max(weights.sum() ** -1, hartung_knapp) ** 0.5
    assert combined['tau'] == pytest.approx(between**0.5, abs=1e-5)
    assert combined['difference'] == pytest.approx(difference, abs=1e-6)
    student = stats.t(len(rows) - 1)
    ends = np.array(student.interval(0.95)) * error + difference
    assert (combined['low'], combined['high']) == pytest.approx(ends, rel=1e-3, abs=1e-5)
    assert combined['p'] == pytest.approx(2 * student.sf(abs(difference) / error), abs=1e-3)


def test_data_sets_that_do_not_differ_are_seldom_significant():
    draw, wrong = np.random.default_rng(0), 0
    for _ in range(300):
        rows = draw.normal(0, 0.01, (3, 3)) + draw.normal(0, 0.01, (3, 1))
        described = [{'difference': r.mean(), 'std': r.std(ddof=1), 'count': 3} for r in rows]
        wrong += combine(described)['p'] < 0.05
    assert wrong <= 0.08 * 300


def trials_of(methods, datasets):
    return [
        types.SimpleNamespace(name=f'{m}_{d}', settings={'method': m, 'dataset': d})
        for m in methods
        for d in datasets
    ]


def test_methods_of_all_data_sets_are_ranked_and_compared():
    trials = trials_of('abc', 'xyz')
    accuracies = dict(zip([t.name for t in trials], [9, 5, 6, 8, 6, 6, 7, 7, 5], strict=True))
    del accuracies['c_z']
    row = {'difference': -0.02, 'std': 0.01, 'count': 5}
    comparisons = {f'b_{d}': {**row, 'reference': f'a_{d}'} for d in 'xyz'}
    comparisons['b_y']['difference'] = -0.021
    results = over_datasets(trials, accuracies, comparisons)
    assert [*results] == ['a', 'b']  # c was not trained on z
    # x: a, b; y: b, a; z: both share the ranks 1 and 2
    assert [result['mean_rank'] for result in results.values()] == [1.5, 1.5]
    assert results['b']['trials'] == {'x': 'b_x', 'y': 'b_y', 'z': 'b_z'}
    comparison = results['b']['comparison']
    assert comparison['reference'] == 'a' and 'comparison' not in results['a']
    text = datasets_sentence('b', comparison, 3)
    assert 'Over 3 data sets b is 2.03 percentage points lower in test accuracy than a' in text
    assert datasets_sentence('b', dict.fromkeys(comparison), 3) == ''


def test_p_values_of_several_methods_are_corrected_together():
    trials = trials_of('abc', 'xyz')
    row, accuracies = {'std': 0.01, 'count': 5}, {trial.name: 0.9 for trial in trials}
    comparisons = {
        f'{m}_{d}': {**row, 'difference': size + k / 1000, 'reference': f'a_{d}'}
        for m, size in (('b', 0.05), ('c', 0.03))
        for k, d in enumerate('xyz')
    }
    results = over_datasets(trials, accuracies, comparisons)
    b, c = (results[method]['comparison'] for method in 'bc')
    assert b['p_holm'] == pytest.approx(2 * b['p']) and c['p_holm'] == pytest.approx(c['p'])


def test_one_seed_gives_no_interval_one_data_set_no_ranks_and_the_order_of_trials_no_other():
    one_seed = {'difference': 0.01, 'std': None, 'count': 1}
    several = {'difference': 0.01, 'std': 0.01, 'count': 5}
    assert set(combine([several, one_seed]).values()) == {None}
    assert over_datasets(trials_of('ab', 'x'), {'a_x': 0.9, 'b_x': 0.8}, {}) == {}
    trials = trials_of('ab', 'xy')
    accuracies = dict(zip([trial.name for trial in trials], (0.9, 0.2, 0.8, 0.1), strict=True))
    for order in (trials, [*trials[:2], *trials[:1:-1]]):  # a: x, y; b: x, y or y, x
        results = over_datasets(order, accuracies, {})
        assert [(m, result['mean_rank']) for m, result in results.items()] == [('a', 1), ('b', 2)]
