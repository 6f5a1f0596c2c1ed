"""The results of a run or a study as tables of texts, each number beside its spread.

The first column names the row; a table without rows is not shown.
"""

import pandas as pd

from mixer_dilated.reports.formatting import (
    NOTHING,
    interval_text,
    optional_text,
    p_text,
    share_text,
    spread_text,
)
from mixer_dilated.reports.intervals import describe, wilson_interval
from mixer_dilated.reports.paper import TABLE1
from mixer_dilated.reports.plots.study_plots import front_marks
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.reports.result_files import Run, Study, Trial
from mixer_dilated.reports.schema import SPLITS

TOLERANCE = 0.05  # parts by which costs that count as equal may differ
# Ways in which trials may cost the same: name, costs, and the text of an amount.
EQUAL = (
    ('tokens and parameters', ('tokens', 'parameters'), '{tokens} tokens, {parameters} parameters'),
    ('FLOPs', ('mflops',), '{mflops:.3g} MFLOPs an image'),
    ('time', ('seconds',), '{seconds:.3g} s an epoch'),
)


def accuracy_table(run: Run) -> pd.DataFrame:
    """Accuracies of a run by seed, and those of their mean."""
    texts, test, results = _run_texts(run), run.accuracy('test'), run.summary['results']
    top5 = [row['test_top5_accuracy'] for row in results if 'test_top5_accuracy' in row]
    examples = run.summary['test_examples']
    table = pd.DataFrame({
        'seed': [str(row['seed']) for row in results],
        'test accuracy': [f'{row["test_accuracy"]:.4f}' for row in results],
        '95 % interval': [
            interval_text(*wilson_interval(row['test_correct'], examples)) for row in results
        ],
        **({'test top-5': [f'{value:.4f}' for value in top5]} if top5 else {}),
        'train accuracy': [f'{row["train_accuracy"]:.4f}' for row in results],
        'test loss': [optional_text(row['test_loss'], '.4f') for row in results],
    })  # fmt: skip
    if len(table) > 1:
        row = texts | {'seed': f'{len(table)} seeds, mean ± std'}
        row['95 % interval'] = interval_text(test['low'], test['high'])
        row |= {'test top-5': spread_text(describe(top5))} if top5 else {}
        table.loc[len(table)] = [row.get(column, NOTHING) for column in table.columns]
    return table


def cost_table(run: Run) -> pd.DataFrame:
    """What a run's network costs."""
    seconds, texts = run.summary['seconds'], _run_texts(run)
    costs = {
        'tokens': run.summary['num_tokens'],
        'pixels that at least one token sees': texts['pixels seen'],
        'parameters': run.summary['num_params'],
        'MFLOPs an image, forward': texts['MFLOPs an image'],
        'an epoch, all seeds together': f'{seconds["epoch_median"]:.2f} s (median)',
        'training': f'{seconds["train"]:.1f} s',
    }
    return pd.DataFrame(costs.items())


def _run_texts(run: Run) -> dict[str, str]:
    """What several tables say of a run."""
    # '3.349 × 4' where evaluation shows an image four times
    times = f' × {run.evaluation_passes}' if run.evaluation_passes > 1 else ''
    parts = [part for part in ('val', 'test', 'train') if f'{part}_accuracy' in run.summary]
    return {
        **{f'{part} accuracy': spread_text(run.accuracy(part)) for part in parts},
        'pixels seen': share_text(run.summary['pixels_seen'], run.summary['pixels']),
        'MFLOPs an image': f'{run.summary["flops_per_image"] / 1e6:.3f}{times}',
    }


def trials_table(study: Study) -> pd.DataFrame:
    """One row a trained trial; those of a sweep are ordered by accuracy, with the Pareto fronts
    that they are on."""
    trials, marks = study.finished, {}
    if study.kind == 'sweep':
        trials, marks = sorted(trials, key=study.mean_accuracy, reverse=True), front_marks(study)
    rows = []
    for trial in trials:
        test, texts = trial.run.accuracy('test'), _run_texts(trial.run)
        rows.append({
            'trial': trial.label,
            'front of accuracy and': marks.get(trial.name),
            'seeds': test['count'],
            'validation accuracy': texts.get('val accuracy'),
            'test accuracy': texts['test accuracy'],
            '95 % interval of the mean': interval_text(test['low'], test['high']),
            'train accuracy': texts['train accuracy'],
            'epoch, one seed on one device (s)': _epoch_text(study, trial),
            'tokens': trial.run.summary['num_tokens'],
            'pixels seen': texts['pixels seen'],
            'MFLOPs an image': texts['MFLOPs an image'],
            'parameters': trial.run.summary['num_params'],
        })  # fmt: skip
    return pd.DataFrame(rows).dropna(axis=1, how='all').fillna(NOTHING)


def _epoch_text(study: Study, trial: Trial) -> str:
    return optional_text(study.epoch_seconds.get(trial.name), '.2f')


