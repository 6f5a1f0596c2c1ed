"""The plots of a study, by its kind."""

import re
from collections.abc import Iterator, Mapping

import pandas as pd

from mixer_dilated.reports.formatting import setting_text
from mixer_dilated.reports.plots.curves import (
    little_data_plot,
    resolution_plot,
    robustness_plot,
    seconds_plot,
)
from mixer_dilated.reports.plots.figure import Plot
from mixer_dilated.reports.plots.heat_maps import accuracy_maps, map_axes
from mixer_dilated.reports.plots.pareto import pareto_front, pareto_plot
from mixer_dilated.reports.plots.run_plots import detail_plots, overview_plots
from mixer_dilated.reports.result_files import Study, Trial
from mixer_dilated.reports.schema import SPLITS

Limits = tuple[tuple[float, float], tuple[float, float]]  # of costs, of accuracies

MAX_METHODS = 8
FEW_TRIALS = 20  # up to which plots of several data sets show every one, not those near the front
# Of the two costs: the plot's name and the label of its axis.
COSTS = {
    'time': ('pareto_time', 'seconds an epoch of one seed, logarithmic'),
    'FLOPs': ('pareto_flops', 'MFLOPs an image, forward, logarithmic'),
}
PLOTS = {
    'little_data': little_data_plot,
    'resolution': resolution_plot,
    'robustness': robustness_plot,
}


def study_plots(study: Study) -> Iterator[Plot]:
    """All plots that the files of a study allow, in the order of the page, data set by data set."""
    limits = {cost: _shared_limits(study, cost) for cost in COSTS}
    for dataset, part in study.datasets.items():
        for plot in _plots(part, limits):
            if dataset:  # in names as in those of trials
                suffix = re.sub('[^A-Za-z0-9_.=-]+', '-', dataset.replace(' ', '='))
                title, name = f'{plot.title}: {dataset}', f'{plot.name}_{suffix}'
                plot = plot._replace(title=title, name=name)
            yield plot


def _plots(study: Study, limits: Mapping[str, Limits | None]) -> Iterator[Plot]:
    """The plots of one data set."""
    if study.kind == 'sweep':
        yield from (_pareto_plot(study, cost, limits[cost]) for cost in COSTS)
        yield _map_plot(study)
    elif study.kind in PLOTS:
        yield PLOTS[study.kind](study)
    shown = detailed = _shown_trials(study)
    if not shown:
        return
    if study.kind == 'sweep':  # only the most accurate trial and its reference
        best = max(study.finished, key=study.mean_accuracy)
        compared = study.comparisons.get(best.name, study.content)
        reference = compared.get('reference')  # its name; in the study itself its settings
        references = [t for t in study.finished if reference in (t.name, t.settings)]
        detailed = [best, *(trial for trial in references if trial is not best)]
        others = [trial for trial in shown if trial not in detailed]
        yield seconds_plot(study, [*reversed(detailed), *others][:MAX_METHODS])
    yield from overview_plots({trial.label: trial.run for trial in shown})
    yield from detail_plots({trial.label: trial.run for trial in detailed})


def front_marks(study: Study) -> dict[str, str]:
    """{trial: 'time', 'FLOPs' or both}: the Pareto fronts of one data set that it is on."""
    fronts = {cost: pareto_front(_points(study, cost)).index for cost in COSTS}
    return {
        trial.name: ', '.join(cost for cost, names in fronts.items() if trial.name in names)
        for trial in study.finished
    }


def _shown_trials(study: Study) -> list[Trial]:
    """The trials whose runs are drawn, at most 8: of a sweep the most accurate on a Pareto front,
    of little data those with the most training images, of other studies the first."""
    trials = study.finished
    if study.kind == 'sweep':
        marks = front_marks(study)
        on_front = [trial for trial in trials if marks[trial.name]]
        best = sorted(on_front, key=study.mean_accuracy, reverse=True)[:MAX_METHODS]
        trials = [trial for trial in on_front if trial in best]
    if study.kind == 'little_data' and trials:
        most = max(trial.run.summary['train_examples'] for trial in trials)
        trials = [trial for trial in trials if trial.run.summary['train_examples'] == most]
    return trials[:MAX_METHODS]


