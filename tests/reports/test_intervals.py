"""Intervals against their formulas, written out here in NumPy."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixer_dilated.reports.intervals import describe, t_interval, wilson_interval
from tests.conftest import refuses

ACCURACIES = st.lists(st.integers(0, 2500).map(lambda n: n / 2500), min_size=2, max_size=12)


@given(ACCURACIES)
def test_mean_standard_deviation_and_t_interval(values):
    described = describe(values)
    count, mean, std = len(values), np.mean(values), np.std(values, ddof=1)
    half = stats.t.ppf(0.975, count - 1) * std / math.sqrt(count)
    expected = [count, mean, std, mean - half, mean + half]
    np.testing.assert_allclose([*described.values()], expected, atol=1e-12)
    np.testing.assert_array_equal(t_interval(values), [described['low'], described['high']])
    json.dumps(described, allow_nan=False)


def test_one_value_has_no_spread():
    assert describe([0.5]) == {'count': 1, 'mean': 0.5, 'std': None, 'low': None, 'high': None}
    assert np.isnan(t_interval([0.5])).all()  # what seaborn draws no band for


def test_values_that_are_equal_up_to_rounding_have_no_deviation():
    values = [0.1 + 0.2, 0.3, 0.6 / 2]
    assert [*describe(values).values()] == [3, np.mean(values), 0, *[np.mean(values)] * 2]
    differences = [0.1 + 0.2 - 0.3, 0.0]
    assert describe(differences)['std'] > 0
    assert [*describe(differences, 0.3).values()] == [2, 0, 0, 0, 0]


@pytest.mark.parametrize('values', [[], [math.nan], [1.0, math.inf]], ids=str)
def test_no_value_and_one_that_is_not_finite_are_refused(values):
    with refuses(repr(values), error=ValueError):
        describe(values)


@pytest.mark.parametrize(('correct', 'count'), [(0, 10), (10, 10), (2382, 2500), (1, 3)])
def test_wilson_interval_is_wilsons_formula(correct, count):
    interval = stats.binomtest(correct, count).proportion_ci(0.95, 'wilson')
    np.testing.assert_allclose(wilson_interval(correct, count), interval, atol=1e-9)
