"""One result over several data sets: mean ranks, and paired differences combined.

The setting called 'dataset' says which data set a trial is of; trials that agree in all other
settings are one method.
"""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from mixer_dilated.studies.sweep import Trial, settings_text

DATASET = 'dataset'


def method_text(settings: Mapping[str, object]) -> str:
    """What a trial's settings are on every data set: 'dilated 4×4', 'size 4, dilation 2'."""
    return settings_text({name: value for name, value in settings.items() if name != DATASET})


def over_datasets(
    trials: Sequence[Trial], accuracies: Mapping[str, float], comparisons: Mapping[str, dict]
) -> dict[str, dict]:
    """Each method that is trained on all data sets of a study; {} of a study of one.

    Args:
      trials: of the study, with their names.
      accuracies: {trial: mean over its seeds}.
      comparisons: {trial: its paired comparison with the reference of its data set}.

    Returns:
      {method: {trials: {data set: trial}, mean_rank, and, where it is compared on all of them,
      reference and what `combine` returns}}, the lowest mean rank first. Rank 1 on a data set is
      the most accurate; equal accuracies share the mean of their ranks.
    """
    from scipy import stats

    names = collections.defaultdict(dict)  # {method: {data set: trial}}
    labels = {trial.name: method_text(trial.settings) for trial in trials}
    for trial in trials:
        if DATASET in trial.settings and trial.name in accuracies:
            names[labels[trial.name]][trial.settings[DATASET]] = trial.name
    datasets = list(dict.fromkeys(dataset for of_method in names.values() for dataset in of_method))
    whole = {method: of for method, of in names.items() if len(of) == len(datasets)}
    if len(datasets) < 2 or not whole:
        return {}
    ranks = np.mean(
        [
            stats.rankdata([-accuracies[of_method[dataset]] for of_method in whole.values()])
            for dataset in datasets
        ],
        axis=0,
    )
    results = {}
    for k in np.argsort(ranks, kind='stable'):
        method, of_method = [*whole.items()][k]
        trials_of = {str(dataset): name for dataset, name in of_method.items()}
        results[method] = {'trials': trials_of, 'mean_rank': float(ranks[k])}
        rows = [comparisons[name] for name in of_method.values() if name in comparisons]
        if len(rows) == len(datasets):
            results[method]['reference'] = labels[rows[0]['reference']]
            results[method] |= combine(rows)
    return results


def combine(comparisons: Sequence[dict]) -> dict[str, float | None]:
    """A random-effects mean of paired differences, one a data set.

    Each is weighted with 1 / (s²/n + τ²), of s the standard deviation over its n seeds and τ that
    between data sets, by Paule and Mandel's method (DerSimonian and Kacker 2007, eq. 8). The
    interval is the normal one; it holds for data sets like these as far as so few can stand for
    others.

    Returns:
      {difference, low, high, p, tau}; all are None where a comparison has one seed, or seeds that
      do not differ.
    """
    from scipy import stats
    from statsmodels.stats.meta_analysis import combine_effects

    keys = 'difference', 'low', 'high', 'p', 'tau'
    if not all(row['std'] for row in comparisons):
        return dict.fromkeys(keys)
    effects = np.array([row['difference'] for row in comparisons])
    variances = np.array([row['std'] ** 2 / row['count'] for row in comparisons])
    combined = combine_effects(effects, variances, method_re='pm')
    mean, error = combined.mean_effect_re, combined.sd_eff_w_re
    p, tau = 2 * stats.norm.sf(abs(mean) / error), np.sqrt(combined.tau2)
    low, high = mean + stats.norm.ppf([0.025, 0.975]) * error
    return dict(zip(keys, map(float, (mean, low, high, p, tau)), strict=True))
