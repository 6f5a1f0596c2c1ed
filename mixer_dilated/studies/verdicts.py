"""What a study found, in sentences that are made from its statistics alone.

A difference is settled where p < 0.05; its sign then says whether a claim held here. Every number
in a sentence is measured, or is the paper's and says so.
"""

import collections
from collections.abc import Sequence

from mixer_dilated.studies.wording import (
    is_settled,
    listing,
    p_text,
    points_text,
    ratio_text,
)
from mixer_dilated.reports.cell_text import count_text, grouped_text
from mixer_dilated.reports.paper import DILATED_4X4, PLAIN_4X4, TABLE1
from mixer_dilated.studies.stats import compare_cells, compare_times, values_by_seed

HELD, REVERSED, OPEN = 'held here', 'did not hold here', 'is not settled here'
# (proposed, baseline) of the paper's Table 1: parts of 1, seconds.
PAPER = {
    measure: (TABLE1[DILATED_4X4][measure], TABLE1[PLAIN_4X4][measure])
    for measure in TABLE1[PLAIN_4X4]
}
_COLUMNS = {'test_accuracy': 'test accuracy', 'train_accuracy': 'train accuracy'}


def table1_verdicts(
    rows: Sequence[dict],
    labels: dict[str, str],
    *,
    baseline: str,
    proposed: str,
    control: str | None = None,
    round_seconds: dict[str, Sequence[float]] | None = None,
) -> list[str]:
    """One sentence for each of the paper's three claims, then one for each further row.

    The claims: dilated patches raise test accuracy, raise train accuracy, take less time.

    Args:
      rows: rows of `results.jsonl`.
      labels: {cell: what a sentence calls it}, of every row of the table in its order.
      baseline: name of the cell with the paper's baseline.
      proposed: name of the cell with the paper's method.
      control: name of a cell that the paper lacks and that is to be held against both.
      round_seconds: {cell: seconds of an epoch in each round}, the cells taking turns within a
        round; without it a claim on time is not settled.
    """
    names = labels[proposed], labels[baseline]
    sentences = [
        _accuracy_claim(names, compare_cells(rows, proposed, baseline, column), column)
        for column in _COLUMNS
    ]
    sentences.append(_time_claim(names, rows, proposed, baseline, round_seconds))
    for cell, label in labels.items():
        if cell not in (baseline, proposed):
            comparison = compare_cells(rows, cell, baseline)
            sentences.append(comparison_sentence(label, labels[baseline], comparison))
    if control is not None:
        against = compare_cells(rows, control, proposed)
        sentence = comparison_sentence(labels[control], labels[proposed], against)
        first, second = (
            next(iter(values_by_seed(rows, cell, 'num_tokens').values()))
            for cell in (control, proposed)
        )
        tokens = (
            f'with as many tokens ({first}) as {labels[proposed]}'
            if first == second
            else f'with {first} tokens where {labels[proposed]} has {second}'
        )
        sentences.append(
            f'A control that the paper lacks is {labels[control]}, {tokens}: '
            f'{_lower_first(sentence)}'
        )
    return sentences


def _accuracy_claim(names: tuple[str, str], comparison: dict, column: str) -> str:
    paper = '{:.3f} against {:.3f}'.format(*PAPER[column])
    return (
        f"The paper's claim that dilated patches raise {_COLUMNS[column]} ({paper} there) "
        f'{_outcome(comparison["difference"], comparison["p"])}: '
        f'{_lower_first(comparison_sentence(*names, comparison, column=column, time=False))}'
    )


def _time_claim(
    names: tuple[str, str],
    rows: Sequence[dict],
    proposed: str,
    baseline: str,
    round_seconds: dict[str, Sequence[float]] | None,
) -> str:
    claim = (
        "The paper's claim that dilated patches take less time ({} s against {} s there) ".format(
            *PAPER['seconds']
        )
    )
    if round_seconds:
        times = compare_times(round_seconds[proposed], round_seconds[baseline], reference=baseline)
        return f'{claim}{_outcome(1 - times["ratio"], times["p"])}: {time_sentence(*names, times)}'
    ratio = compare_cells(rows, proposed, baseline)['time_ratio']
    if ratio is None:
        return f'{claim}{OPEN}: no times were measured.'
    return (
        f'{claim}{OPEN}: an epoch of {names[0]} takes {ratio_text(ratio)[0]} times as long as one '
        f'of {names[1]}, without an interval.'
    )


