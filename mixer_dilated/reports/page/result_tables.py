"""The results of a run or a study as tables, each number beside its spread."""

from typing import NamedTuple

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
from mixer_dilated.reports.plots.study_plots import SPLITS, front_marks
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.reports.result_files import Run, Study, Trial

MAX_ROWS = 12


class PageTable(NamedTuple):
    """A table of a page, which does not show an empty one: text only, whatever it holds."""

    title: str
    texts: pd.DataFrame  # the first column names the row
    numbers: bool = True  # in the columns after the first, which are set to the right
    folded: bool = False  # the page shows it only when asked
    headed: bool = True  # it has a line of column names

    def __bool__(self) -> bool:
        return not self.texts.empty


def run_tables(run: Run) -> list[PageTable]:
    """Accuracies of a run by seed, and what its network costs."""
    summary, texts, test = run.summary, _run_texts(run), run.accuracy('test')
    examples, results = summary['test_examples'], pd.DataFrame(summary['results'])
    intervals = [interval_text(*wilson_interval(c, examples)) for c in results.test_correct]
    table = pd.DataFrame({
        'seed': results.seed.astype(object),
        'test accuracy': results.test_accuracy.map('{:.4f}'.format),
        '95 % interval': intervals,
        **_top5_column(results),
        'train accuracy': results.train_accuracy.map('{:.4f}'.format),
        'test loss': [optional_text(result['test_loss'], '.4f') for result in summary['results']],
    })  # fmt: skip
    if len(table) > 1:
        interval = interval_text(test['low'], test['high'])
        row = {'seed': f'{len(table)} seeds, mean ± std', '95 % interval': interval}
        row |= {f'{part} accuracy': texts[f'{part} accuracy'] for part in ('test', 'train')}
        if 'test_top5_accuracy' in results:
            row['test top-5'] = spread_text(describe(results.test_top5_accuracy))
        table.loc[len(table)] = [row.get(column, NOTHING) for column in table.columns]
    costs = {
        'tokens': summary['num_tokens'],
        'pixels that at least one token sees': texts['pixels seen'],
        'parameters': summary['num_params'],
        'MFLOPs an image, forward': texts['MFLOPs an image'],
        'an epoch, all seeds together': f'{summary["seconds"]["epoch_median"]:.2f} s (median)',
        'training': f'{summary["seconds"]["train"]:.1f} s',
    }
    title = f'Accuracy on {examples} test images, with Wilson intervals over the images'
    title += '; that of the mean is a t interval' * (len(table) > 1)
    return [
        PageTable(title, table),
        PageTable('What the network costs', pd.DataFrame(costs.items()), headed=False),
    ]


def _top5_column(results: pd.DataFrame) -> dict[str, pd.Series]:
    """Of more than ten classes; else nothing."""
    if 'test_top5_accuracy' not in results:
        return {}
    return {'test top-5': results.test_top5_accuracy.map('{:.4f}'.format)}


def _run_texts(run: Run) -> dict[str, str]:
    """What several tables say of a run."""
    # '3.349 × 4' where evaluation shows an image four times
    times = f' × {run.evaluation_passes}' if run.evaluation_passes > 1 else ''
    val = run.epoch_split == 'val'
    return {
        **({'validation accuracy': spread_text(run.accuracy('val'))} if val else {}),
        'test accuracy': spread_text(run.accuracy('test')),
        'train accuracy': spread_text(run.accuracy('train')),
        'pixels seen': share_text(run.summary['pixels_seen'], run.summary['pixels']),
        'MFLOPs an image': f'{run.summary["flops_per_image"] / 1e6:.3f}{times}',
    }


def trials_tables(study: Study, dataset: str = '') -> list[PageTable]:
    """One row a trained trial; of very many trials the best first, all of them folded away.

    Those of a sweep are ordered by accuracy, with the Pareto fronts that they are on.
    """
    title, trials, marks = 'Mean over seeds ± standard deviation', study.finished, {}
    title += f' on {dataset}' if dataset else ''
    if study.kind == 'sweep':
        title, marks = f'{title}, the most accurate first', front_marks(study)
        title += f'; {study.mixed_splits}' if study.mixed_splits else ''
        trials = sorted(trials, key=study.mean_accuracy, reverse=True)
    table = pd.DataFrame([_trial_row(study, trial, marks) for trial in trials]).fillna(NOTHING)
    if len(table) <= 2 * MAX_ROWS:
        return [PageTable(title, table)]
    first = f'The first {MAX_ROWS}: {title[0].lower()}{title[1:]}'
    return [
        PageTable(first, table.head(MAX_ROWS)),
        PageTable(f'All {len(table)} trained trials', table, folded=True),
    ]


