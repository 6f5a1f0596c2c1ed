"""The results of a run or a study as tables, each number beside its spread."""

from collections.abc import Callable, Mapping

from mixer_dilated.reports.cell_text import (
    NOTHING,
    interval_text,
    optional_text,
    p_text,
    share_text,
    spread_text,
)
from mixer_dilated.reports.page_table import PageTable
from mixer_dilated.reports.paper import TABLE1
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.reports.run_files import Run
from mixer_dilated.reports.study_files import Cell, Study
from mixer_dilated.reports.tables import wilson_interval
from mixer_dilated.studies.stats import describe

MAX_ROWS = 12


def described(study: Study, cell: Cell, measure: str) -> dict:
    """{count, mean, std, low, high} of a cell, of the study's statistics or of its run."""
    found = study.statistics.get('cells', {}).get(cell.name)
    return found[measure] if found else describe(cell.run.values(measure))


def run_tables(run: Run) -> list[PageTable]:
    """Facts of a run, and its accuracies by seed."""
    summary, seconds = run.summary, run.summary['seconds']
    facts = {
        'tokens': str(summary['num_tokens']),
        'pixels that at least one token sees': share_text(
            summary['pixels_seen'], summary['pixels']
        ),
        'parameters': str(summary['num_params']),
        'MFLOPs an image, forward': _flops_text(run),
        'an epoch, all seeds together': f'{seconds["epoch_median"]:.2f} s (median)',
        'training': f'{seconds["train"]:.1f} s',
    }
    accuracies = [describe(run.values(f'{part}_accuracy')) for part in ('test', 'train')]
    rows = [_seed_row(each, summary['test_examples']) for each in summary['results']]
    if len(rows) > 1:
        test, train = accuracies
        rows.append(
            [
                f'{len(rows)} seeds, mean ± std',
                spread_text(test),
                f'{interval_text(test["low"], test["high"])} (t, of the mean)',
                spread_text(train),
                NOTHING,
            ]
        )
    header = ['seed', 'test accuracy', '95 % interval', 'train accuracy', 'test loss']
    title = (
        f'Accuracy on {summary["test_examples"]} test images; a seed has a Wilson interval over '
        'the images'
    )
    return [
        PageTable(title, header, rows),
        PageTable('What the network costs', ['', ''], [list(pair) for pair in facts.items()]),
    ]


def _flops_text(run: Run) -> str:
    """'3.349'; '3.349 × 4' where evaluation shows an image four times."""
    times = f' × {run.evaluation_passes}' if run.evaluation_passes > 1 else ''
    return f'{run.summary["flops_per_image"] / 1e6:.3f}{times}'


def _seed_row(result: Mapping, examples: int) -> list[str]:
    low, high = wilson_interval(result['test_correct'], examples)
    return [
        str(result['seed']),
        f'{result["test_accuracy"]:.4f}',
        interval_text(low, high),
        f'{result["train_accuracy"]:.4f}',
        optional_text(result['test_loss'], '.4f'),
    ]


def cells_tables(study: Study, marks: Mapping[str, str] | None = None) -> list[PageTable]:
    """One row a trained cell; of very many cells the best first, all of them folded away.

    Args:
      study: a study whose cells have runs.
      marks: {cell: the Pareto fronts it is on}, of a sweep; its cells are ordered by accuracy.
    """
    columns: dict[str, Callable[[Cell], str]] = {
        'seeds': lambda cell: str(described(study, cell, 'test_accuracy')['count']),
        'test accuracy': lambda cell: spread_text(described(study, cell, 'test_accuracy')),
        '95 % interval of the mean': lambda cell: interval_text(
            *(described(study, cell, 'test_accuracy')[end] for end in ('low', 'high'))
        ),
        'train accuracy': lambda cell: spread_text(described(study, cell, 'train_accuracy')),
        'epoch, one seed on one device (s)': lambda cell: optional_text(
            study.epoch_seconds.get(cell.name), '.2f'
        ),
        'tokens': lambda cell: str(cell.run.summary['num_tokens']),
        'pixels seen': lambda cell: share_text(
            cell.run.summary['pixels_seen'], cell.run.summary['pixels']
        ),
        'MFLOPs an image': lambda cell: _flops_text(cell.run),
        'parameters': lambda cell: str(cell.run.summary['num_params']),
    }
    title = 'Mean over seeds ± standard deviation'
    cells = study.finished
    if marks is not None:
        columns = {'front of accuracy and': lambda cell: marks.get(cell.name, '')} | columns
        cells = sorted(cells, key=lambda cell: -described(study, cell, 'test_accuracy')['mean'])
        title += ', the most accurate first'
    header = ['cell', *columns]
    rows = [[cell.label, *(text(cell) for text in columns.values())] for cell in cells]
    if len(rows) <= 2 * MAX_ROWS:
        return [PageTable(title, header, rows)]
    return [
        PageTable(f'The first {MAX_ROWS}: {title[0].lower()}{title[1:]}', header, rows[:MAX_ROWS]),
        PageTable(f'All {len(rows)} trained cells', header, rows, folded=True),
    ]


