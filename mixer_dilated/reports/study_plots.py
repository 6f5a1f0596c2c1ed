"""The plots of a study, by its kind."""

from collections.abc import Iterator, Mapping

from mixer_dilated.reports.cell_text import setting_text, spread_text
from mixer_dilated.reports.heat_map import accuracy_maps, map_axes
from mixer_dilated.reports.little_data_curves import little_data_curves
from mixer_dilated.reports.method_plots import (
    confusion_plot,
    coverage_plot,
    curves_plot,
    mistake_plots,
    mixing_plots,
    stem_plots,
)
from mixer_dilated.reports.pareto import Point, pareto_front, pareto_picture
from mixer_dilated.reports.plot import Omitted, Plot
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.reports.resolution_curves import resolution_curves
from mixer_dilated.reports.result_tables import described, fitted_exponents, robustness_by_cell
from mixer_dilated.reports.robustness_curves import robustness_curves
from mixer_dilated.reports.run_files import Run
from mixer_dilated.reports.study_files import Cell, Study

MAX_METHODS = 8
TIME, COMPUTE = 'time', 'FLOPs'


def study_plots(study: Study) -> Iterator[Plot | Omitted]:
    """All plots that the files of a study allow, in the order of the page."""
    yield from {
        'table1': lambda study: iter(()),
        'sweep': _sweep_plots,
        'little_data': _little_data_plots,
        'resolution': _resolution_plots,
        'robustness': _robustness_plots,
    }[study.kind](study)
    shown = shown_runs(study)
    if not shown:
        return
    yield coverage_plot(shown)
    yield curves_plot(shown)
    close = _looked_at_closely(study, shown)
    yield confusion_plot(close)
    for plots in (stem_plots, mixing_plots, mistake_plots):
        yield from plots(close)


def front_marks(study: Study) -> dict[str, str]:
    """{cell: 'time', 'FLOPs' or both}: the Pareto fronts of accuracy and cost it is on."""
    marks: dict[str, list[str]] = {}
    for cost in (TIME, COMPUTE):
        cells = _with_cost(study, cost)
        points = [(_cost(study, cell, cost), _mean(study, cell)) for cell in cells]
        for index in pareto_front(points):
            marks.setdefault(cells[index].name, []).append(cost)
    return {name: ', '.join(costs) for name, costs in marks.items()}


def shown_runs(study: Study) -> dict[str, Run]:
    """{label: run} of the cells whose runs are drawn, at most 8.

    Of a sweep those on a Pareto front, the most accurate of them; of little data those with the
    most training images; of other studies the first.
    """
    cells = study.finished
    if study.kind == 'sweep':
        marks = front_marks(study)
        best = sorted(cells, key=lambda cell: -_mean(study, cell))
        chosen = [cell for cell in best if cell.name in marks][:MAX_METHODS]
        cells = [cell for cell in cells if cell in chosen]
    if study.kind == 'little_data':
        most = max((cell.run.summary['train_examples'] for cell in cells), default=0)
        cells = [cell for cell in cells if cell.run.summary['train_examples'] == most]
    return {cell.label: cell.run for cell in cells[:MAX_METHODS]}


def _looked_at_closely(study: Study, shown: Mapping[str, Run]) -> dict[str, Run]:
    """All that is shown; of a sweep only the most accurate cell and its reference."""
    if study.kind != 'sweep':
        return dict(shown)
    best = max(study.finished, key=lambda cell: _mean(study, cell))
    comparison = study.statistics.get('comparisons', {}).get(best.name, {})
    reference = comparison.get('reference', study.reference)
    cells = [
        best,
        *(cell for cell in study.finished if cell.name == reference and cell is not best),
    ]
    return {cell.label: cell.run for cell in cells}


def _sweep_plots(study: Study) -> Iterator[Plot | Omitted]:
    for cost, name, label in (
        (TIME, 'pareto_time', 'seconds an epoch of one seed, logarithmic'),
        (COMPUTE, 'pareto_flops', 'MFLOPs an image, forward, logarithmic'),
    ):
        title = f'Accuracy against {cost}'
        cells = _with_cost(study, cost)
        if not cells:
            yield Omitted(title, 'no cell has been trained and measured yet')
            continue
        yield _pareto_plot(study, cells, cost, name, title, label)
    yield from _heat_map_plots(study)


def _pareto_plot(
    study: Study, cells: list[Cell], cost: str, name: str, title: str, label: str
) -> Plot:
    comparisons = study.statistics.get('comparisons', {}).values()
    references = {comparison['reference'] for comparison in comparisons}
    points = []
    for cell in cells:
        found = described(study, cell, 'test_accuracy')
        ends = found['low'], found['high']
        points.append(
            Point(
                cell.label,
                _cost(study, cell, cost),
                found['mean'],
                *ends,
                hollow=cell.name in references,
            )
        )
    front = [points[i] for i in pareto_front([(one.cost, one.accuracy) for one in points])]
    return Plot(
        name,
        title,
        'Up is more accurate, left is cheaper; no cell is both cheaper and more accurate than an '
        'orange one, which are named from the cheapest at the bottom; bars are 95 % intervals of '
        'the mean over seeds'
        + ('; hollow are the cells that others are compared with.' if references else '.'),
        'On the front: '
        + '; '.join(f'{one.label}: {one.accuracy:.4f} at {one.cost:.3g}' for one in front),
        pareto_picture(points, label),
    )


