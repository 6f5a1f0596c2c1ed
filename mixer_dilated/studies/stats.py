"""Statistics of a study: comparisons paired by seed or round, corrections, growth exponents.

Everything returned is JSON as it stands: a number that the data cannot give is None, never NaN.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mixer_dilated.reports.intervals import describe

if TYPE_CHECKING:  # scipy, statsmodels and pandas are imported where they are needed
    import pandas as pd

_TESTED = ('t', 'p', 'p_holm', 'low', 'high', 'bootstrap_low', 'bootstrap_high', 'effect_size')


def compare(
    trial_values: Sequence[float], reference_values: Sequence[float], *, reference: str
) -> dict:
    """Paired comparison: trial − reference, seed by seed.

    Of the n differences with mean m and sample standard deviation s: Student's t = m / (s / √n)
    with n − 1 degrees of freedom, two-sided p, the interval m ± t(0.975, n − 1) · s / √n, Cohen's
    d = m / s, and the 2.5 and 97.5 percentiles of the mean over 10 000 bootstrap resamples of the
    differences (with few seeds narrower than the t interval, which is the one to go by). The
    resamples come from a fixed seed: the same data give the same numbers. The values are in the
    same order of seeds, `reference` is what the reference is called.

    Returns:
      {reference, count, difference, std, t, p, p_holm, low, high, bootstrap_low, bootstrap_high,
      effect_size, time_ratio}; p_holm is None until `correct_together` sets it, time_ratio is left
      to `compare_trials`. One seed gives only the difference. Seeds that all differ by the same
      give no t, p, interval and effect size, unless they do not differ at all: p = 1.

    Raises:
      ValueError: no values, one that is not finite, or unequal numbers of values.
    """
    if len(trial_values) != len(reference_values):
        counts = f'{len(trial_values)} values cannot be paired with {len(reference_values)}'
        raise ValueError(f'{counts} of {reference}')
    trial, base = pairs = np.array([trial_values, reference_values], np.float64)
    differences = np.sort(trial - base)
    described = describe(differences, np.abs(pairs).max())
    mean, std, count = (described[key] for key in ('mean', 'std', 'count'))
    comparison = {'reference': reference, 'count': count, 'difference': mean, 'std': std}
    comparison |= {**dict.fromkeys(_TESTED), 'time_ratio': None}
    if std:
        from scipy import stats

        t = mean / (std / math.sqrt(count))
        draw = {'n_resamples': 10_000, 'random_state': np.random.default_rng(0)}
        bootstrap = stats.bootstrap((differences,), np.mean, method='percentile', **draw)
        low, high = map(float, bootstrap.confidence_interval)
        comparison |= {'t': t, 'p': float(2 * stats.t.sf(abs(t), count - 1))}
        comparison |= {'low': described['low'], 'high': described['high']}
        comparison |= {'bootstrap_low': low, 'bootstrap_high': high, 'effect_size': mean / std}
    elif std == 0 and mean == 0:
        comparison |= {**dict.fromkeys(_TESTED, 0.0), 'p': 1.0, 'p_holm': None}
    return comparison


def compare_times(trial_seconds: Sequence[float], reference_seconds: Sequence[float]) -> dict:
    """How many times as long the trial takes, paired by the round in which both were timed.

    The ratio is the geometric mean of the rounds' ratios; its interval and p are those of
    `compare` on the logarithms of the seconds. Raises ValueError as `compare`, or for a time that
    is not positive.

    Returns:
      {count, p, ratio, low, high}; low, high and p are None where `compare` has none.
    """
    logs = compare(_log(trial_seconds), _log(reference_seconds), reference='')
    ratio, low, high = (
        None if logs[key] is None else math.exp(logs[key]) for key in ('difference', 'low', 'high')
    )
    return {'count': logs['count'], 'p': logs['p'], 'ratio': ratio, 'low': low, 'high': high}


def compare_trials(
    table: 'pd.DataFrame',
    trial: str,
    reference: str,
    column: str = 'test_accuracy',
    seconds: Mapping[str, Sequence[float]] | None = None,
) -> dict:
    """`compare` of one column of two trials of a study, paired by the seeds' numbers.

    The table has the rows of `results.jsonl`. `seconds`, {trial: seconds of an epoch in each
    round}, give time_ratio for two that took turns. Raises ValueError: the two were not run with
    the same seeds, or not at all.
    """
    rows, base = (
        table[table['cell'] == name].set_index('seed').sort_index() for name in (trial, reference)
    )
    if not rows.index.equals(base.index):
        raise ValueError(f'{trial} has seeds {[*rows.index]}, {reference} has {[*base.index]}')
    comparison = compare(rows[column], base[column], reference=reference)
    times, base_times = ((seconds or {}).get(name, ()) for name in (trial, reference))
    if times and len(times) == len(base_times):
        comparison['time_ratio'] = compare_times(times, base_times)['ratio']
    return comparison


def correct_together(comparisons: Sequence[dict]) -> None:
    """Sets 'p_holm' of comparisons that are judged together, where they are several.

    All that are then below 0.05 hold together (Holm 1979). Those without a p do not count.
    """
    if len(comparisons) < 2:
        return
    from statsmodels.stats.multitest import multipletests

    tested = [row for row in comparisons if row['p'] is not None]
    adjusted = multipletests([row['p'] for row in tested], method='holm')[1] if tested else ()
    for row, p in zip(tested, adjusted, strict=True):
        row['p_holm'] = float(p)


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> dict:
    """Least squares of log y = log a + b · log x: the exponent b of y ≈ a · x^b.

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


def _log(values: Sequence[float]) -> np.ndarray:
    sample = np.asarray(values, np.float64)
    if not (sample > 0).all():
        raise ValueError(f'positive numbers are needed; got {values!r}')
    return np.log(sample)
