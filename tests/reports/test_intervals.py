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
    count, mean = len(values), sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = stats.t.ppf(0.975, count - 1) * std / math.sqrt(count)
    assert described['count'] == count
    numbers = [described[key] for key in ('mean', 'std', 'low', 'high')]
    np.testing.assert_allclose(numbers, [mean, std, mean - half, mean + half], atol=1e-12)
    np.testing.assert_array_equal(t_interval(values), numbers[2:])
    json.dumps(described, allow_nan=False)


def test_one_value_has_no_spread():
    assert describe([0.5]) == {'count': 1, 'mean': 0.5, 'std': None, 'low': None, 'high': None}
    assert np.isnan(t_interval([0.5])).all()  # what seaborn draws no band for


def test_values_that_are_equal_up_to_rounding_have_no_deviation():
    values = [0.1 + 0.2, 0.3, 0.6 / 2]
    assert describe(values) == {
        'count': 3, 'mean': np.mean(values), 'std': 0, 'low': np.mean(values),
        'high': np.mean(values),
    }  # fmt: skip
    differences = [0.1 + 0.2 - 0.3, 0.0]
    assert describe(differences)['std'] > 0
    assert describe(differences, 0.3) == {
        'count': 2,
        **dict.fromkeys(('mean', 'std', 'low', 'high'), 0),
    }


@pytest.mark.parametrize('values', [[], [math.nan], [1.0, math.inf]], ids=str)
def test_no_value_and_one_that_is_not_finite_are_refused(values):
    with refuses(repr(values), error=ValueError):
        describe(values)


@pytest.mark.parametrize(('correct', 'count'), [(0, 10), (10, 10), (2382, 2500), (1, 3)])
def test_wilson_interval_is_wilsons_formula(correct, count):
    z, share = 1.959963984540054, correct / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    np.testing.assert_allclose(
        wilson_interval(correct, count), [centre - half, centre + half], atol=1e-9
    )