def _trial_row(study: Study, trial: Trial, marks: dict[str, str]) -> dict:
    test, texts = trial.run.accuracy('test'), _run_texts(trial.run)
    val = 'validation accuracy' in texts
    return {
        'trial': trial.label,
        **({'front of accuracy and': marks[trial.name]} if marks else {}),
        'seeds': test['count'],
        **({'validation accuracy': texts['validation accuracy']} if val else {}),
        'test accuracy': texts['test accuracy'],
        '95 % interval of the mean': interval_text(test['low'], test['high']),
        'train accuracy': texts['train accuracy'],
        'epoch, one seed on one device (s)': _epoch_text(study, trial),
        'tokens': trial.run.summary['num_tokens'],
        'pixels seen': texts['pixels seen'],
        'MFLOPs an image': texts['MFLOPs an image'],
        'parameters': trial.run.summary['num_params'],
    }


def _epoch_text(study: Study, trial: Trial) -> str:
    return optional_text(study.epoch_seconds.get(trial.name), '.2f')


def paper_table(study: Study) -> PageTable:
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
    title = 'Beside the paper’s Table 1, which gives one run of each method and has no control'
    return PageTable(title, pd.DataFrame(rows))


def comparisons_table(study: Study) -> PageTable:
    """Test accuracy of each trial less that of its reference, paired by seed."""
    labels = study.labels
    rows = [
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
    ]
    table = pd.DataFrame(rows)
    if rows and (table['p, Holm'] == NOTHING).all():  # none is judged with others
        del table['p, Holm']
    title = 'Difference in test accuracy, in percentage points; above 0 the trial is better'
    return PageTable(title, table, folded=len(rows) > 2 * MAX_ROWS)


def datasets_table(study: Study) -> PageTable:
    """Every method over all data sets: mean rank, accuracy on each, and the combined difference."""
    rows, finished = [], {trial.name: trial for trial in study.finished}
    for method, result in study.statistics.get('datasets', {}).items():
        row = {'method': method, 'mean rank': f'{result["mean_rank"]:.4g}'}
        for dataset, name in result['trials'].items():
            if trial := finished.get(name):
                row[f'test accuracy, {dataset}'] = spread_text(trial.run.accuracy('test'))
        combined = result.get('comparison', {})
        if None not in (combined.get('low'), combined.get('high')):
            row['against'] = combined['reference']
            row['difference (points)'] = optional_text(100 * combined['difference'], '+.2f')
            row['95 % interval'] = points_text(combined['low'], combined['high'])
            row['p'] = p_text(combined['p'])
            row['p, Holm'] = p_text(combined['p_holm'])
            row['spread between data sets'] = f'{100 * combined["tau"]:.2f}'
        rows.append(row)
    title = (
        f'Over all data sets, the lowest mean rank in {SPLITS[study.split]} accuracy first; '
        'differences in test accuracy are combined by random effects, in percentage points'
    )
    table = pd.DataFrame(rows, dtype=object).fillna(NOTHING)
    return PageTable(title, table, folded=len(rows) > 2 * MAX_ROWS)


def points_text(low: float | None, high: float | None) -> str:
    """An interval of parts of 1 in percentage points."""
    return NOTHING if low is None else interval_text(100 * low, 100 * high, '+.2f')


def resolution_tables(study: Study) -> list[PageTable]:
    """The measurements at every image side, and the exponents fitted to them."""
    rows, table = study.resolution, pd.DataFrame()
    if not rows.empty:
        low, high = 1e3 * rows.step_seconds_low, 1e3 * rows.step_seconds_high
        table = pd.DataFrame({
            'trial': rows.label,
            'side (pixels)': rows.image_size.map('{:g}'.format),
            'tokens': rows.num_tokens.map('{:g}'.format),
            'MFLOPs an image': (rows.flops_per_image / 1e6).map('{:.3f}'.format),
            'training step (ms, median)': (rows.step_seconds * 1e3).map('{:.2f}'.format),
            'its quartiles': [*map(interval_text, low, high, ['.2f'] * len(rows))],
            'memory (MiB)': (rows.memory_bytes / 2**20).map('{:.1f}'.format),
            'batch': rows.batch,
        })  # fmt: skip
    exponents = [
        {'trial': label} | {QUANTITIES[name].noun: f'{power:.2f}' for name, power in powers.items()}
        for label, powers in study.exponents.items()
    ]
    title = 'Exponents: cost grows as the image’s side to this power'
    return [
        PageTable('A training step at every image side', table),
        PageTable(title, pd.DataFrame(exponents)),
    ]


def robustness_table(study: Study) -> PageTable:
    """Accuracy on corrupted test images: a row a corruption and strength, a column a trial."""
    texts, places = study.robustness, ['corruption', 'strength']
    if not texts.empty:
        texts = texts.pivot_table(
            'accuracy', places, 'label', lambda values: spread_text(describe(values)), sort=False
        )
        texts = texts.fillna(NOTHING).reset_index()
        texts['corruption'] += texts.pop('strength').map(' {:g}'.format)
    title = 'Accuracy on corrupted test images, mean over seeds ± standard deviation'
    return PageTable(title, texts, folded=True)
