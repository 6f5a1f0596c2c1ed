"""The results of a run or a study as tables, each number beside its spread."""

import dataclasses
from collections.abc import Mapping

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
from mixer_dilated.reports.plots.study_plots import mean_accuracy
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.reports.result_files import Run, Study

MAX_ROWS = 12


@dataclasses.dataclass(frozen=True)
class PageTable:
    """A table of a page: text only, whatever it holds.

    Attributes:
      title: what it shows, in a line.
      texts: the first column names the row.
      numbers: whether the columns after the first hold numbers, which are set to the right.
      folded: whether the page shows it only when asked.
      headed: whether it has a line of column names.
    """

    title: str
    texts: pd.DataFrame
    numbers: bool = True
    folded: bool = False
    headed: bool = True


def run_tables(run: Run) -> list[PageTable]:
    """Accuracies of a run by seed, and what its network costs."""
    summary, examples = run.summary, run.summary['test_examples']
    rows = [
        {
            'seed': result['seed'],
            'test accuracy': f'{result["test_accuracy"]:.4f}',
            '95 % interval': interval_text(*wilson_interval(result['test_correct'], examples)),
            'train accuracy': f'{result["train_accuracy"]:.4f}',
            'test loss': optional_text(result['test_loss'], '.4f'),
        }
        for result in summary['results']
    ]
    if len(rows) > 1:
        test = run.accuracy('test')
        rows.append(
            {
                'seed': f'{len(rows)} seeds, mean ± std',
                'test accuracy': spread_text(test),
                '95 % interval': f'{interval_text(test["low"], test["high"])} (t, of the mean)',
                'train accuracy': spread_text(run.accuracy('train')),
                'test loss': NOTHING,
            }
        )
    costs = {
        'tokens': summary['num_tokens'],
        'pixels that at least one token sees': _pixels_text(run),
        'parameters': summary['num_params'],
        'MFLOPs an image, forward': _flops_text(run),
        'an epoch, all seeds together': f'{summary["seconds"]["epoch_median"]:.2f} s (median)',
        'training': f'{summary["seconds"]["train"]:.1f} s',
    }
    title = f'Accuracy on {examples} test images; a seed has a Wilson interval over the images'
    return [
        PageTable(title, pd.DataFrame(rows)),
        PageTable('What the network costs', pd.DataFrame(costs.items()), headed=False),
    ]


def _pixels_text(run: Run) -> str:
    return share_text(run.summary['pixels_seen'], run.summary['pixels'])


def _flops_text(run: Run) -> str:
    """'3.349'; '3.349 × 4' where evaluation shows an image four times."""
    times = f' × {run.evaluation_passes}' if run.evaluation_passes > 1 else ''
    return f'{run.summary["flops_per_image"] / 1e6:.3f}{times}'


def trials_tables(study: Study, marks: Mapping[str, str] | None = None) -> list[PageTable]:
    """One row a trained trial; of very many trials the best first, all of them folded away.

    Args:
      study: a study whose trials have runs.
      marks: {trial: the Pareto fronts it is on}, of a sweep; its trials are ordered by accuracy.
    """
    title, trials = 'Mean over seeds ± standard deviation', study.finished
    if marks is not None:
        title += ', the most accurate first'
        trials = sorted(trials, key=mean_accuracy, reverse=True)
    rows = []
    for trial in trials:
        test, train = (trial.run.accuracy(part) for part in ('test', 'train'))
        rows.append(
            {
                'trial': trial.label,
                **({} if marks is None else {'front of accuracy and': marks.get(trial.name, '')}),
                'seeds': test['count'],
                'test accuracy': spread_text(test),
                '95 % interval of the mean': interval_text(test['low'], test['high']),
                'train accuracy': spread_text(train),
                'epoch, one seed on one device (s)': _epoch_text(study, trial.name),
                'tokens': trial.run.summary['num_tokens'],
                'pixels seen': _pixels_text(trial.run),
                'MFLOPs an image': _flops_text(trial.run),
                'parameters': trial.run.summary['num_params'],
            }
        )
    table = pd.DataFrame(rows)
    if len(table) <= 2 * MAX_ROWS:
        return [PageTable(title, table)]
    first = f'The first {MAX_ROWS}: {title[0].lower()}{title[1:]}'
    return [
        PageTable(first, table.head(MAX_ROWS)),
        PageTable(f'All {len(table)} trained trials', table, folded=True),
    ]


