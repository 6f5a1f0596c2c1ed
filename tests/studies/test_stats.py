"""Statistics against their formulas, written out here in NumPy, and against SciPy's other ways."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixer_dilated.studies.stats import (
    compare,
    compare_times,
    compare_trials,
    correct_together,
    fit_exponent,
)
from tests.conftest import refuses

COUNTS = st.integers(0, 2500).map(lambda count: count / 2500)


def test_one_value_has_no_spread_and_differences_that_cancel_have_p_one():
    one_seed = compare([0.9], [0.8], reference='a')
    assert one_seed.pop('difference') == pytest.approx(0.1)
    values = {key: value for key, value in one_seed.items() if value is not None}
    assert values == {'reference': 'a', 'count': 1}
    cancelling = compare([0.1, 0.2, 0.4], [0.2, 0.2, 0.3], reference='a')
    assert cancelling['std'] > 0 and cancelling['difference'] == cancelling['t'] == 0
    assert cancelling['p'] == 1


@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=2, max_size=12))
def test_a_paired_comparison_is_a_t_test_of_the_differences(pairs):
    values, base = np.array(pairs).T
    comparison = compare(values, base, reference='base')
    json.dumps(comparison, allow_nan=False)
    differences, count = values - base, len(pairs)
    mean, std = differences.mean(), differences.std(ddof=1)
    np.testing.assert_allclose(comparison['difference'], mean, atol=1e-12)
    if np.ptp(differences) < 1e-9:
        assert comparison['std'] == 0
        assert comparison['p'] == (1 if abs(mean) < 1e-9 else None)
        return
    t, half = mean / (std / math.sqrt(count)), stats.t.ppf(0.975, count - 1) * std / count**0.5
    expected = [std, t, 2 * stats.t.sf(abs(t), count - 1), mean - half, mean + half, mean / std]
    keys = 'std', 't', 'p', 'low', 'high', 'effect_size'
    actual = [comparison[key] for key in keys]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-12)
    # The bootstrap draws from a fixed seed.
    resamples = np.random.default_rng(0).integers(0, count, (10_000, count))
    means = np.sort(differences)[resamples].mean(axis=1)
    ends = comparison['bootstrap_low'], comparison['bootstrap_high']
    np.testing.assert_allclose(ends, np.percentile(means, (2.5, 97.5)), rtol=1e-9, atol=1e-12)


def test_seeds_are_paired_by_number_and_times_by_their_ratio():
    table = pd.DataFrame(
        {'cell': trial, 'seed': seed, 'test_accuracy': accuracy}
        for trial, by_seed in (('a', {2: 0.9, 1: 0.8}), ('b', {1: 0.85, 2: 0.93}))
        for seed, accuracy in by_seed.items()
    )
    seconds = {'a': [4.0, 4.0], 'b': [1.0, 4.0]}
    comparison = compare_trials(table, 'b', 'a', seconds=seconds)
    np.testing.assert_allclose(comparison['difference'], 0.04)
    np.testing.assert_allclose(comparison['std'], np.std([0.05, 0.03], ddof=1))
    assert comparison['time_ratio'] == pytest.approx(0.5)  # of rounds, (0.25 · 1)^(1/2)
    for others in ({}, {'a': [1.0], 'b': [1.0, 2.0]}):
        assert compare_trials(table, 'b', 'a', seconds=others)['time_ratio'] is None
    with refuses('b', '[1]', '[1, 2]', error=ValueError):
        compare_trials(table[:3], 'b', 'a')
    with pytest.raises(ValueError):
        compare([1.0], [1.0, 2.0], reference='a')


def test_times_are_compared_by_the_geometric_mean_of_their_ratios():
    times = compare_times([2.0, 4.0, 3.0], [4.0, 4.0, 6.0])
    np.testing.assert_allclose(times['ratio'], (0.5 * 1 * 0.5) ** (1 / 3))
    test = stats.ttest_rel(np.log([2.0, 4.0, 3.0]), np.log([4.0, 4.0, 6.0]))
    np.testing.assert_allclose(times['p'], test.pvalue)
    assert times['low'] < times['ratio'] < times['high']
    with refuses('[2.0, 0.0]', error=ValueError):
        compare_times([2.0, 0.0], [1.0, 1.0])


def holm(p_values):
    """`correct_together` of some p values."""
    comparisons = [{'p': p, 'p_holm': None} for p in p_values]
    correct_together(comparisons)
    return [comparison['p_holm'] for comparison in comparisons]


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03, None]) == pytest.approx([0.03, 0.06, 0.06, None])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([None, None]) == [None, None]
    assert holm([0.01]) == [None] and holm([0.01, None]) == [0.01, None]


def test_an_exponent_is_the_slope_of_the_logarithms():
    draw = np.random.default_rng(0)
    x, y = np.arange(1.0, 9.0), np.arange(1.0, 9.0) ** 2 * np.exp(draw.normal(0, 0.1, 8))
    fit, line = fit_exponent(x, y), stats.linregress(np.log(x), np.log(y))
    actual = [fit['exponent'], fit['standard_error'], fit['factor']]
    np.testing.assert_allclose(actual, [line.slope, line.stderr, math.exp(line.intercept)])
    constant = fit_exponent([28, 56, 112], [5.0, 5.0, 5.0])
    assert abs(constant['exponent']) < 1e-12 and constant['standard_error'] < 1e-12
    assert fit_exponent([28, 56], [5.0, 20.0])['standard_error'] is None
    with refuses('two different x', error=ValueError):
        fit_exponent([28, 28], [5.0, 20.0])