def _heat_map_plots(study: Study) -> Iterator[Plot | Omitted]:
    title = 'Accuracy by settings'
    axes = map_axes(study.axes, [cell.settings for cell in study.cells])
    if axes is None:
        yield Omitted(title, 'a map needs two settings that are numbers and differ between cells')
        return
    if not study.finished:
        yield Omitted(title, 'no cell has been trained yet')
        return
    down, across = axes
    values = {
        axis: {setting_text(cell.settings[axis]) for cell in study.cells} for axis in study.axes
    }
    others = [axis for axis in study.axes if axis not in axes and len(values[axis]) > 1]
    panels: dict[str, dict] = {}
    for cell in study.cells:
        texts = [f'{axis} {setting_text(cell.settings[axis])}' for axis in others]
        panel = panels.setdefault(', '.join(texts), {})
        place = cell.settings[down], cell.settings[across]
        untrained = None if cell.impossible else float('nan')
        panel[place] = _mean(study, cell) if cell.run else untrained
    best = max(study.finished, key=lambda cell: _mean(study, cell))
    yield Plot(
        'accuracy_map',
        title,
        f'{down} downwards, {across} across, a panel for each combination of the other settings; '
        'numbers are mean test accuracies, hatched cells cannot be, white ones are not trained.',
        f'Highest: {best.label} with {_mean(study, best):.4f}',
        accuracy_maps(down, across, panels),
    )


def _little_data_plots(study: Study) -> Iterator[Plot | Omitted]:
    title = 'Accuracy by number of training images'
    if not study.finished:
        yield Omitted(title, 'no cell has been trained yet')
        return
    methods: dict[str, dict[int, dict]] = {}
    for cell in study.finished:
        points = methods.setdefault(setting_text(cell.settings.get('method', cell.label)), {})
        points[cell.run.summary['train_examples']] = described(study, cell, 'test_accuracy')
    alt = '; '.join(
        f'{label}: ' + ', '.join(f'{n} images {spread_text(points[n])}' for n in sorted(points))
        for label, points in methods.items()
    )
    yield Plot(
        'little_data',
        title,
        'Each line is the mean test accuracy over seeds, its band the 95 % interval of that mean; '
        'the axis of images is logarithmic.',
        alt,
        little_data_curves(methods),
    )


def _resolution_plots(study: Study) -> Iterator[Plot | Omitted]:
    title = 'Cost by side of the image'
    if not study.resolution:
        yield Omitted(title, 'nothing has been measured yet (no resolution.jsonl)')
        return
    labels = {cell.name: cell.label for cell in study.cells}
    methods: dict[str, dict] = {}
    for row in study.resolution:
        found = methods.setdefault(labels[row['cell']], {name: {} for name in QUANTITIES})
        for name in QUANTITIES:
            found[name][row['image_size']] = row[name]
        found['step_seconds'][row['image_size']] = tuple(
            row[name] for name in ('step_seconds', 'step_seconds_low', 'step_seconds_high')
        )
    exponents = fitted_exponents(study)
    largest = max(row['image_size'] for row in study.resolution)
    alt = '; '.join(
        f'{labels[row["cell"]]} at {largest} pixels: {row["num_tokens"]} tokens, '
        f'{1e3 * row["step_seconds"]:.1f} ms a step'
        for row in study.resolution
        if row['image_size'] == largest
    )
    yield Plot(
        'resolution',
        title,
        'Both axes are logarithmic, so a straight line is a power of the side; bands of the time '
        'are quartiles of the measured steps, powers are least-squares fits.',
        alt,
        resolution_curves(methods, {labels[name]: found for name, found in exponents.items()}),
    )


def _robustness_plots(study: Study) -> Iterator[Plot | Omitted]:
    title = 'Accuracy on corrupted images'
    methods = robustness_by_cell(study)
    if not methods:
        yield Omitted(title, 'nothing has been measured yet (no robustness.jsonl)')
        return
    alt = '; '.join(
        f'{label}: '
        + ', '.join(
            f'{name} {max(points):g} {spread_text(points[max(points)])}'
            for name, points in found.items()
        )
        for label, found in methods.items()
    )
    yield Plot(
        'robustness',
        title,
        'Each line is the mean test accuracy over seeds at that strength of the corruption, its '
        'band the 95 % interval of that mean; strength 0 is the unchanged test set.',
        alt,
        robustness_curves(methods),
    )


def _with_cost(study: Study, cost: str) -> list[Cell]:
    return [cell for cell in study.finished if _cost(study, cell, cost)]


def _cost(study: Study, cell: Cell, cost: str) -> float | None:
    if cost == TIME:
        return study.epoch_seconds.get(cell.name)
    return cell.run.summary['flops_per_image'] * cell.run.evaluation_passes / 1e6


def _mean(study: Study, cell: Cell) -> float:
    return described(study, cell, 'test_accuracy')['mean']