def _epoch_text(study: Study, name: str) -> str:
    return optional_text(study.epoch_seconds.get(name), '.2f')


def paper_table(study: Study) -> PageTable:
    """The study's figures beside the paper's Table 1."""
    rows = []
    for trial in study.finished:
        branches, results = trial.run.branches, trial.run.summary['results']
        paper = TABLE1.get(branches[0], {}) if len(branches) == 1 else {}
        seconds = trial.run.summary['seconds']['train'] / len(results)
        rows.append(
            {
                'trial': trial.label,
                'test accuracy here': spread_text(trial.run.accuracy('test')),
                'test accuracy in the paper': optional_text(paper.get('test_accuracy'), '.3f'),
                'train accuracy here': spread_text(trial.run.accuracy('train')),
                'train accuracy in the paper': optional_text(paper.get('train_accuracy'), '.3f'),
                'an epoch here (s)': _epoch_text(study, trial.name),
                'training here, all seeds divided by their number (s)': f'{seconds:.1f}',
                'training in the paper (s)': optional_text(paper.get('seconds'), '.0f'),
            }
        )
    title = 'Beside the paper’s Table 1, which gives one run of each method and has no control'
    return PageTable(title, pd.DataFrame(rows))


def comparisons_table(study: Study) -> PageTable | None:
    """Test accuracy of each trial less that of its reference, paired by seed."""
    labels, comparisons = study.labels, study.comparisons
    corrected = any(row.get('p_holm') is not None for row in comparisons.values())
    rows = [
        {
            'trial': labels.get(name, name),
            'against': labels.get(row['reference'], row['reference']),
            'paired seeds': row['count'],
            'difference (points)': optional_text(100 * row['difference'], '+.2f'),
            '95 % t interval': _points_text(row['low'], row['high']),
            '95 % bootstrap interval': _points_text(row['bootstrap_low'], row['bootstrap_high']),
            't (paired)': optional_text(row['t'], '+.2f'),
            'p, uncorrected': p_text(row['p']),
            **({'p, Holm': p_text(row.get('p_holm'))} if corrected else {}),
            'Cohen’s d': optional_text(row['effect_size'], '+.2f'),
            'time, times the other’s': optional_text(row['time_ratio'], '.2f'),
        }
        for name, row in comparisons.items()
    ]
    title = 'Difference in test accuracy, in percentage points; above 0 the trial is better'
    folded = len(rows) > 2 * MAX_ROWS
    return PageTable(title, pd.DataFrame(rows), folded=folded) if rows else None


def _points_text(low: float | None, high: float | None) -> str:
    return NOTHING if low is None else interval_text(100 * low, 100 * high, '+.2f')


def resolution_tables(study: Study) -> list[PageTable]:
    """The measurements at every image side, and the exponents fitted to them."""
    rows = [
        {
            'trial': row.label,
            'side (pixels)': f'{row.image_size:g}',
            'tokens': f'{row.num_tokens:g}',
            'MFLOPs an image': f'{row.flops_per_image / 1e6:.3f}',
            'training step (ms, median)': f'{row.step_seconds * 1e3:.2f}',
            'its quartiles': interval_text(
                row.step_seconds_low * 1e3, row.step_seconds_high * 1e3, '.2f'
            ),
            'memory (MiB)': f'{row.memory_bytes / 2**20:.1f}',
            'batch': row.batch,
        }
        for row in study.resolution.itertuples()
    ]
    exponents = [
        {'trial': label} | {QUANTITIES[name].noun: f'{power:.2f}' for name, power in powers.items()}
        for label, powers in study.exponents.items()
    ]
    titles = {
        'A training step at every image side': rows,
        'Exponents: cost grows as the image’s side to this power': exponents,
    }
    return [PageTable(title, pd.DataFrame(table)) for title, table in titles.items() if table]


def robustness_table(study: Study) -> PageTable | None:
    """Accuracy on corrupted test images: a row a corruption and strength, a column a trial."""
    if study.robustness.empty:
        return None
    places = ['corruption', 'strength']
    texts = study.robustness.pivot_table(
        'accuracy', places, 'label', lambda values: spread_text(describe(values)), sort=False
    )
    texts = texts.fillna(NOTHING).reset_index()
    texts['corruption'] += texts.pop('strength').map(' {:g}'.format)
    title = 'Accuracy on corrupted test images, mean over seeds ± standard deviation'
    return PageTable(title, texts, folded=True)
