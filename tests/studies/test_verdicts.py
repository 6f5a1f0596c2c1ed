"""Sentences against the statistics that they are made from."""

import pandas as pd

from mixer_dilated.studies.stats import compare, correct_together
from mixer_dilated.studies.verdicts import (
    comparison_sentence,
    comparisons_summary,
    listing,
    little_data_verdict,
    p_phrase,
    points_text,
    ratio_text,
    table1_verdicts,
)

LABELS = {'p': 'plain 4×4', 'd': 'dilated 4×4', 'c': 'plain 7×7'}
ROWS = ([0.960, 0.962, 0.961], [0.950, 0.953, 0.951], [0.961, 0.963, 0.960])
SECONDS = {'p': [4.0, 4.1, 4.2], 'd': [2.0, 2.1, 2.05], 'c': [2, 2, 2]}
HIGH, LOW = [0.80, 0.81, 0.82], [0.70, 0.71, 0.7201]
BETTER, WORSE = compare(HIGH, LOW, reference='r'), compare(LOW, HIGH, reference='r')
ONE_SEED = compare([0.9], [0.8], reference='r')


def test_numbers_in_sentences_never_round_to_the_other_side():
    assert p_phrase(0.0004) == 'p < 0.001' and p_phrase(0.004) == 'p = 0.004'
    assert p_phrase(0.04999) == 'p just under 0.05' and p_phrase(0.05001) == 'p just over 0.05'
    assert points_text(-0.0025, 0.001) == ['−0.25', '+0.10']
    assert points_text(0.00001) == ['+0.001'] and points_text(0.0) == ['0']
    assert ratio_text(0.4, 1.0012) == ['0.400', '1.001']
    assert ratio_text(0.9996) == ['0.9996'] and ratio_text(1.0) == ['1.00']
    assert listing(['a', 'b', 'c']) == 'a, b and c' and listing(['a']) == 'a'


def sentences(*accuracies, seconds=SECONDS):
    """The verdicts on Table 1, of the accuracies of each trial by seed."""
    table = pd.DataFrame(
        {'cell': trial, 'seed': seed, 'num_tokens': tokens, 'test_accuracy': accuracy,
         'train_accuracy': accuracy + 0.01}
        for trial, tokens, by_seed in zip(LABELS, (49, 16, 16), accuracies, strict=True)
        for seed, accuracy in enumerate(by_seed)
    )  # fmt: skip
    return table1_verdicts(table, LABELS, seconds)


def test_a_claim_that_is_reversed_held_or_open_is_said_so():
    reversed_, train, time, control, against = sentences(*ROWS)
    assert 'raise test accuracy (0.877 against 0.868 there) did not hold here' in reversed_
    assert 'dilated 4×4 is 0.97 percentage points lower in test accuracy' in reversed_
    assert 'over 3 paired seeds' in reversed_ and '95 % interval' in reversed_
    assert 'raise train accuracy (0.961 against 0.943 there) did not hold here' in train
    assert 'less time (262 s against 269 s there) held here' in time
    assert 'takes 0.50 times as long' in time
    assert (
        'no difference in test accuracy between plain 7×7 and plain 4×4 is significant' in control
    )
    assert 'takes 0.49 times as long' in control
    assert 'with as many tokens (16) as dilated 4×4' in against and 'higher' in against
    held, *_ = sentences(ROWS[1], ROWS[0], ROWS[2])
    assert 'held here: over 3 paired seeds dilated 4×4 is 0.97 percentage points higher' in held
    one_round = {trial: [2.0] for trial in LABELS}
    same, _, no_time, *_ = sentences([0.9], [0.9], [0.9], seconds=one_round)
    assert 'is inconclusive here' in same and 'same mean test accuracy' in same
    assert 'is inconclusive here' in no_time and '1 round, which' in no_time


def test_one_seed_or_a_difference_without_spread_is_not_called_significant():
    assert comparison_sentence('a', 'b', ONE_SEED) == (
        'Of one seed a is 10.00 percentage points higher in test accuracy than b; '
        'one seed gives no p value.'
    )
    same = compare([0.91, 0.92, 0.93], [0.90, 0.91, 0.92], reference='b')
    assert same['p'] is None
    assert 'no interval and no p value' in comparison_sentence('a', 'b', same)
    assert 'is inconclusive here' in little_data_verdict('a', 'b', [(100, same)], True)


def test_many_comparisons_are_corrected_for_their_number():
    one = compare([0.91, 0.93, 0.92], [0.90, 0.91, 0.905], reference='r')
    correct_together([one])
    alone = comparison_sentence('X', 'R', one)
    assert "Holm's" not in alone and p_phrase(one['p']) in alone
    correct_together([one, {**one}])
    of_two = comparison_sentence('X', 'R', one)
    assert "after Holm's correction" in of_two and p_phrase(2 * one['p']) in of_two


def test_the_claim_on_little_data_is_that_of_the_fewest_images_and_names_the_sizes():
    text = little_data_verdict('dilated', 'plain', [(1000, WORSE), (100, BETTER)], True)
    assert text.startswith(
        "The paper's claim that dilated patches help with little data held here, "
        'with the fewest training images tried, 100: '
    )
    assert 'dilated is better than plain with 100 (+10.00 points; 95 % interval +9.' in text
    assert 'dilated is worse than plain with 1\u00a0000 (−10.00 points; 95 % interval −10.' in text
    control = little_data_verdict('control', 'plain', [(100, BETTER)], False)
    assert control.startswith('Control is better than plain with 100 (+10.00 points; ')
    assert control.endswith(' training images (p < 0.001).')
    unclear = compare([0.80, 0.70, 0.75], [0.74, 0.76, 0.751], reference='r')
    text = little_data_verdict('dilated', 'plain', [(100, unclear), (10_000, BETTER)], True)
    assert 'little data is inconclusive here, with the fewest' in text
    assert 'dilated is better than plain with 10\u00a0000 (' in text
    text = little_data_verdict('dilated', 'plain', [(100, ONE_SEED), (1000, ONE_SEED)], True)
    assert 'one seed, which gives no p value' in text and "Holm's" not in text


def test_many_comparisons_are_counted_by_their_outcome():
    p_values = {'better': 1e-6, 'worse': 1e-5, 'worse too': 0.012, 'close': 0.02, 'equal': None}
    comparisons = {
        name: {'difference': 0.01 if name == 'better' else -0.01, 'p': p, 'p_holm': None}
        for name, p in p_values.items()
    }
    correct_together([*comparisons.values()])  # 0.012 · 2 < 0.05, 0.02 · 1 < 0.05
    sentence = comparisons_summary(comparisons)
    assert sentence.startswith('5 trials are compared with another in test accuracy. ')
    assert 'More accurate: 1; less accurate: 3; not significant: 1' in sentence
    assert 'for 4 comparisons' in sentence
    comparisons['close']['p'] = comparisons['worse too']['p'] = 0.03  # 0.03 · 2 > 0.05
    correct_together([*comparisons.values()])
    assert 'less accurate: 1; not significant: 3' in comparisons_summary(comparisons)
    alone = {name: {**row, 'p': None, 'p_holm': None} for name, row in comparisons.items()}
    assert 'their seeds give no p values' in comparisons_summary(alone)
