"""What is most accurate at equal cost: equal tokens and parameters, FLOPs, or time."""

import pandas as pd

from mixer_dilated.reports.formatting import NOTHING, optional_text, p_text, spread_text
from mixer_dilated.reports.intervals import describe
from mixer_dilated.reports.page.result_tables import points_text
from mixer_dilated.reports.plots.study_plots import SPLITS
from mixer_dilated.reports.result_files import Study, Trial

TOLERANCE = 0.05
# Ways in which trials may cost the same: name, costs, and the text of an amount.
EQUAL = (
    ('tokens and parameters', ('tokens', 'parameters'), '{tokens} tokens, {parameters} parameters'),
    ('FLOPs', ('mflops',), '{mflops:.3g} MFLOPs an image'),
    ('time', ('seconds',), '{seconds:.3g} s an epoch'),
)


def equal_cost_table(study: Study) -> pd.DataFrame:
    """Of the trials of a sweep that cost the same, in each way to count, the most accurate two."""
    rows = []
    for dataset, part in study.datasets.items() if study.kind == 'sweep' else ():
        ways = EQUAL[:-1] if study.content.get('train_seconds') else EQUAL  # of equal time
        for equal, costs, form in ways:
            for group in _groups(part, costs):
                trials = [row['trial'] for row in group]
                best, second = sorted(trials, key=part.mean_accuracy, reverse=True)[:2]
                rows.append({
                    'equal in': f'{equal}, {dataset}' if dataset else equal,
                    'from': form.format(**group[0]),
                    'trials': len(trials),
                    'the most accurate': best.label,
                    f'{SPLITS[part.split]} accuracy': spread_text(best.run.accuracy(part.split)),
                    'the next': second.label,
                    'its accuracy': spread_text(second.run.accuracy(part.split)),
                    **_difference(best, second, part.split),
                })  # fmt: skip
    return pd.DataFrame(rows).fillna(NOTHING)


def _difference(best: Trial, second: Trial, split: str) -> dict[str, str]:
    """How much more accurate the best trial is, paired by seed."""
    of_best, of_second = (
        {result['seed']: result[f'{split}_accuracy'] for result in trial.run.summary['results']}
        for trial in (best, second)
    )
    if of_best.keys() != of_second.keys():
        return {}
    difference = describe([of_best[seed] - of_second[seed] for seed in of_best], 1)
    p = None
    if difference['std']:
        from scipy import stats

        p = stats.ttest_rel([*of_best.values()], [of_second[seed] for seed in of_best]).pvalue
    return {
        'difference (points)': optional_text(100 * difference['mean'], '+.2f'),
        '95 % interval': points_text(difference['low'], difference['high']),
        'p, uncorrected': p_text(p),
    }


def _groups(study: Study, costs: tuple[str, ...]) -> list[list[dict]]:
    """Groups of two trials or more, each with its costs, that are equal in these costs."""
    rows = [
        {
            'trial': trial,
            'tokens': trial.run.summary['num_tokens'],
            'parameters': trial.run.summary['num_params'],
            'mflops': trial.run.evaluation_mflops,
            'seconds': study.epoch_seconds.get(trial.name),
        }
        for trial in study.finished
    ]
    groups = [[row for row in rows if all(row[cost] for cost in costs)]]
    for cost in costs:
        groups = [part for group in groups for part in _split(group, cost)]
    return [group for group in groups if len(group) > 1]


def _split(rows: list[dict], cost: str) -> list[list[dict]]:
    """The rows from the cheapest; a new group starts where one costs too much for the last."""
    groups = []
    for row in sorted(rows, key=lambda row: row[cost]):
        if not groups or row[cost] > (1 + TOLERANCE) * groups[-1][0][cost]:
            groups.append([])
        groups[-1].append(row)
    return groups
