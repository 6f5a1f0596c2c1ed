"""Statistics of a study: means with intervals, comparisons paired by seed, growth exponents.

Everything returned is JSON as it stands: a number that the data cannot give is None, never NaN.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

# Differences of equal accuracies differ by rounding; below this part of the values they are equal.
_ROUNDING = 8 * np.finfo(np.float64).eps


def describe(values: Sequence[float]) -> dict:
    """Mean, sample standard deviation and 95 % t interval of the mean.

    With n values, s² = Σ (x − mean)² / (n − 1); the interval is mean ± t(0.975, n − 1) · s / √n.

    Args:
      values: one number a seed, at least one.

    Returns:
      {count, mean, std, low, high}; of one value std, low and high are None.

    Raises:
      ValueError: no values, or one that is not finite.
    """
    sample = _sample(values)
    mean = float(sample.mean())
    if len(sample) == 1:
        return {'count': 1, 'mean': mean, 'std': None, 'low': None, 'high': None}
    std = _std(sample, scale=np.abs(sample).max())
    half = _t_quantile(len(sample)) * std / math.sqrt(len(sample))
    return {
        'count': len(sample),
        'mean': mean,
        'std': std,
        'low': mean - half,
        'high': mean + half,
    }


def compare(
    cell_values: Sequence[float],
    reference_values: Sequence[float],
    *,
    reference: str,
    time_ratio: float | None = None,
    bootstrap_samples: int = 10_000,
) -> dict:
    """Paired comparison: cell − reference, seed by seed.

    Of the n differences with mean m and sample standard deviation s: Student's t = m / (s / √n)
    with n − 1 degrees of freedom, two-sided p, the interval m ± t(0.975, n − 1) · s / √n, Cohen's
    d = m / s, and the 2.5 and 97.5 percentiles of the mean over bootstrap resamples of the
    differences (with few seeds narrower than the t interval, which is the one to go by). The
    resamples come from a fixed seed: the same data give the same numbers.

    Args:
      cell_values: one number a seed.
      reference_values: the reference's, in the same order of seeds.
      reference: the reference's name.
      time_ratio: seconds of the cell over those of the reference, where measured.
      bootstrap_samples: number of resamples.

    Returns:
      {reference, count, difference, std, t, p, p_holm, low, high, bootstrap_low, bootstrap_high,
      effect_size, time_ratio}; p_holm is None until `correct_together` sets it. One seed gives only
      the difference. Seeds that all differ by the
      same give no t, p, interval and effect size, unless they do not differ at all: p = 1.

    Raises:
      ValueError: no values, one that is not finite, or unequal numbers of values.
    """
    cell, base = _sample(cell_values), _sample(reference_values)
    if len(cell) != len(base):
        raise ValueError(f'{len(cell)} values cannot be paired with {len(base)} of {reference}')
    scale = max(np.abs(cell).max(), np.abs(base).max())
    differences = np.sort(cell - base)
    difference = _without_rounding(float(differences.mean()), scale)
    result = {'reference': reference, 'count': len(cell), 'difference': difference}
    result |= dict.fromkeys(
        ('std', 't', 'p', 'p_holm', 'low', 'high', 'bootstrap_low', 'bootstrap_high', 'effect_size')
    )
    if len(cell) > 1:
        std = _std(differences, scale=scale)
        result |= _spread_of(differences, difference, std, bootstrap_samples)
    return result | {'time_ratio': time_ratio}


def _spread_of(
    differences: np.ndarray, difference: float, std: float, bootstrap_samples: int
) -> dict:
    """What `compare` says beyond the mean, of at least two differences."""
    from scipy.stats import t as student

    if std == 0.0:
        if difference:
            return {'std': 0.0}
        zeros = ('std', 't', 'low', 'high', 'bootstrap_low', 'bootstrap_high', 'effect_size')
        return dict.fromkeys(zeros, 0.0) | {'p': 1.0}
    count = len(differences)
    error = std / math.sqrt(count)
    half = _t_quantile(count) * error
    resamples = np.random.default_rng(0).integers(0, count, (bootstrap_samples, count))
    low, high = np.percentile(differences[resamples].mean(axis=1), (2.5, 97.5))
    return {
        'std': std,
        't': difference / error,
        'p': float(2 * student.sf(abs(difference / error), count - 1)),
        'low': difference - half,
        'high': difference + half,
        'bootstrap_low': float(low),
        'bootstrap_high': float(high),
        'effect_size': difference / std,
    }


def compare_times(
    cell_seconds: Sequence[float], reference_seconds: Sequence[float], *, reference: str
) -> dict:
    """How many times as long the cell takes, paired by the round in which both were timed.

    The ratio is the geometric mean of the rounds' ratios; its interval and p are those of
    `compare` on the logarithms of the seconds.

    Args:
      cell_seconds: one positive number a round.
      reference_seconds: the reference's, in the same order of rounds.
      reference: the reference's name.

    Returns:
      {reference, count, ratio, low, high, p}; low, high and p are None where `compare` has none.

    Raises:
      ValueError: as `compare`, or a time that is not positive.
    """
    logs = compare(_log(cell_seconds), _log(reference_seconds), reference=reference)
    low, high = (None if logs[end] is None else math.exp(logs[end]) for end in ('low', 'high'))
    return {
        'reference': reference,
        'count': logs['count'],
        'ratio': math.exp(logs['difference']),
        'low': low,
        'high': high,
        'p': logs['p'],
    }


def compare_cells(
    rows: Iterable[dict], cell: str, reference: str, column: str = 'test_accuracy'
) -> dict:
    """`compare` of one column of two cells of a study, paired by the seeds' numbers.

    Args:
      rows: rows of `results.jsonl`: each has cell, seed, impossible, the column, and may have
        epoch_seconds, whose medians give time_ratio.
      cell: the cell's name.
      reference: the reference's name.
      column: 'test_accuracy', 'train_accuracy', …

    Raises:
      ValueError: the two were not run with the same seeds, or not at all.
    """
    rows = list(rows)
    values, base = (values_by_seed(rows, name, column) for name in (cell, reference))
    if values.keys() != base.keys():
        raise ValueError(f'{cell} has seeds {list(values)}, {reference} has {list(base)}')
    seconds = _median_seconds(rows, cell), _median_seconds(rows, reference)
    ratio = None if None in seconds else seconds[0] / seconds[1]
    return compare(
        list(values.values()), list(base.values()), reference=reference, time_ratio=ratio
    )


def values_by_seed(rows: Iterable[dict], cell: str, column: str) -> dict[int, float]:
    """{seed: value} of one column of a cell, in the order of seeds; impossible rows have none."""
    found = {
        row['seed']: row[column]
        for row in rows
        if row['cell'] == cell and not row.get('impossible')
    }
    return dict(sorted(found.items()))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for being several (Holm 1979): all below 0.05 hold together.

    Of m p values in ascending order the k-th becomes max over j ≤ k of min(1, (m − j + 1) · p_j).
    A None stays one and does not count.
    """
    order = sorted(
        (index for index, p in enumerate(p_values) if p is not None), key=p_values.__getitem__
    )
    adjusted, largest = [None] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def correct_together(comparisons: Sequence[dict]) -> None:
    """Sets 'p_holm' of comparisons that are judged together, where they are several, by `holm`."""
    if len(comparisons) > 1:
        adjusted = holm([one['p'] for one in comparisons])
        for one, p in zip(comparisons, adjusted, strict=True):
            one['p_holm'] = p


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> dict:
    """Least squares of log y = log a + b · log x: the exponent b of y ≈ a · x^b.

    b = Σ (log x − mean)(log y − mean) / Σ (log x − mean)², and its standard error is
    √(Σ residual² / (n − 2) / Σ (log x − mean)²).

    Args:
      x: positive numbers, at least two of them different.
      y: positive numbers, as many.

    Returns:
      {exponent, standard_error, factor}: b, its standard error (None for two points) and a.

    Raises:
      ValueError: unequal numbers, one that is not positive, or fewer than two different x.
    """
    log_x, log_y = _log(x), _log(y)
    if len(log_x) != len(log_y) or len(np.unique(log_x)) < 2:
        raise ValueError('an exponent needs two different x and as many y')
    centred = log_x - log_x.mean()
    squares = float(centred @ centred)
    exponent = float(centred @ log_y) / squares
    intercept = float(log_y.mean() - exponent * log_x.mean())
    residuals = log_y - intercept - exponent * log_x
    error = None
    if len(log_x) > 2:
        error = math.sqrt(float(residuals @ residuals) / (len(log_x) - 2) / squares)
    return {'exponent': exponent, 'standard_error': error, 'factor': math.exp(intercept)}


def _sample(values: Sequence[float]) -> np.ndarray:
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
        raise ValueError(f'finite numbers are needed, at least one; got {values!r}')
    return sample


def _log(values: Sequence[float]) -> np.ndarray:
    sample = _sample(values)
    if (sample <= 0).any():
        raise ValueError(f'positive numbers are needed; got {values!r}')
    return np.log(sample)


def _std(sample: np.ndarray, scale: float) -> float:
    return _without_rounding(float(sample.std(ddof=1)), scale)


def _without_rounding(value: float, scale: float) -> float:
    """0 where `value` is no more than the rounding of numbers as large as `scale`."""
    return value if abs(value) > _ROUNDING * scale else 0.0


def _t_quantile(count: int) -> float:
    from scipy.stats import t as student

    return float(student.ppf(0.975, count - 1))


def _median_seconds(rows: list[dict], cell: str) -> float | None:
    seconds = [
        row['epoch_seconds']
        for row in rows
        if row['cell'] == cell and row.get('epoch_seconds') is not None
    ]
    return float(np.median(seconds)) if seconds else None
