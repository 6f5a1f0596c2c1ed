"""Statistics of a study: means with intervals, comparisons paired by seed, growth exponents.

Everything returned is JSON as it stands: a number that the data cannot give is None, never NaN.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # scipy, statsmodels and pandas are imported where they are needed
    import pandas as pd

# Differences of equal accuracies differ by rounding; below this part of the values they are equal.
_ROUNDING = 8 * np.finfo(np.float64).eps
_SPREAD = (
    'std', 't', 'p', 'p_holm', 'low', 'high', 'bootstrap_low', 'bootstrap_high', 'effect_size',
)  # fmt: skip


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
    mean, std = _mean_and_std(sample, scale=np.abs(sample).max())
    low, high = _t_interval(mean, std, len(sample))
    return {'count': len(sample), 'mean': mean, 'std': std, 'low': low, 'high': high}


def compare(
    trial_values: Sequence[float],
    reference_values: Sequence[float],
    *,
    reference: str,
    time_ratio: float | None = None,
    bootstrap_samples: int = 10_000,
) -> dict:
    """Paired comparison: trial − reference, seed by seed.

    Of the n differences with mean m and sample standard deviation s: Student's t = m / (s / √n)
    with n − 1 degrees of freedom, two-sided p, the interval m ± t(0.975, n − 1) · s / √n, Cohen's
    d = m / s, and the 2.5 and 97.5 percentiles of the mean over bootstrap resamples of the
    differences (with few seeds narrower than the t interval, which is the one to go by). The
    resamples come from a fixed seed: the same data give the same numbers.

    Args:
      trial_values: one number a seed.
      reference_values: the reference's, in the same order of seeds.
      reference: the reference's name.
      time_ratio: seconds of the trial over those of the reference, where measured.
      bootstrap_samples: number of resamples.

    Returns:
      {reference, count, difference, std, t, p, p_holm, low, high, bootstrap_low, bootstrap_high,
      effect_size, time_ratio}; p_holm is None until `correct_together` sets it. One seed gives only
      the difference. Seeds that all differ by the same give no t, p, interval and effect size,
      unless they do not differ at all: p = 1.

    Raises:
      ValueError: no values, one that is not finite, or unequal numbers of values.
    """
    trial, base = _sample(trial_values), _sample(reference_values)
    if len(trial) != len(base):
        raise ValueError(f'{len(trial)} values cannot be paired with {len(base)} of {reference}')
    differences = np.sort(trial - base)
    scale = max(np.abs(trial).max(), np.abs(base).max())
    mean, std = _mean_and_std(differences, scale)
    comparison = {'reference': reference, 'count': len(trial), 'difference': mean}
    comparison |= {**dict.fromkeys(_SPREAD), 'std': std, 'time_ratio': time_ratio}
    if std:
        comparison |= _test_mean(mean, std, differences, bootstrap_samples)
    elif std == 0 and mean == 0:
        comparison |= {**dict.fromkeys(_SPREAD, 0.0), 'p': 1.0, 'p_holm': None}
    return comparison


def _test_mean(mean: float, std: float, differences: np.ndarray, bootstrap_samples: int) -> dict:
    """What `compare` returns of at least two different differences, beyond mean and std."""
    from scipy import stats

    count = len(differences)
    t = mean / (std / math.sqrt(count))
    low, high = _t_interval(mean, std, count)
    bootstrap = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=bootstrap_samples,
        method='percentile',
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return {
        't': t,
        'p': float(2 * stats.t.sf(abs(t), count - 1)),
        'low': low,
        'high': high,
        'bootstrap_low': float(bootstrap.low),
        'bootstrap_high': float(bootstrap.high),
        'effect_size': mean / std,
    }


def _t_interval(mean: float, std: float | None, count: int) -> tuple:
    """Ends of the 95 % interval; of one value, whose std is None, both are None."""
    if not std:
        return (mean, mean) if std == 0 else (None, None)
    from scipy import stats

    low, high = stats.t.interval(0.95, count - 1, mean, std / math.sqrt(count))
    return float(low), float(high)


def compare_times(
    trial_seconds: Sequence[float], reference_seconds: Sequence[float], *, reference: str
) -> dict:
    """How many times as long the trial takes, paired by the round in which both were timed.

    The ratio is the geometric mean of the rounds' ratios; its interval and p are those of
    `compare` on the logarithms of the seconds.

    Args:
      trial_seconds: one positive number a round.
      reference_seconds: the reference's, in the same order of rounds.
      reference: the reference's name.

    Returns:
      {reference, count, ratio, low, high, p}; low, high and p are None where `compare` has none.

    Raises:
      ValueError: as `compare`, or a time that is not positive.
    """
    logs = compare(_log(trial_seconds), _log(reference_seconds), reference=reference)
    ratio, low, high = (
        None if logs[key] is None else math.exp(logs[key]) for key in ('difference', 'low', 'high')
    )
    times = {key: logs[key] for key in ('reference', 'count', 'p')}
    return {**times, 'ratio': ratio, 'low': low, 'high': high}


def compare_trials(
    table: 'pd.DataFrame', trial: str, reference: str, column: str = 'test_accuracy'
) -> dict:
    """`compare` of one column of two trials of a study, paired by the seeds' numbers.

    Args:
      table: rows of `results.jsonl`: each has cell (the trial), seed, the column, and
        epoch_seconds, whose medians give time_ratio where they were measured.
      trial: the trial's name.
      reference: the reference's name.
      column: 'test_accuracy', 'train_accuracy', …

    Raises:
      ValueError: the two were not run with the same seeds, or not at all.
    """
    rows, base = (
        table[table['cell'] == name].set_index('seed').sort_index() for name in (trial, reference)
    )
    if not rows.index.equals(base.index):
        raise ValueError(f'{trial} has seeds {[*rows.index]}, {reference} has {[*base.index]}')
    ratio = rows['epoch_seconds'].median() / base['epoch_seconds'].median()
    return compare(
        rows[column],
        base[column],
        reference=reference,
        time_ratio=None if math.isnan(ratio) else float(ratio),
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for being several (Holm 1979): all below 0.05 hold together.

    Of m p values in ascending order the k-th becomes max over j ≤ k of min(1, (m − j + 1) · p_j).
    A None stays one and does not count.
    """
    from statsmodels.stats.multitest import multipletests

    tested = [p for p in p_values if p is not None]
    adjusted = iter(multipletests(tested, method='holm')[1] if tested else ())
    return [None if p is None else float(next(adjusted)) for p in p_values]


