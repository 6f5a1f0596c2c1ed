"""Means and proportions with their 95 % intervals; None, never NaN, where there is none."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

# Equal numbers differ by rounding; what is below this part of their size is 0.
_ROUNDING = 8 * np.finfo(np.float64).eps


def describe(values: Sequence[float], scale: float | None = None) -> dict:
    """{count, mean, std, low, high}: sample standard deviation s, mean ± t(0.975, n − 1) · s / √n.

    Of one value std, low and high are None. A mean or std within the rounding of `scale` is 0: the
    size of the numbers that the values are differences of, by default of the values.

    Raises:
      ValueError: no values, or one that is not finite.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
        raise ValueError(f'finite numbers are needed, at least one; got {values!r}')
    count, least = len(sample), _ROUNDING * (np.abs(sample).max() if scale is None else scale)
    mean = low = high = float(sample.mean()) if abs(sample.mean()) > least else 0.0
    if count == 1:
        return {'count': 1, 'mean': mean, **dict.fromkeys(('std', 'low', 'high'))}
    std = float(sample.std(ddof=1))
    if std > least:
        from scipy.stats import t

        low, high = map(float, t.interval(0.95, count - 1, mean, std / count**0.5))
    else:
        std = 0.0
    return {'count': count, 'mean': mean, 'std': std, 'low': low, 'high': high}


def t_interval(values: Sequence[float]) -> np.ndarray:
    """Ends of the 95 % t interval of a mean, as seaborn takes them: NaN where there is none."""
    described = describe(values)
    return np.array([described['low'], described['high']], np.float64)


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion p of n, with z = Φ⁻¹(0.975):

    (p + z² / 2n ± z √(p (1 − p) / n + z² / 4n²)) / (1 + z² / n)
    """
    # Every run prints some, and SciPy's would be imported for it alone.
    z, p = statistics.NormalDist().inv_cdf(0.975), correct / count
    middle = p + z**2 / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + (z / (2 * count)) ** 2)
    low, high = ((middle + sign * half) / (1 + z**2 / count) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)
