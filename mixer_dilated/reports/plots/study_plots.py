"""The plots of a study, by its kind."""

from collections.abc import Iterator

import pandas as pd

from mixer_dilated.reports.formatting import setting_text
from mixer_dilated.reports.plots.curves import little_data_plot, resolution_plot, robustness_plot
from mixer_dilated.reports.plots.figure import Omitted, Plot
from mixer_dilated.reports.plots.heat_maps import accuracy_maps, map_axes
from mixer_dilated.reports.plots.pareto import pareto_front, pareto_plot
from mixer_dilated.reports.plots.run_plots import detail_plots, overview_plots
from mixer_dilated.reports.result_files import Run, Study, Trial

MAX_METHODS = 8
# Of the two costs: the plot's name and the label of its axis.
COSTS = {
    'time': ('pareto_time', 'seconds an epoch of one seed, logarithmic'),
    'FLOPs': ('pareto_flops', 'MFLOPs an image, forward, logarithmic'),
}


def study_plots(study: Study) -> Iterator[Plot | Omitted]:
    """All plots that the files of a study allow, in the order of the page."""
    if study.kind == 'sweep':
        yield from _sweep_plots(study)
    elif study.kind == 'little_data':
        yield little_data_plot(study)
    elif study.kind == 'resolution':
        yield resolution_plot(study)
    elif study.kind == 'robustness':
        yield robustness_plot(study)
    shown = shown_trials(study)
    if shown:
        yield from overview_plots(_by_label(shown))
        yield from detail_plots(_by_label(_trials_in_detail(study, shown)))


def front_marks(study: Study) -> dict[str, str]:
    """{trial: 'time', 'FLOPs' or both}: the Pareto fronts of accuracy and cost it is on."""
    marks: dict[str, list[str]] = {}
    for cost in COSTS:
        for name in pareto_front(_points(study, cost)).index:
            marks.setdefault(name, []).append(cost)
    return {name: ', '.join(costs) for name, costs in marks.items()}


def shown_trials(study: Study) -> list[Trial]:
    """The trials whose runs are drawn, at most 8.

    Of a sweep those on a Pareto front, the most accurate of them; of little data those with the
    most training images; of other studies the first.
    """
    trials = study.finished
    if study.kind == 'sweep':
        marks = front_marks(study)
        best = sorted(trials, key=mean_accuracy, reverse=True)
        chosen = [trial for trial in best if trial.name in marks][:MAX_METHODS]
        trials = [trial for trial in trials if trial in chosen]
    if study.kind == 'little_data':
        images = [trial.run.summary['train_examples'] for trial in trials]
        trials = [t for t, count in zip(trials, images, strict=True) if count == max(images)]
    return trials[:MAX_METHODS]


def _trials_in_detail(study: Study, shown: list[Trial]) -> list[Trial]:
    """All that are shown; of a sweep only the most accurate trial and its reference."""
    if study.kind != 'sweep':
        return shown
    best = max(study.finished, key=mean_accuracy)
    reference = study.comparisons.get(best.name, {}).get('reference', study.reference)
    return [best, *(t for t in study.finished if t.name == reference and t is not best)]


def _by_label(trials: list[Trial]) -> dict[str, Run]:
    return {trial.label: trial.run for trial in trials}


def mean_accuracy(trial: Trial) -> float:
    """Mean test accuracy over the seeds of a finished trial."""
    return trial.run.summary['test_accuracy']


def _points(study: Study, cost: str) -> pd.DataFrame:
    """The trials that have this cost, as `pareto_plot` takes them."""
    references = {comparison['reference'] for comparison in study.comparisons.values()}
    spreads = {t.name: t.run.accuracy('test') for t in study.finished}
    flops = {
        t.name: t.run.summary['flops_per_image'] * t.run.evaluation_passes / 1e6
        for t in study.finished
    }
    points = pd.DataFrame(spreads, index=['mean', 'low', 'high'], dtype=float).T
    points = points.rename(columns={'mean': 'accuracy'})
    points['label'] = pd.Series(study.labels)
    points['cost'] = pd.Series(study.epoch_seconds if cost == 'time' else flops, dtype=float)
    points['hollow'] = points.index.isin(references)
    return points.dropna(subset='cost')


def _sweep_plots(study: Study) -> Iterator[Plot | Omitted]:
    hollow = '; hollow are the trials that others are compared with.'
    for cost, (name, cost_label) in COSTS.items():
        title, points = f'Accuracy against {cost}', _points(study, cost)
        if points.empty:
            yield Omitted(title, 'no trial has been trained and measured yet')
            continue
        yield Plot(
            name,
            title,
            'Up is more accurate, left is cheaper; no trial is both cheaper and more accurate than '
            'an orange one, which are named from the cheapest at the bottom; bars are 95 % '
            'intervals of the mean over seeds'
            f'{hollow if points.hollow.any() else "."}',
            'On the front: '
            + '; '.join(
                f'{point.label}: {point.accuracy:.4f} at {point.cost:.3g}'
                for point in pareto_front(points).itertuples()
            ),
            pareto_plot(points, cost_label),
        )
    yield _map_plot(study)


def _map_plot(study: Study) -> Plot | Omitted:
    title = 'Accuracy by settings'
    rows = [[trial.settings.get(axis) for axis in study.content['axes']] for trial in study.trials]
    settings = pd.DataFrame(rows, columns=study.content['axes'], dtype=object)
    axes = map_axes(settings)
    if axes is None:
        return Omitted(title, 'a map needs two settings that are numbers and differ between trials')
    if not study.finished:
        return Omitted(title, 'no trial has been trained yet')
    down, across = axes
    others = settings.drop(columns=[down, across]).map(setting_text)
    others = others.loc[:, others.nunique() > 1]
    data = settings[[down, across]].assign(
        panel=[', '.join(map(' '.join, row.items())) for _, row in others.iterrows()],
        accuracy=[mean_accuracy(t) if t.run else float('nan') for t in study.trials],
        invalid=[bool(trial.invalid) for trial in study.trials],
    )
    best = max(study.finished, key=mean_accuracy)
    return Plot(
        'accuracy_map',
        title,
        f'{down} downwards, {across} across, a panel for each combination of the other settings; '
        'numbers are mean test accuracies, hatched trials are invalid, white ones are not trained.',
        f'Highest: {best.label} with {mean_accuracy(best):.4f}',
        accuracy_maps(data, down, across),
    )
