"""What a study shows, in sentences that are made from its statistics alone.

A difference is significant where p < 0.05; its sign then says whether a claim held here. Every
number in a sentence is measured, or is the paper's and says so.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mixer_dilated.reports.formatting import count_text, grouped_text
from mixer_dilated.reports.paper import DILATED_4X4, PLAIN_4X4, TABLE1
from mixer_dilated.studies.stats import compare_times, compare_trials
from mixer_dilated.studies.wording import (
    is_significant,
    listing,
    p_phrase,
    points_text,
    ratio_text,
)

if TYPE_CHECKING:
    import pandas as pd

HELD, REVERSED, OPEN = 'held here', 'did not hold here', 'is inconclusive here'
_COLUMNS = {'test_accuracy': 'test accuracy', 'train_accuracy': 'train accuracy'}


def table1_verdicts(
    table: 'pd.DataFrame', labels: Mapping[str, str], seconds: Mapping[str, Sequence[float]]
) -> list[str]:
    """One sentence for each of the paper's three claims, then one for each further row.

    The claims: dilated patches raise test accuracy, raise train accuracy, take less time. A trial
    that the paper lacks, the control, is compared with both.

    Args:
      table: rows of `results.jsonl` of valid trials.
      labels: {trial: what a sentence calls it}, of every row of Table 1 in its order: the paper's
        baseline, the paper's method, the control and others.
      seconds: of the trials, which take turns within a round.
    """
    baseline, proposed, *others = labels
    names, sentences = (labels[proposed], labels[baseline]), []
    for column, accuracy in _COLUMNS.items():
        comparison = compare_trials(table, proposed, baseline, column)
        sentence = _lower_first(comparison_sentence(*names, comparison, column))
        claim = _claim(f'raise {accuracy}', column, '{:.3f} against {:.3f}')
        sentences.append(f'{claim} {_outcome(comparison)}: {sentence}')
    times = compare_times(seconds[proposed], seconds[baseline])
    outcome = _outcome({'difference': 1 - times['ratio'], 'p': times['p']})
    claim = _claim('take less time', 'seconds', '{} s against {} s')
    sentences.append(f'{claim} {outcome}: {time_sentence(*names, times)}')
    for trial in others:
        comparison = compare_trials(table, trial, baseline, seconds=seconds)
        sentences.append(comparison_sentence(labels[trial], labels[baseline], comparison))
    for control in others[:1]:
        tokens, of_proposed = (
            int(table.loc[table['cell'] == trial, 'num_tokens'].iloc[0])
            for trial in (control, proposed)
        )
        beside = f'with {tokens} tokens where {labels[proposed]} has {of_proposed}'
        if tokens == of_proposed:
            beside = f'with as many tokens ({tokens}) as {labels[proposed]}'
        comparison = compare_trials(table, control, proposed, seconds=seconds)
        sentence = comparison_sentence(labels[control], labels[proposed], comparison)
        lacks = f'A control that the paper lacks is {labels[control]}'
        sentences.append(f'{lacks}, {beside}: {_lower_first(sentence)}')
    return sentences


def _claim(what: str, measure: str, form: str) -> str:
    """What the paper claims of its method, with its figures of the method and of the baseline."""
    paper = form.format(*(TABLE1[method][measure] for method in (DILATED_4X4, PLAIN_4X4)))
    return f"The paper's claim that dilated patches {what} ({paper} there)"


def comparison_sentence(
    label: str, reference_label: str, comparison: dict, column: str = 'test_accuracy'
) -> str:
    """How a trial compares with the reference.

    Args:
      label, reference_label: what the sentence calls the two.
      comparison: as `compare` returns it, of accuracies as parts of 1; where it has a p_holm, it
        is that which counts.
      column: 'test_accuracy' or 'train_accuracy'.
    """
    difference, count, accuracy = comparison['difference'], comparison['count'], _COLUMNS[column]
    interval = (comparison[key] or 0 for key in ('low', 'high'))
    amount = points_text(abs(difference), *interval, signed=False)[0]
    points = f'{amount} percentage points {"higher" if difference > 0 else "lower"}'
    if not difference:
        finding = f'{label} and {reference_label} have the same mean {accuracy}'
    elif is_significant(_p(comparison)) or comparison['low'] is None:
        finding = f'{label} is {points} in {accuracy} than {reference_label}'
    else:
        finding = (
            f'no difference in {accuracy} between {label} and {reference_label} is significant; on '
            f'average {label} is {points}'
        )
    over = 'Of one seed' if count == 1 else f'Over {count} paired seeds'
    time = ''
    if comparison['time_ratio'] is not None:
        ratio = ratio_text(comparison['time_ratio'])[0]
        time = f'; an epoch of {label} takes {ratio} times as long'
    return f'{over} {finding}{_evidence(comparison)}{time}.'


def comparisons_summary(comparisons: Mapping[str, dict]) -> str:
    """How many trials of a study are better, worse or neither than what they are compared with."""
    outcomes = collections.Counter(map(_outcome, comparisons.values()))
    tested = sum(comparison['p'] is not None for comparison in comparisons.values())
    compared = f'{len(comparisons)} trials are compared with another in test accuracy'
    corrected = f"p < 0.05 after Holm's correction for {tested} comparisons"
    if not tested:
        return f'{compared}; their seeds give no p values, so that no difference is significant.'
    return (
        f'{compared}. More accurate: {outcomes[HELD]}; less accurate: {outcomes[REVERSED]}; not '
        f'significant: {outcomes[OPEN]} (significant: {corrected}).'
    )


def datasets_sentence(method: str, comparison: Mapping, count: int) -> str:
    """How a method compares with its reference over `count` data sets, of one of `over_datasets`;
    '' where its seeds give no interval."""
    if comparison['low'] is None:
        return ''
    difference, reference = comparison['difference'], comparison['reference']
    amount = points_text(abs(difference), comparison['low'], comparison['high'], signed=False)[0]
    points = f'{amount} percentage points {"higher" if difference > 0 else "lower"}'
    finding = f'{method} is {points} in test accuracy than {reference}'
    if not is_significant(_p(comparison)):
        finding = (
            f'no difference in test accuracy between {method} and {reference} is significant; on '
            f'average {method} is {points}'
        )
    return f'Over {count} data sets {finding} (random effects, {_interval_and_p(comparison)}).'


def time_sentence(label: str, reference_label: str, times: dict) -> str:
    """How many times as long an epoch takes, of one `compare_times`; starts in lower case."""
    ratio = ratio_text(times['ratio'])[0]
    sentence = f'an epoch of {label} takes {ratio} times as long as one of {reference_label}'
    if times['low'] is None:
        rounds = count_text(times['count'], 'round')
        return f'{sentence} ({rounds}, which give no interval).'
    low, high = ratio_text(times['low'], times['high'])
    rounds = count_text(times['count'], 'paired round')
    return f'{sentence} ({rounds}, 95 % interval {low} … {high}, {p_phrase(times["p"])}).'


def little_data_verdict(
    label: str, reference_label: str, comparisons: Sequence[tuple[int, dict]], claimed: bool
) -> str:
    """At which sizes of training set a difference is significant, and whether a claim held.

    Args:
      label, reference_label: what a sentence calls the method and its reference.
      comparisons: (training images, `compare` of the test accuracies) of each size, corrected
        together.
      claimed: whether this is the paper's first claim, that dilation helps with little data. Its
        outcome is that with the fewest images: a gain with many is no gain on little data.
    """
    comparisons = sorted(comparisons, key=lambda pair: pair[0])
    outcomes = [_outcome(comparison) for _, comparison in comparisons]
    words = {
        HELD: f'{label} is better than {reference_label} with',
        REVERSED: f'{label} is worse than {reference_label} with',
        OPEN: f'{label} and {reference_label} do not differ significantly with',
    }
    sizes = collections.defaultdict(list)
    for outcome, (images, comparison) in zip(outcomes, comparisons, strict=True):
        amount = f'{points_text(comparison["difference"])[0]} points'
        if comparison['low'] is not None:
            keys = 'difference', 'low', 'high'
            mean, low, high = points_text(*(comparison[key] for key in keys))
            amount = f'{mean} points; 95 % interval {low} … {high}'
        sizes[outcome].append(f'{grouped_text(images)} ({amount})')
    findings = [
        f'{phrase} {listing(sizes[outcome])} training images'
        for outcome, phrase in words.items()
        if outcome in sizes
    ]
    sentence = f'{"; ".join(findings)}{_criterion([pair[1] for pair in comparisons])}.'
    if not claimed:
        return sentence[0].upper() + sentence[1:]
    fewest = f', with the fewest training images tried, {grouped_text(comparisons[0][0])}'
    return (
        f"The paper's claim that dilated patches help with little data {outcomes[0]}"
        f'{fewest if len(comparisons) > 1 else ""}: {sentence}'
    )


def _criterion(comparisons: Sequence[dict]) -> str:
    """When a difference of several sizes is significant, or that none can be."""
    if all(comparison['count'] == 1 for comparison in comparisons):
        return ' (one seed, which gives no p value)'
    if len(comparisons) == 1:
        return f' ({p_phrase(comparisons[0]["p"])})' if comparisons[0]['p'] is not None else ''
    return f" (significant: p < 0.05 after Holm's correction for {len(comparisons)} sizes)"


def _evidence(comparison: dict) -> str:
    """The interval and p in parentheses, as far as there are any."""
    if comparison['count'] == 1:
        return '; one seed gives no p value'
    if comparison['low'] is None:
        return ', by the same in every seed, which gives no interval and no p value'
    return f' ({_interval_and_p(comparison)})'


def _interval_and_p(comparison: Mapping) -> str:
    low, high = points_text(comparison['low'], comparison['high'])
    corrected = '' if comparison['p_holm'] is None else " after Holm's correction"
    return f'95 % interval {low} … {high} points, {p_phrase(_p(comparison))}{corrected}'


def _outcome(comparison: dict) -> str:
    """Whether a claim of a positive difference held."""
    if not is_significant(_p(comparison)):
        return OPEN
    return HELD if comparison['difference'] > 0 else REVERSED


def _p(comparison: dict) -> float | None:
    """The p to go by: corrected where the comparison is one of several."""
    return comparison['p'] if comparison.get('p_holm') is None else comparison['p_holm']


def _lower_first(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