def _points(study: Study, cost: str) -> pd.DataFrame:
    """The trials that have this cost, as `pareto_plot` takes them."""
    runs = {trial.name: trial.run for trial in study.finished}
    spreads = [run.accuracy(study.split) for run in runs.values()]
    costs = study.epoch_seconds
    if cost == 'FLOPs':
        costs = {name: run.evaluation_mflops for name, run in runs.items()}
    points = pd.DataFrame(spreads, [*runs], ['mean', 'low', 'high'], float)
    points = points.rename(columns={'mean': 'accuracy'}).assign(
        label=[trial.label for trial in study.finished],
        hollow=points.index.isin([row['reference'] for row in study.comparisons.values()]),
        # By trial: an empty frame would take any index.
        cost=pd.Series(costs, dtype=float).reindex(points.index),
    )
    return points.dropna(subset='cost')


def _relative_points(study: Study, cost: str) -> pd.DataFrame:
    """`_points` in accuracy above, and costs times those, of the one reference of a data set; empty
    if it has none or several."""
    points = _points(study, cost)
    if points.hollow.sum() != 1:
        return points.head(0)
    reference, accuracies = points[points.hollow].iloc[0], ['accuracy', 'low', 'high']
    points[accuracies] = 100 * (points[accuracies] - reference.accuracy)
    return points.assign(cost=points.cost / reference.cost)


def _shared_limits(study: Study, cost: str) -> Limits | None:
    """Of both axes, for the relative points of several data sets; None if there are none."""
    parts = [_relative_points(part, cost) for part in study.datasets.values()]
    if len(parts) < 2 or any(part.empty for part in parts):
        return None
    points = pd.concat(parts)
    lowest = pd.concat(map(pareto_front, parts)) if len(points) > FEW_TRIALS else points
    low = min(0, lowest.low.fillna(lowest.accuracy).min())
    high = points.high.fillna(points.accuracy).max()
    room = 0.08 * (high - low) or 1
    return (points.cost.min() / 1.1, points.cost.max() * 1.1), (low - room, high + room)


def _pareto_plot(study: Study, cost: str, limits: Limits | None) -> Plot:
    title, (name, label), points = f'Accuracy against {cost}', COSTS[cost], _points(study, cost)
    if cost == 'time' and (seconds := study.content.get('train_seconds')):
        return Plot(title, omitted=f'every trial trains for {seconds:g} s')
    if points.empty:
        return Plot(title, omitted='no trial has been trained and measured yet')
    hollow = '; hollow are the trials that others are compared with' if points.hollow.any() else ''
    on_front = '; '.join(
        f'{point.label}: {point.accuracy:.4f} at {point.cost:.3g}'
        for point in pareto_front(points).itertuples()
    )
    relative, above = '', 'mean over seeds'
    if limits:
        reference, points = points[points.hollow].label.iloc[0], _relative_points(study, cost)
        above = 'points above the reference'
        label = f'{label.partition(",")[0]}, times the reference, logarithmic'
        relative = f'Both axes are relative to {reference}, and the same on every data set. '
    return Plot(
        title,
        name,
        f'{relative}Up is more accurate, left is cheaper; no trial is both cheaper and more '
        'accurate than an orange one, which are named from the cheapest at the bottom; bars are '
        f'95 % intervals of the mean over seeds{hollow}.',
        f'On the front: {on_front}',
        pareto_plot(points, label, f'{SPLITS[study.split]} accuracy, {above}', limits),
    )


def _map_plot(study: Study) -> Plot:
    title, rows = 'Accuracy by settings', [trial.settings for trial in study.trials]
    settings = pd.DataFrame(rows, columns=study.content['axes'], dtype=object)
    axes, why = map_axes(settings), 'two settings that are numbers and differ between trials'
    if len(axes) < 2:
        return Plot(title, omitted=f'a map needs {why}')
    if not study.finished:
        return Plot(title, omitted='no trial has been trained yet')
    others = settings.drop(columns=axes).map(setting_text)
    others = others.loc[:, others.nunique() > 1]
    data = settings[axes].assign(
        panel=[', '.join(map(' '.join, row.items())) for _, row in others.iterrows()],
        accuracy=[study.mean_accuracy(t) if t.run else float('nan') for t in study.trials],
        invalid=[bool(trial.invalid) for trial in study.trials],
    )
    best = max(study.finished, key=study.mean_accuracy)
    return Plot(
        title,
        'accuracy_map',
        f'{axes[0]} downwards, {axes[1]} across, a panel for each combination of the other '
        f'settings; numbers are mean {SPLITS[study.split]} accuracies, hatched trials are invalid, '
        'white ones are not trained.',
        f'Highest: {best.label} with {study.mean_accuracy(best):.4f}',
        accuracy_maps(data, *axes),
    )
