"""Statistics against formulas written out here and SciPy; sentences against what makes them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixer_dilated.studies.verdicts import (
    comparison_sentence,
    little_data_verdict,
    table1_verdicts,
)
from mixer_dilated.studies.wording import listing, p_text, points_text, ratio_text
from mixer_dilated.studies.stats import (
    compare,
    compare_cells,
    compare_times,
    correct_together,
    describe,
    fit_exponent,
    holm,
)

COUNTS = st.integers(0, 2500).map(lambda count: count / 2500)
ACCURACIES = st.lists(COUNTS, min_size=2, max_size=12)


@given(ACCURACIES)
def test_mean_standard_deviation_and_t_interval(values):
    found = describe(values)
    count, mean = len(values), sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = stats.t.ppf(0.975, count - 1) * std / math.sqrt(count)
    assert found['count'] == count
    np.testing.assert_allclose(
        [found['mean'], found['std'], found['low'], found['high']],
        [mean, std, mean - half, mean + half],
        atol=1e-12,
    )
    json.dumps(found, allow_nan=False)


def test_one_value_has_no_spread_and_none_is_refused():
    assert describe([0.5]) == {'count': 1, 'mean': 0.5, 'std': None, 'low': None, 'high': None}
    for values in ([], [math.nan], [1.0, math.inf]):
        with pytest.raises(ValueError, match='finite numbers'):
            describe(values)


@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=2, max_size=12))
def test_paired_comparison_is_scipys_paired_t_test(pairs):
    cell, base = np.array(pairs).T
    found = compare(cell, base, reference='base')
    json.dumps(found, allow_nan=False)
    differences = cell - base
    np.testing.assert_allclose(found['difference'], differences.mean(), atol=1e-12)
    if np.ptp(differences) < 1e-9:
        assert found['std'] == 0
        assert found['p'] == (1 if abs(differences.mean()) < 1e-9 else None)
        return
    test = stats.ttest_rel(cell, base)
    interval = test.confidence_interval(0.95)
    np.testing.assert_allclose(
        [found['t'], found['p'], found['low'], found['high']],
        [test.statistic, test.pvalue, interval.low, interval.high],
        rtol=1e-6, atol=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(
        found['effect_size'], differences.mean() / differences.std(ddof=1), atol=1e-12
    )
    assert differences.min() - 1e-12 <= found['bootstrap_low'] <= found['bootstrap_high']
    assert found['bootstrap_high'] <= differences.max() + 1e-12
    assert compare(cell, base, reference='base') == found


def test_the_bootstrap_interval_is_scipys_percentile_interval():
    draw = np.random.default_rng(1)
    cell, base = draw.normal(0.96, 0.003, 10), draw.normal(0.95, 0.003, 10)
    found = compare(cell, base, reference='base')
    expected = stats.bootstrap(
        (cell - base,), np.mean, n_resamples=20_000, method='percentile', random_state=draw
    ).confidence_interval
    np.testing.assert_allclose(
        [found['bootstrap_low'], found['bootstrap_high']], expected, rtol=0.02
    )


def test_seeds_are_paired_by_number_and_times_by_their_ratio():
    rows = [
        {'cell': cell, 'seed': seed, 'impossible': '', 'test_accuracy': accuracy,
         'epoch_seconds': seconds}
        for cell, seconds, of_seed in (('a', 4.0, {2: 0.9, 1: 0.8}), ('b', 2.0, {1: 0.85, 2: 0.93}))
        for seed, accuracy in of_seed.items()
    ]  # fmt: skip
    found = compare_cells(rows, 'b', 'a')
    np.testing.assert_allclose(found['difference'], 0.04)
    np.testing.assert_allclose(found['std'], np.std([0.05, 0.03], ddof=1))
    assert found['time_ratio'] == 0.5
    with pytest.raises(ValueError, match=r'b has seeds .1., a has'):
        compare_cells(rows[:3], 'b', 'a')
    with pytest.raises(ValueError, match='cannot be paired'):
        compare([1.0], [1.0, 2.0], reference='a')
    assert compare([0.9], [0.8], reference='a')['p'] is None


def test_times_are_compared_by_the_geometric_mean_of_their_ratios():
    found = compare_times([2.0, 4.0, 3.0], [4.0, 4.0, 6.0], reference='a')
    np.testing.assert_allclose(found['ratio'], (0.5 * 1 * 0.5) ** (1 / 3))
    test = stats.ttest_rel(np.log([2.0, 4.0, 3.0]), np.log([4.0, 4.0, 6.0]))
    np.testing.assert_allclose(found['p'], test.pvalue)


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03, None]) == pytest.approx([0.03, 0.06, 0.06, None])
    assert holm([0.6, 0.9]) == [1.0, 1.0]


@given(st.floats(-3, 3), st.floats(0.1, 10))
def test_an_exact_power_law_gives_its_exponent(exponent, factor):
    sides = np.array([28.0, 56, 112, 224])
    found = fit_exponent(sides, factor * sides**exponent)
    np.testing.assert_allclose(found['exponent'], exponent, atol=1e-9)
    np.testing.assert_allclose(found['factor'], factor, rtol=1e-6)
    assert found['standard_error'] < 1e-6


def test_a_noisy_exponent_has_the_standard_error_of_a_regression():
    draw = np.random.default_rng(0)
    x, y = np.arange(1.0, 9.0), np.arange(1.0, 9.0) ** 2 * np.exp(draw.normal(0, 0.1, 8))
    found = fit_exponent(x, y)
    expected = stats.linregress(np.log(x), np.log(y))
    np.testing.assert_allclose(
        [found['exponent'], found['standard_error']], [expected.slope, expected.stderr]
    )


def test_numbers_in_sentences_never_round_to_the_other_side():
    assert p_text(0.0004) == 'p < 0.001' and p_text(0.004) == 'p = 0.004'
    assert p_text(0.04999) == 'p just under 0.05' and p_text(0.05001) == 'p just over 0.05'
    assert points_text(-0.0025, 0.001) == ['−0.25', '+0.10']
    assert points_text(0.00001) == ['+0.001'] and points_text(0.0) == ['0']
    assert ratio_text(0.4, 1.0012) == ['0.400', '1.001']
    assert ratio_text(0.9996) == ['0.9996'] and ratio_text(1.0) == ['1.00']
    assert listing(['a', 'b', 'c']) == 'a, b and c' and listing(['a']) == 'a'


def table1_rows(plain, dilated, control):
    return [
        {'cell': cell, 'seed': seed, 'impossible': '', 'num_tokens': tokens,
         'test_accuracy': accuracy, 'train_accuracy': accuracy + 0.01, 'epoch_seconds': 1.0}
        for cell, tokens, accuracies in (
            ('p', 49, plain), ('d', 16, dilated), ('c', 16, control)
        )
        for seed, accuracy in enumerate(accuracies)
    ]  # fmt: skip


LABELS = {'p': 'plain 4×4', 'd': 'dilated 4×4', 'c': 'plain 7×7'}
ROWS = ([0.960, 0.962, 0.961], [0.950, 0.953, 0.951], [0.961, 0.963, 0.960])


def sentences(rows, **changes):
    return table1_verdicts(
        table1_rows(*rows), LABELS, baseline='p', proposed='d', control='c', **changes
    )


def test_a_claim_that_is_reversed_held_or_open_is_said_so():
    reversed_, train, time, control, against = sentences(
        ROWS, round_seconds={'p': [4.0, 4.1, 4.2], 'd': [2.0, 2.1, 2.05], 'c': [2, 2, 2]}
    )
    assert 'raise test accuracy (0.877 against 0.868 there) did not hold here' in reversed_
    assert 'dilated 4×4 is 0.97 percentage points lower in test accuracy' in reversed_
    assert 'over 3 paired seeds' in reversed_ and '95 % interval' in reversed_
    assert 'raise train accuracy (0.961 against 0.943 there) did not hold here' in train
    assert 'less time (262 s against 269 s there) held here' in time
    assert 'takes 0.50 times as long' in time
    assert 'no difference in test accuracy is settled between plain 7×7 and plain 4×4' in control
    assert 'with as many tokens (16) as dilated 4×4' in against and 'higher' in against
    held, *_ = sentences((ROWS[1], ROWS[0], ROWS[2]))
    assert 'held here: over 3 paired seeds dilated 4×4 is 0.97 percentage points higher' in held
    same, _, no_time, *_ = sentences(([0.9], [0.9], [0.9]))
    assert 'is not settled here' in same and 'same mean test accuracy' in same
    assert 'is not settled here' in no_time


def test_of_one_seed_nothing_is_settled():
    sentence = comparison_sentence('a', 'b', compare([0.9], [0.8], reference='b'))
    assert sentence == (
        'Of one seed a is 10.00 percentage points higher in test accuracy than b; '
        'one seed settles nothing.'
    )


def test_a_difference_without_spread_is_not_said_to_be_settled():
    same = compare([0.91, 0.92, 0.93], [0.90, 0.91, 0.92], reference='b')
    assert same['p'] is None
    assert 'settles nothing' in comparison_sentence('a', 'b', same)
    assert 'is not settled here' in little_data_verdict('a', 'b', [(100, same)], True)


def test_many_comparisons_are_corrected_for_their_number():
    one = compare([0.91, 0.93, 0.92], [0.90, 0.91, 0.905], reference='r')
    correct_together([one])
    alone = comparison_sentence('X', 'R', one)
    assert "Holm's" not in alone and p_text(one['p']) in alone
    correct_together([one, {**one}])
    of_two = comparison_sentence('X', 'R', one)
    assert "after Holm's correction" in of_two and p_text(2 * one['p']) in of_two


def test_the_claim_on_little_data_names_the_sizes():
    better = compare([0.80, 0.81, 0.82], [0.70, 0.71, 0.7201], reference='r')
    worse = compare([0.70, 0.71, 0.7201], [0.80, 0.81, 0.82], reference='r')
    text = little_data_verdict('dilated', 'plain', [(1000, worse), (100, better)], True)
    assert text.startswith(
        "The paper's claim that dilated patches help with little data held here, "
        'with the fewest training images tried, 100: '
    )
    assert 'dilated is better than plain with 100 (+10.00 points; 95 % interval +9.' in text
    assert 'dilated is worse than plain with 1\u00a0000 (−10.00 points; 95 % interval −10.' in text
    control = little_data_verdict('control', 'plain', [(100, better)], False)
    assert control.startswith('Control is better than plain with 100 (+10.00 points; ')
    assert control.endswith(' training images (p < 0.001).')


def test_a_gain_with_many_images_is_no_gain_on_little_data():
    unclear = compare([0.80, 0.70, 0.75], [0.74, 0.76, 0.751], reference='r')
    better = compare([0.80, 0.81, 0.82], [0.70, 0.71, 0.7201], reference='r')
    text = little_data_verdict('dilated', 'plain', [(100, unclear), (10_000, better)], True)
    assert 'little data is not settled here, with the fewest' in text
    assert 'dilated is better than plain with 10\u00a0000 (' in text
    one_seed = compare([0.9], [0.8], reference='r')
    text = little_data_verdict('dilated', 'plain', [(100, one_seed), (1000, one_seed)], True)
    assert 'one seed, which settles nothing' in text and "Holm's" not in text
