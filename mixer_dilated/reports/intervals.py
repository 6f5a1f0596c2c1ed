"""Means and proportions with their 95 % intervals."""

import math
from collections.abc import Sequence

import numpy as np


def describe(values: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation and 95 % t interval of the mean.

    Args:
      values: one number a seed, at least one.

    Returns:
      {count, mean, std, low, high}; of one value std, low and high are NaN.
    """
    count, mean = len(values), float(np.mean(values))
    if count == 1:
        return {'count': 1, 'mean': mean, **dict.fromkeys(('std', 'low', 'high'), math.nan)}
    from scipy.stats import t as student

    std = float(np.std(values, ddof=1))
    half = float(student.ppf(0.975, count - 1)) * std / math.sqrt(count)
    return {'count': count, 'mean': mean, 'std': std, 'low': mean - half, 'high': mean + half}


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the 95 % t interval of a mean, as seaborn takes them for an error band."""
    described = describe(values)
    return described['low'], described['high']


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion."""
    from scipy.stats import binomtest

    interval = binomtest(correct, count).proportion_ci(0.95, method='wilson')
    return float(interval.low), float(interval.high)
