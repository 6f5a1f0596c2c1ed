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
      seconds: {trial: seconds of an epoch in each round}, the trials taking turns within a round.
    """
    baseline, proposed, *others = labels
    names = labels[proposed], labels[baseline]
    sentences = []
    for column, accuracy in _COLUMNS.items():
        comparison = compare_trials(table, proposed, baseline, column)
        outcome = _outcome(comparison['difference'], comparison['p'])
        sentence = _lower_first(comparison_sentence(*names, comparison, column))
        claim = _claim(f'raise {accuracy}', column, '{:.3f} against {:.3f}')
        sentences.append(f'{claim} {outcome}: {sentence}')
    times = compare_times(seconds[proposed], seconds[baseline])
    claim = _claim('take less time', 'seconds', '{} s against {} s')
    outcome = _outcome(1 - times['ratio'], times['p'])
    sentences.append(f'{claim} {outcome}: {time_sentence(*names, times)}')
    for trial in others:
        comparison = compare_trials(table, trial, baseline, seconds=seconds)
        sentences.append(comparison_sentence(labels[trial], labels[baseline], comparison))
    for control in others[:1]:
        tokens, of_proposed = (
            int(table.loc[table['cell'] == trial, 'num_tokens'].iloc[0])
            for trial in (control, proposed)
        )
        same = f'with as many tokens ({tokens}) as {labels[proposed]}'
        other = f'with {tokens} tokens where {labels[proposed]} has {of_proposed}'
        comparison = compare_trials(table, control, proposed, seconds=seconds)
        sentence = comparison_sentence(labels[control], labels[proposed], comparison)
        sentences.append(
            f'A control that the paper lacks is {labels[control]}, '
            f'{same if tokens == of_proposed else other}: {_lower_first(sentence)}'
        )
    return sentences


def _claim(what: str, measure: str, form: str) -> str:
    """What the paper claims of its method, with its figures of the method and of the baseline."""
    paper = form.format(*(TABLE1[method][measure] for method in (DILATED_4X4, PLAIN_4X4)))
    return f"The paper's claim that dilated patches {what} ({paper} there)"


def comparison_sentence(
    label: str, reference_label: str, comparison: dict, column: str = 'test_accuracy'
) -> str:
    """How a trial compares with the reference, of one `compare`.

    Args:
      label: what the sentence calls the trial.
      reference_label: what it calls the reference.
      comparison: as `compare` returns it, of accuracies as parts of 1; where it has a p_holm, it
        is that which counts.
      column: 'test_accuracy' or 'train_accuracy'.
    """
    difference, count = comparison['difference'], comparison['count']
    interval = (comparison[key] or 0 for key in ('low', 'high'))
    amount = points_text(abs(difference), *interval, signed=False)[0]
    way = 'higher' if difference > 0 else 'lower'
    accuracy = _COLUMNS[column]
    if not difference:
        finding = f'{label} and {reference_label} have the same mean {accuracy}'
    elif is_significant(_p(comparison)) or comparison['low'] is None:
        finding = (
            f'{label} is {amount} percentage points {way} in {accuracy} than {reference_label}'
        )
    else:
        finding = (
            f'no difference in {accuracy} between {label} and {reference_label} is significant; on '
            f'average {label} is {amount} percentage points {way}'
        )
    over = 'Of one seed' if count == 1 else f'Over {count} paired seeds'
    sentence = f'{over} {finding}{_evidence(comparison)}'
    if comparison['time_ratio'] is not None:
        ratio = ratio_text(comparison['time_ratio'])[0]
        sentence += f'; an epoch of {label} takes {ratio} times as long'
    return f'{sentence}.'


def comparisons_summary(comparisons: Mapping[str, dict]) -> str:
    """How many trials of a study are better, worse or neither than what they are compared with.

    Args:
      comparisons: `comparisons` of `statistics.json`, of test accuracies; at least two.
    """
    outcomes = collections.Counter(
        _outcome(comparison['difference'], _p(comparison)) for comparison in comparisons.values()
    )
    tested = sum(comparison['p'] is not None for comparison in comparisons.values())
    return (
        f'{len(comparisons)} trials are compared with another in test accuracy. More accurate: '
        f'{outcomes[HELD]}; less accurate: {outcomes[REVERSED]}; not significant: '
        f"{outcomes[OPEN]} (significant: p < 0.05 after Holm's correction for {tested} "
        'comparisons).'
    )


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
    label: str,
    reference_label: str,
    comparisons: Sequence[tuple[int, dict]],
    claimed: bool,
) -> str:
    """At which sizes of training set a difference is significant, and whether a claim held.

    Args:
      label: what a sentence calls the method.
      reference_label: what it calls the reference.
      comparisons: (training images, `compare` of the test accuracies) of each size, corrected
        together.
      claimed: whether this is the paper's first claim, that dilation helps with little data.

    Returns:
      A sentence. The outcome of the claim is that with the fewest images: a gain with many is no
      gain on little data.
    """
    comparisons = sorted(comparisons, key=lambda pair: pair[0])
    outcomes = [_outcome(comparison['difference'], _p(comparison)) for _, comparison in comparisons]
    words = {
        HELD: f'{label} is better than {reference_label} with',
        REVERSED: f'{label} is worse than {reference_label} with',
        OPEN: f'{label} and {reference_label} do not differ significantly with',
    }
    findings = []
    for outcome, phrase in words.items():
        sizes = [
            f'{grouped_text(images)} ({_points_and_interval(comparison)})'
            for at, (images, comparison) in zip(outcomes, comparisons, strict=True)
            if at == outcome
        ]
        if sizes:
            findings.append(f'{phrase} {listing(sizes)} training images')
    sentence = f'{"; ".join(findings)}{_criterion([pair[1] for pair in comparisons])}.'
    if not claimed:
        return sentence[0].upper() + sentence[1:]
    fewest = f', with the fewest training images tried, {grouped_text(comparisons[0][0])}'
    return (
        f"The paper's claim that dilated patches help with little data {outcomes[0]}"
        f'{fewest if len(comparisons) > 1 else ""}: {sentence}'
    )


def _points_and_interval(comparison: dict) -> str:
    """'+0.40 points; 95 % interval +0.10 … +0.70'; the interval only where there is one."""
    if comparison['low'] is None:
        return f'{points_text(comparison["difference"])[0]} points'
    mean, low, high = points_text(*(comparison[key] for key in ('difference', 'low', 'high')))
    return f'{mean} points; 95 % interval {low} … {high}'


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
    low, high = points_text(comparison['low'], comparison['high'])
    corrected = '' if comparison['p_holm'] is None else " after Holm's correction"
    return f' (95 % interval {low} … {high} points, {p_phrase(_p(comparison))}{corrected})'


def _outcome(difference: float, p: float | None) -> str:
    """Whether a claim of a positive difference held."""
    if not is_significant(p):
        return OPEN
    return HELD if difference > 0 else REVERSED


def _p(comparison: dict) -> float | None:
    """The p to go by: corrected where the comparison is one of several."""
    return comparison['p'] if comparison['p_holm'] is None else comparison['p_holm']


def _lower_first(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