def paper_table(study: Study) -> PageTable:
    """The study's figures beside the paper's Table 1."""
    rows = []
    for cell in study.finished:
        branches = cell.run.branches
        paper = TABLE1.get(branches[0], {}) if len(branches) == 1 else {}
        rows.append(
            [
                cell.label,
                spread_text(described(study, cell, 'test_accuracy')),
                optional_text(paper.get('test_accuracy'), '.3f'),
                spread_text(described(study, cell, 'train_accuracy')),
                optional_text(paper.get('train_accuracy'), '.3f'),
                optional_text(study.epoch_seconds.get(cell.name), '.2f'),
                f'{_training_seconds(cell.run):.1f}',
                optional_text(paper.get('seconds'), '.0f'),
            ]
        )
    header = [
        'cell',
        'test accuracy here',
        'in the paper',
        'train accuracy here',
        'in the paper',
        'an epoch here (s)',
        'training here, all seeds divided by their number (s)',
        'in the paper (s)',
    ]
    title = 'Beside the paper’s Table 1, which gives one run of each method and has no control'
    return PageTable(title, header, rows)


def _training_seconds(run: Run) -> float:
    """Seconds of the whole training of one seed: those of all seeds, divided by their number."""
    return run.summary['seconds']['train'] / len(run.summary['results'])


def comparisons_table(study: Study) -> PageTable | None:
    """Test accuracy of each cell less that of its reference, paired by seed."""
    comparisons = study.statistics.get('comparisons') or {}
    labels = {cell.name: cell.label for cell in study.cells}
    corrected = any(one.get('p_holm') is not None for one in comparisons.values())
    rows = [
        [
            labels.get(name, name),
            labels.get(one['reference'], one['reference']),
            str(one['count']),
            _points(one['difference']),
            interval_text(*map(_hundredfold, (one['low'], one['high'])), '+.2f'),
            interval_text(
                *map(_hundredfold, (one['bootstrap_low'], one['bootstrap_high'])), '+.2f'
            ),
            optional_text(one['t'], '+.2f'),
            p_text(one['p']),
            *([p_text(one.get('p_holm'))] if corrected else []),
            optional_text(one['effect_size'], '+.2f'),
            optional_text(one['time_ratio'], '.2f'),
        ]
        for name, one in comparisons.items()
    ]
    header = [
        'cell',
        'against',
        'paired seeds',
        'difference (points)',
        '95 % t interval',
        '95 % bootstrap interval',
        't (paired)',
        'p, uncorrected',
        *(['p, Holm'] if corrected else []),
        'Cohen’s d',
        'time, times the other’s',
    ]
    title = 'Difference in test accuracy, in percentage points; above 0 the cell is better'
    return PageTable(title, header, rows, folded=len(rows) > 2 * MAX_ROWS) if rows else None


def resolution_tables(study: Study) -> list[PageTable]:
    """The measurements at every image side, and the exponents fitted to them."""
    labels = {cell.name: cell.label for cell in study.cells}
    rows = [
        [
            labels[row['cell']],
            f'{row["image_size"]:g}',
            f'{row["num_tokens"]:g}',
            f'{row["flops_per_image"] / 1e6:.3f}',
            f'{row["step_seconds"] * 1e3:.2f}',
            interval_text(row['step_seconds_low'] * 1e3, row['step_seconds_high'] * 1e3, '.2f'),
            f'{row["memory_bytes"] / 2**20:.1f}',
            str(row['batch']),
        ]
        for row in study.resolution
    ]
    header = [
        'cell',
        'side (pixels)',
        'tokens',
        'MFLOPs an image',
        'training step (ms, median)',
        'its quartiles',
        'memory (MiB)',
        'batch',
    ]
    tables = [PageTable('A training step at every image side', header, rows)] if rows else []
    exponents = fitted_exponents(study)
    if exponents:
        header = ['cell', *(quantity.noun for quantity in QUANTITIES.values())]
        rows = [
            [labels[name], *(optional_text(found.get(key), '.2f') for key in QUANTITIES)]
            for name, found in exponents.items()
        ]
        title = 'Exponents: cost grows as the image’s side to this power'
        tables.append(PageTable(title, header, rows))
    return tables


def fitted_exponents(study: Study) -> dict[str, dict[str, float]]:
    """{cell: {'num_tokens', …: exponent of the image's side}}, as far as they are fitted."""
    fits = study.statistics.get('fits', {})
    return {
        cell.name: {key: fits[cell.name][key]['exponent'] for key in QUANTITIES}
        for cell in study.cells
        if cell.name in fits
    }


def robustness_by_cell(study: Study) -> dict[str, dict[str, dict[float, dict]]]:
    """{label: {corruption: {strength: {count, mean, std, low, high}}}}."""
    labels = {cell.name: cell.label for cell in study.cells}
    values: dict = {}
    for row in study.robustness:
        by_strength = values.setdefault(labels[row['cell']], {}).setdefault(row['corruption'], {})
        by_strength.setdefault(row['strength'], []).append(row['accuracy'])
    return {
        label: {
            name: {strength: describe(numbers) for strength, numbers in sorted(found.items())}
            for name, found in corruptions.items()
        }
        for label, corruptions in values.items()
    }


def robustness_table(study: Study) -> PageTable | None:
    """Accuracy on corrupted test images: a row a corruption and strength, a column a cell."""
    found = robustness_by_cell(study)
    places = dict.fromkeys(
        (name, strength)
        for corruptions in found.values()
        for name, strengths in corruptions.items()
        for strength in strengths
    )
    rows = [
        [f'{name} {strength:g}']
        + [
            spread_text(corruptions[name][strength])
            if strength in corruptions.get(name, {})
            else NOTHING
            for corruptions in found.values()
        ]
        for name, strength in places
    ]
    title = 'Accuracy on corrupted test images, mean over seeds ± standard deviation'
    return PageTable(title, ['corruption', *found], rows, folded=True) if rows else None


def _hundredfold(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _points(difference: float) -> str:
    return optional_text(100 * difference, '+.2f')
