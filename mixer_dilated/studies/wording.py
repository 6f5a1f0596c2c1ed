"""Numbers as a sentence has them: points with a sign, p values, lists of names."""

from collections.abc import Sequence

from mixer_dilated.reports.formatting import optional_text

LEVEL = 0.05


def is_significant(p: float | None) -> bool:
    """Whether a difference with this p value is significant."""
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


def listing(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return ' and '.join([', '.join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _decimals(values: Sequence[float], marks: Sequence[int]) -> int:
    """How many, from 2 to 6, no value that is none of the marks is rounded to one."""
    others = [value for value in values if value not in marks]
    enough = (n for n in range(2, 6) if not any(round(value, n) in marks for value in others))
    return next(enough, 6)