def comparison_sentence(
    label: str,
    reference_label: str,
    comparison: dict,
    *,
    column: str = 'test_accuracy',
    time: bool = True,
) -> str:
    """How a cell compares with the reference, of one `compare`.

    Args:
      label: what the sentence calls the cell.
      reference_label: what it calls the reference.
      comparison: as `compare` returns it, of accuracies as parts of 1; where it has a p_holm, it
        is that which counts.
      column: 'test_accuracy' or 'train_accuracy'.
      time: whether to say the ratio of times where the comparison has one.
    """
    difference, count = comparison['difference'], comparison['count']
    amount = points_text(
        *(comparison[key] or 0 for key in ('difference', 'low', 'high')), signed=False
    )[0].lstrip('−')
    way = 'higher' if difference > 0 else 'lower'
    accuracy = _COLUMNS[column]
    if not difference:
        found = f'{label} and {reference_label} have the same mean {accuracy}'
    elif is_settled(_p(comparison)) or comparison['low'] is None:
        found = f'{label} is {amount} percentage points {way} in {accuracy} than {reference_label}'
    else:
        found = (
            f'no difference in {accuracy} is settled between {label} and {reference_label}; on '
            f'average {label} is {amount} percentage points {way}'
        )
    over = 'Of one seed' if count == 1 else f'Over {count} paired seeds'
    sentence = f'{over} {found}{_evidence(comparison)}'
    if time and comparison.get('time_ratio') is not None:
        ratio = ratio_text(comparison['time_ratio'])[0]
        sentence += f'; an epoch of {label} takes {ratio} times as long'
    return f'{sentence}.'


def comparisons_summary(comparisons: dict[str, dict]) -> str:
    """How many cells of a study are better, worse or neither than what they are compared with.

    Args:
      comparisons: `comparisons` of `statistics.json`, of test accuracies; at least two.
    """
    found = list(comparisons.values())
    outcomes = collections.Counter(_outcome(one['difference'], _p(one)) for one in found)
    tested = sum(one['p'] is not None for one in found)
    return (
        f'{len(found)} cells are compared with another in test accuracy. More accurate: '
        f'{outcomes[HELD]}; less accurate: {outcomes[REVERSED]}; not settled: {outcomes[OPEN]} '
        f"(settled: p < 0.05 after Holm's correction for {tested} comparisons)."
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
    return f'{sentence} ({rounds}, 95 % interval {low} … {high}, {p_text(times["p"])}).'


def little_data_verdict(
    label: str,
    reference_label: str,
    comparisons: Sequence[tuple[int, dict]],
    claimed: bool,
) -> str:
    """Which sizes of training set settle a difference, and whether a claim of the paper held.

    Args:
      label: what a sentence calls the method.
      reference_label: what it calls the reference.
      comparisons: (training images, `compare` of the test accuracies) of each size, corrected
        together.
      claimed: whether this is the paper's first claim, that dilation helps with little data.

    Returns:
      A sentence. What is said of the claim is the outcome with the fewest images: a gain with many
      is no gain on little data.
    """
    comparisons = sorted(comparisons, key=lambda pair: pair[0])
    sizes = {HELD: [], REVERSED: [], OPEN: []}
    for images, one in comparisons:
        outcome = _outcome(one['difference'], _p(one))
        points = _points_and_interval(one)
        sizes[outcome].append(f'{grouped_text(images)} ({points})')
        if images == comparisons[0][0]:
            of_fewest = outcome
    words = {
        HELD: f'{label} is better than {reference_label} with',
        REVERSED: f'{label} is worse than {reference_label} with',
        OPEN: f'no difference of {label} and {reference_label} is settled with',
    }
    found = '; '.join(
        f'{words[outcome]} {listing(at)} training images' for outcome, at in sizes.items() if at
    )
    sentence = found + _how_settled([one for _, one in comparisons]) + '.'
    if not claimed:
        return sentence[0].upper() + sentence[1:]
    fewest = f', with the fewest training images tried, {grouped_text(comparisons[0][0])}'
    return (
        f"The paper's claim that dilated patches help with little data {of_fewest}"
        f'{fewest if len(comparisons) > 1 else ""}: {sentence}'
    )


def _points_and_interval(comparison: dict) -> str:
    """'+0.40 points, 95 % interval +0.10 … +0.70'; the interval only where there is one."""
    if comparison['low'] is None:
        return f'{points_text(comparison["difference"])[0]} points'
    mean, low, high = points_text(*(comparison[key] for key in ('difference', 'low', 'high')))
    return f'{mean} points; 95 % interval {low} … {high}'


def _how_settled(comparisons: Sequence[dict]) -> str:
    """How a difference of several sizes counts as settled, or that none can."""
    if all(one['count'] == 1 for one in comparisons):
        return ' (one seed, which settles nothing)'
    if len(comparisons) == 1:
        return f' ({p_text(comparisons[0]["p"])})' if comparisons[0]['p'] is not None else ''
    return f" (settled: p < 0.05 after Holm's correction for {len(comparisons)} sizes)"


def _evidence(comparison: dict) -> str:
    """The interval and p in parentheses, as far as there are any."""
    if comparison['count'] == 1:
        return '; one seed settles nothing'
    if comparison['low'] is None:
        return ', by the same in every seed, which gives no interval and settles nothing'
    low, high = points_text(comparison['low'], comparison['high'])
    corrected = '' if comparison['p_holm'] is None else " after Holm's correction"
    return f' (95 % interval {low} … {high} points, {p_text(_p(comparison))}{corrected})'


def _outcome(difference: float, p: float | None) -> str:
    """Whether a claim of a positive difference held."""
    if not is_settled(p):
        return OPEN
    return HELD if difference > 0 else REVERSED


def _p(comparison: dict) -> float | None:
    """The p to go by: corrected where the comparison is one of several."""
    return comparison['p'] if comparison['p_holm'] is None else comparison['p_holm']


def _lower_first(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
