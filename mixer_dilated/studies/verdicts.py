"""What a study shows, in sentences that are made from its statistics alone.

A difference is significant where p < 0.05; its sign then says whether a claim held here. Every
number in a sentence is measured, or is the paper's and says so.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mixer_dilated.reports.formatting import count_text, grouped_text, optional_text
from mixer_dilated.reports.paper import DILATED_4X4, PLAIN_4X4, TABLE1
from mixer_dilated.studies.stats import compare_times, compare_trials

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05
HELD, REVERSED, OPEN = 'held here', 'did not hold here', 'is inconclusive here'


def is_significant(p: float | None) -> bool:
    return p is not None and p < LEVEL


def p_phrase(p: float) -> str:
    """'p = 0.004', 'p < 0.001'; never rounded across 0.05."""
    if p < 0.001:
        return 'p < 0.001'
    if p == 1:
        return 'p = 1'
    if p >= 0.9995:
        return 'p > 0.999'
    if f'{p:.3f}' == f'{LEVEL:.3f}' and p != LEVEL:
        return 'p just under 0.05' if p < LEVEL else 'p just over 0.05'
    return f'p = {p:.3f}'


def points_text(*accuracies: float, signed: bool = True) -> list[str]:
    """Accuracies or their differences in percentage points: ['−0.25', '−0.40', '+0.10'].

    All with as many decimals, two unless one of them would look like zero and is not.
    """
    points = [100 * accuracy for accuracy in accuracies]
    form = f'{"+" if signed else ""}.{_decimals(points, (0,))}f'
    return [optional_text(value, form) if value else '0' for value in points]


def ratio_text(*ratios: float) -> list[str]:
    """Ratios with as many decimals, two unless one would look like 0 or 1 and is not."""
    return [f'{ratio:.{_decimals(ratios, (0, 1))}f}' for ratio in ratios]


def _decimals(values: Sequence[float], marks: Sequence[int]) -> int:
    """How many, from 2 to 6, no value that is none of the marks is rounded to one."""
    others = [value for value in values if value not in marks]
    enough = (n for n in range(2, 6) if not any(round(value, n) in marks for value in others))
    return next(enough, 6)


def listing(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return ' and '.join([', '.join(words[:-1]), words[-1]] if len(words) > 1 else words)


def table1_verdicts(
    table: 'pd.DataFrame', labels: Mapping[str, str], seconds: Mapping[str, Sequence[float]]
) -> list[str]:
    """One sentence for each of the paper's three claims, then one for each further row.

    The claims: dilated patches raise test accuracy, raise train accuracy, take less time. A trial
    that the paper lacks, the control, is compared with both. The table has the rows of
    `results.jsonl` of valid trials; `labels`, {trial: what a sentence calls it}, are in the order
    of Table 1: the paper's baseline, the paper's method, the control and others; `seconds` are of
    an epoch in each round, in which the trials take turns.
    """
    baseline, proposed, *others = labels
    names, sentences = (labels[proposed], labels[baseline]), []
    for column in ('test_accuracy', 'train_accuracy'):
        comparison = compare_trials(table, proposed, baseline, column)
        claim = _claim(f'raise {column.replace("_", " ")}', column, '{:.3f} against {:.3f}')
        sentence = _lower_first(comparison_sentence(*names, comparison, column))
        sentences.append(f'{claim} {_outcome(comparison)}: {sentence}')
    times = compare_times(seconds[proposed], seconds[baseline])
    outcome = _outcome({'difference': 1 - times['ratio'], 'p': times['p']})
    claim = _claim('take less time', 'seconds', '{} s against {} s')
    sentences.append(f'{claim} {outcome}: {_time_sentence(*names, times)}')
    pairs = [(trial, baseline) for trial in others]
    pairs += [(control, proposed) for control in others[:1]]
    for trial, reference in pairs:
        comparison = compare_trials(table, trial, reference, seconds=seconds)
        sentences.append(comparison_sentence(labels[trial], labels[reference], comparison))
    for control in others[:1]:
        tokens = table.groupby('cell')['num_tokens'].first().astype(int)
        beside = f'with {tokens[control]} tokens where {labels[proposed]} has {tokens[proposed]}'
        if tokens[control] == tokens[proposed]:
            beside = f'with as many tokens ({tokens[control]}) as {labels[proposed]}'
        lacks = f'A control that the paper lacks is {labels[control]}, {beside}'
        sentences[-1] = f'{lacks}: {_lower_first(sentences[-1])}'
    return sentences


def _claim(what: str, measure: str, form: str) -> str:
    """What the paper claims of its method, with its figures of the method and of the baseline."""
    paper = form.format(*(TABLE1[method][measure] for method in (DILATED_4X4, PLAIN_4X4)))
    return f"The paper's claim that dilated patches {what} ({paper} there)"


def comparison_sentence(
    label: str, reference_label: str, comparison: Mapping, column: str = 'test_accuracy'
) -> str:
    """How a trial compares with the reference in 'test_accuracy' or 'train_accuracy', of one
    `compare`; where that has a p_holm, it is that which counts."""
    count, evidence, time = comparison['count'], '; one seed gives no p value', ''
    if count > 1 and comparison['low'] is None:
        evidence = ', by the same in every seed, which gives no interval and no p value'
    elif count > 1:
        evidence = f' ({_interval_and_p(comparison)})'
    if comparison['time_ratio'] is not None:
        ratio = ratio_text(comparison['time_ratio'])[0]
        time = f'; an epoch of {label} takes {ratio} times as long'
    over = 'Of one seed' if count == 1 else f'Over {count} paired seeds'
    return f'{over} {_finding(label, reference_label, comparison, column)}{evidence}{time}.'


def datasets_sentence(method: str, comparison: Mapping, count: int) -> str:
    """How a method compares with its reference over `count` data sets, of one of `over_datasets`;
    '' where its seeds give no interval."""
    if comparison['low'] is None:
        return ''
    finding = _finding(method, comparison['reference'], comparison, 'test_accuracy')
    return f'Over {count} data sets {finding} (random effects, {_interval_and_p(comparison)}).'


def _finding(label: str, reference: str, comparison: Mapping, column: str) -> str:
    difference, accuracy = comparison['difference'], column.replace('_', ' ')
    if not difference:
        return f'{label} and {reference} have the same mean {accuracy}'
    interval = (comparison[key] or 0 for key in ('low', 'high'))
    amount, *_ = points_text(abs(difference), *interval, signed=False)
    points = f'{amount} percentage points {"higher" if difference > 0 else "lower"}'
    if is_significant(_p(comparison)) or comparison['low'] is None:
        return f'{label} is {points} in {accuracy} than {reference}'
    return (
        f'no difference in {accuracy} between {label} and {reference} is significant; on average '
        f'{label} is {points}'
    )


def comparisons_summary(comparisons: Mapping[str, dict]) -> str:
    """How many trials of a study are better, worse or neither than what they are compared with."""
    outcomes = collections.Counter(map(_outcome, comparisons.values()))
    tested = sum(comparison['p'] is not None for comparison in comparisons.values())
    compared = f'{len(comparisons)} trials are compared with another in test accuracy'
    if not tested:
        return f'{compared}; their seeds give no p values, so that no difference is significant.'
    return (
        f'{compared}. More accurate: {outcomes[HELD]}; less accurate: {outcomes[REVERSED]}; not '
        f"significant: {outcomes[OPEN]} (significant: p < 0.05 after Holm's correction for {tested}"
        ' comparisons).'
    )


def _time_sentence(label: str, reference_label: str, times: Mapping) -> str:
    ratio = ratio_text(times['ratio'])[0]
    sentence = f'an epoch of {label} takes {ratio} times as long as one of {reference_label}'
    if times['low'] is None:
        rounds = count_text(times['count'], 'round')
        return f'{sentence} ({rounds}, which give no interval).'
    low, high = ratio_text(times['low'], times['high'])
    rounds = count_text(times['count'], 'paired round')
    return f'{sentence} ({rounds}, 95 % interval {low} … {high}, {p_phrase(times["p"])}).'


def little_data_verdict(
    label: str, reference_label: str, by_size: Sequence[tuple[int, dict]], claimed: bool
) -> str:
    """At which sizes of training set a difference is significant, and whether a claim held.

    `by_size` has (training images, `compare` of the test accuracies), corrected together; `claimed`
    is whether this is the paper's first claim, that dilation helps with little data. Its outcome is
    that with the fewest images: a gain with many is no gain on little data.
    """
    by_size, sizes = sorted(by_size, key=lambda pair: pair[0]), collections.defaultdict(list)
    for images, comparison in by_size:
        amount = f'{points_text(comparison["difference"])[0]} points'
        if comparison['low'] is not None:
            mean, low, high = points_text(*(comparison[k] for k in ('difference', 'low', 'high')))
            amount = f'{mean} points; 95 % interval {low} … {high}'
        sizes[_outcome(comparison)].append(f'{grouped_text(images)} ({amount})')
    words = {
        HELD: f'{label} is better than {reference_label}',
        REVERSED: f'{label} is worse than {reference_label}',
        OPEN: f'{label} and {reference_label} do not differ significantly',
    }
    findings = '; '.join(
        f'{words[outcome]} with {listing(sizes[outcome])} training images'
        for outcome in words
        if outcome in sizes
    )
    (fewest, first), criterion = by_size[0], ''
    if all(comparison['count'] == 1 for _, comparison in by_size):
        criterion = ' (one seed, which gives no p value)'
    elif len(by_size) > 1:
        criterion = f" (significant: p < 0.05 after Holm's correction for {len(by_size)} sizes)"
    elif first['p'] is not None:
        criterion = f' ({p_phrase(first["p"])})'
    sentence = f'{findings}{criterion}.'
    if not claimed:
        return sentence[0].upper() + sentence[1:]
    tried = f', with the fewest training images tried, {grouped_text(fewest)}'
    return (
        f"The paper's claim that dilated patches help with little data {_outcome(first)}"
        f'{tried if len(by_size) > 1 else ""}: {sentence}'
    )


def _interval_and_p(comparison: Mapping) -> str:
    low, high = points_text(comparison['low'], comparison['high'])
    corrected = '' if comparison['p_holm'] is None else " after Holm's correction"
    return f'95 % interval {low} … {high} points, {p_phrase(_p(comparison))}{corrected}'


def _outcome(comparison: Mapping) -> str:
    """Whether a claim of a positive difference held."""
    if not is_significant(_p(comparison)):
        return OPEN
    return HELD if comparison['difference'] > 0 else REVERSED


def _p(comparison: Mapping) -> float | None:
    """The p to go by: corrected where the comparison is one of several."""
    return comparison['p'] if comparison.get('p_holm') is None else comparison['p_holm']


def _lower_first(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