def paper_table(study: Study) -> pd.DataFrame:
    """The figures of a study of Table 1 beside the paper's."""
    rows = []
    for trial in study.finished if study.kind == 'table1' else ():
        branches, summary, texts = trial.run.branches, trial.run.summary, _run_texts(trial.run)
        paper = TABLE1.get(branches[0], {}) if len(branches) == 1 else {}
        seconds = summary['seconds']['train'] / len(summary['results'])
        rows.append({
            'trial': trial.label,
            'test accuracy here': texts['test accuracy'],
            'test accuracy in the paper': optional_text(paper.get('test_accuracy'), '.3f'),
            'train accuracy here': texts['train accuracy'],
            'train accuracy in the paper': optional_text(paper.get('train_accuracy'), '.3f'),
            'an epoch here (s)': _epoch_text(study, trial),
            'training here, all seeds divided by their number (s)': f'{seconds:.1f}',
            'training in the paper (s)': optional_text(paper.get('seconds'), '.0f'),
        })  # fmt: skip
    return pd.DataFrame(rows)


def comparisons_table(study: Study) -> pd.DataFrame:
    """Test accuracy of each trial less that of its reference, paired by seed, in points."""
    labels = study.labels
    table = pd.DataFrame(
        {
            'trial': labels.get(name, name),
            'against': labels.get(row['reference'], row['reference']),
            'paired seeds': row['count'],
            'difference (points)': optional_text(100 * row['difference'], '+.2f'),
            '95 % t interval': points_text(row['low'], row['high']),
            '95 % bootstrap interval': points_text(row['bootstrap_low'], row['bootstrap_high']),
            't (paired)': optional_text(row['t'], '+.2f'),
            'p, uncorrected': p_text(row['p']),
            'p, Holm': p_text(row.get('p_holm')),
            'Cohen’s d': optional_text(row['effect_size'], '+.2f'),
            'time, times the other’s': optional_text(row['time_ratio'], '.2f'),
        }
        for name, row in study.comparisons.items()
    )
    if len(table) and (table['p, Holm'] == NOTHING).all():  # none is judged with others
        del table['p, Holm']
    return table


def datasets_table(study: Study) -> pd.DataFrame:
    """Every method over all data sets: mean rank, accuracy on each, and the combined difference."""
    rows, finished = [], {trial.name: trial for trial in study.finished}
    for method, result in study.statistics.get('datasets', {}).items():
        row = {'method': method, 'mean rank': f'{result["mean_rank"]:.4g}'}
        for dataset, name in result['trials'].items():
            if trial := finished.get(name):
                row[f'test accuracy, {dataset}'] = spread_text(trial.run.accuracy('test'))
        combined = result.get('comparison', {})
        if None not in (combined.get('low'), combined.get('high')):
            row |= {
                'against': combined['reference'],
                'difference (points)': optional_text(100 * combined['difference'], '+.2f'),
                '95 % interval': points_text(combined['low'], combined['high']),
                'p': p_text(combined['p']),
                'p, Holm': p_text(combined['p_holm']),
                'spread between data sets': f'{100 * combined["tau"]:.2f}',
            }
        rows.append(row)
    return pd.DataFrame(rows, dtype=object).fillna(NOTHING)


def points_text(low: float | None, high: float | None) -> str:
    """An interval of parts of 1 in percentage points."""
    return NOTHING if low is None else interval_text(100 * low, 100 * high, '+.2f')


def resolution_table(study: Study) -> pd.DataFrame:
    """The measurements at every image side."""
    return pd.DataFrame(
        {
            'trial': row.label,
            'side (pixels)': f'{row.image_size:g}',
            'tokens': f'{row.num_tokens:g}',
            'MFLOPs an image': f'{row.flops_per_image / 1e6:.3f}',
            'training step (ms, median)': f'{1e3 * row.step_seconds:.2f}',
            'its quartiles': interval_text(
                1e3 * row.step_seconds_low, 1e3 * row.step_seconds_high, '.2f'
            ),
            'memory (MiB)': f'{row.memory_bytes / 2**20:.1f}',
            'batch': row.batch,
        }
        for row in study.resolution.itertuples()
    )


def exponents_table(study: Study) -> pd.DataFrame:
    """The powers of the image's side that its costs grow as."""
    return pd.DataFrame(
        {'trial': label} | {QUANTITIES[name].noun: f'{power:.2f}' for name, power in powers.items()}
        for label, powers in study.exponents.items()
    )


def robustness_table(study: Study) -> pd.DataFrame:
    """Accuracy on corrupted test images: a row a corruption and strength, a column a trial."""
    texts, places = study.robustness, ['corruption', 'strength']
    if not texts.empty:
        texts = texts.pivot_table(
            'accuracy', places, 'label', lambda values: spread_text(describe(values)), sort=False
        )
        texts = texts.fillna(NOTHING).reset_index()
        texts['corruption'] += texts.pop('strength').map(' {:g}'.format)
    return texts


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