def correct_together(comparisons: Sequence[dict]) -> None:
    """Sets 'p_holm' of comparisons that are judged together, where they are several, by `holm`."""
    if len(comparisons) > 1:
        adjusted = holm([comparison['p'] for comparison in comparisons])
        for comparison, p in zip(comparisons, adjusted, strict=True):
            comparison['p_holm'] = p


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> dict:
    """Least squares of log y = log a + b · log x: the exponent b of y ≈ a · x^b.

    Args:
      x: positive numbers, at least two of them different.
      y: positive numbers, as many.

    Returns:
      {exponent, standard_error, factor}: b, its standard error (None for two points) and a.

    Raises:
      ValueError: unequal numbers, one that is not positive, or fewer than two different x.
    """
    from statsmodels.regression.linear_model import OLS
    from statsmodels.tools import add_constant

    log_x, log_y = _log(x), _log(y)
    if len(log_x) != len(log_y) or len(np.unique(log_x)) < 2:
        raise ValueError('an exponent needs two different x and as many y')
    fit = OLS(log_y, add_constant(log_x)).fit()
    intercept, exponent = map(float, fit.params)
    error = float(fit.bse[1]) if len(log_x) > 2 else None
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


def _mean_and_std(sample: np.ndarray, scale: float) -> tuple[float, float | None]:
    """Of one value std is None; what is no more than the rounding of `scale` is 0."""
    mean, std = sample.mean(), sample.std(ddof=1) if len(sample) > 1 else 0.0
    mean, std = (float(value) if abs(value) > _ROUNDING * scale else 0.0 for value in (mean, std))
    return mean, std if len(sample) > 1 else None
