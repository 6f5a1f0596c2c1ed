"""One result over several data sets: mean ranks, and paired differences combined.

The setting called 'dataset' says which data set a trial is of; trials that agree in all other
settings are one method.
"""

import collections
import math
from collections.abc import Mapping, Sequence

import numpy as np

from mixer_dilated.studies.stats import correct_together
from mixer_dilated.studies.sweep import DATASET, Trial, settings_text


def method_text(settings: Mapping[str, object]) -> str:
    """What a trial's settings are on every data set: 'dilated 4×4', 'size 4, dilation 2'."""
    return settings_text({name: value for name, value in settings.items() if name != DATASET})


def dataset_text(settings: Mapping[str, object]) -> str:
    """Which data set a trial is of; '' in a study of one."""
    return str(settings.get(DATASET, ''))


def group_by_method(trials: Sequence[Trial]) -> dict[str, dict[str, str]]:
    """{method: {data set: name of its trial}}, of the methods that have a trial on every one."""
    methods = collections.defaultdict(dict)
    for trial in trials:
        methods[method_text(trial.settings)][dataset_text(trial.settings)] = trial.name
    datasets = {dataset for of_method in methods.values() for dataset in of_method}
    return {method: names for method, names in methods.items() if len(names) == len(datasets)}


def mean_ranks(
    methods: Mapping[str, Mapping[str, str]], accuracies: Mapping[str, float]
) -> dict[str, float]:
    """{method: mean over the data sets of its rank in accuracy}, the lowest first.

    Rank 1 is the most accurate; equal accuracies share the mean of their ranks. Methods are as
    `group_by_method` has them; one without an accuracy on every data set has no rank.
    """
    import pandas as pd

    by_dataset = {
        method: {dataset: accuracies[name] for dataset, name in names.items()}
        for method, names in methods.items()
        if accuracies.keys() >= {*names.values()}
    }
    ranks = pd.DataFrame(by_dataset).rank(axis=1, ascending=False).mean()
    return ranks.sort_values(kind='stable').to_dict()


def over_datasets(
    trials: Sequence[Trial], accuracies: Mapping[str, float], comparisons: Mapping[str, dict]
) -> dict[str, dict]:
    """Each method that is trained on all data sets of a study; {} of a study of one.

    Args:
      trials: of the study, with their names.
      accuracies: {trial: mean over its seeds}, by which methods are ranked.
      comparisons: {trial: its paired comparison with the reference of its data set}.

    Returns:
      {method: {trials: {data set: trial}, mean_rank, and, where it is compared on all of them,
      comparison: {reference, and what `combine` returns, p corrected for all methods}}}, the
      lowest mean rank first.
    """
    methods = group_by_method([trial for trial in trials if trial.name in accuracies])
    results, labels = {}, {trial.name: method_text(trial.settings) for trial in trials}
    for method, rank in mean_ranks(methods, accuracies).items():
        names = methods[method]
        if len(names) < 2:
            return {}
        results[method] = {'trials': names, 'mean_rank': rank}
        rows = [comparisons[name] for name in names.values() if name in comparisons]
        references = {labels[row['reference']] for row in rows}
        if len(rows) == len(names) and len(references) == 1:
            results[method]['comparison'] = {'reference': references.pop(), **combine(rows)}
    correct_together(
        [result['comparison'] for result in results.values() if 'comparison' in result]
    )
    return results


def combine(comparisons: Sequence[dict]) -> dict[str, float | None]:
    """A random-effects mean of paired differences, one a data set.

    Each is weighted with 1 / (s²/n + τ²), of s the standard deviation over its n seeds and τ that
    between data sets, by Paule and Mandel's method (DerSimonian and Kacker 2007, eq. 8). The
    standard error is the larger of Hartung and Knapp's and that of the weights, and the interval
    and p are those of Student's t with one degree of freedom less than there are data sets: two
    data sets say little of others.

    Returns:
      {difference, low, high, p, p_holm, tau}, p_holm for `correct_together`; all are None where a
      comparison has one seed, or seeds that do not differ.
    """
    from scipy import stats
    from statsmodels.stats.meta_analysis import combine_effects

    keys = 'difference', 'low', 'high', 'p', 'p_holm', 'tau'
    if not all(row['std'] for row in comparisons):
        return dict.fromkeys(keys)
    effects = np.array([row['difference'] for row in comparisons])
    variances = np.array([row['std'] ** 2 / row['count'] for row in comparisons])
    combined = combine_effects(effects, variances, method_re='pm')
    mean, degrees = combined.mean_effect_re, len(comparisons) - 1
    error = max(combined.sd_eff_w_re, math.sqrt(combined.var_hksj_re))
    p = 2 * stats.t.sf(abs(mean) / error, degrees)
    low, high = mean + stats.t.ppf([0.025, 0.975], degrees) * error
    row = dict(zip(keys, map(float, (mean, low, high, p, 0, combined.tau2**0.5)), strict=True))
    return row | {'p_holm': None}
