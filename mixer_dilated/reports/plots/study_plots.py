"""The plots of a study, by its kind."""

from collections.abc import Iterator

import pandas as pd

from mixer_dilated.reports.formatting import setting_text
from mixer_dilated.reports.plots.curves import little_data_plot, resolution_plot, robustness_plot
from mixer_dilated.reports.plots.figure import Plot
from mixer_dilated.reports.plots.heat_maps import accuracy_maps, map_axes
from mixer_dilated.reports.plots.pareto import pareto_front, pareto_plot
from mixer_dilated.reports.plots.run_plots import detail_plots, overview_plots
from mixer_dilated.reports.result_files import Study, Trial

MAX_METHODS = 8
SPLITS = {'val': 'validation', 'test': 'test'}
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
    """All plots that the files of a study allow, in the order of the page."""
    if study.kind == 'sweep':
        yield from (_pareto_plot(study, cost) for cost in COSTS)
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
        others = [trial for trial in study.finished if trial is not best]
        detailed = [best, *(t for t in others if reference in (t.name, t.settings))]
    yield from overview_plots({trial.label: trial.run for trial in shown})
    yield from detail_plots({trial.label: trial.run for trial in detailed})


def front_marks(study: Study) -> dict[str, str]:
    """{trial: 'time', 'FLOPs' or both}: the Pareto fronts of accuracy and cost it is on."""
    fronts = {cost: pareto_front(_points(study, cost)).index for cost in COSTS}
    return {
        trial.name: ', '.join(cost for cost, names in fronts.items() if trial.name in names)
        for trial in study.finished
    }


def _shown_trials(study: Study) -> list[Trial]:
    """The trials whose runs are drawn, at most 8.

    Of a sweep those on a Pareto front, the most accurate of them; of little data those with the
    most training images; of other studies the first.
    """
    trials = study.finished
    if study.kind == 'sweep':
        marks = front_marks(study)
        best = sorted(trials, key=study.mean_accuracy, reverse=True)
        chosen = [trial for trial in best if marks[trial.name]][:MAX_METHODS]
        trials = [trial for trial in trials if trial in chosen]
    if study.kind == 'little_data' and trials:
        most = max(trial.run.summary['train_examples'] for trial in trials)
        trials = [trial for trial in trials if trial.run.summary['train_examples'] == most]
    return trials[:MAX_METHODS]


def _points(study: Study, cost: str) -> pd.DataFrame:
    """The trials that have this cost, as `pareto_plot` takes them."""
    references = {comparison['reference'] for comparison in study.comparisons.values()}
    rows = {}
    for trial in study.finished:
        accuracy = trial.run.accuracy(study.split)
        amount = study.epoch_seconds.get(trial.name)
        if cost == 'FLOPs':
            amount = trial.run.summary['flops_per_image'] * trial.run.evaluation_passes / 1e6
        ends, hollow = (accuracy['low'], accuracy['high']), trial.name in references
        rows[trial.name] = trial.label, accuracy['mean'], *ends, hollow, amount
    columns = ['label', 'accuracy', 'low', 'high', 'hollow', 'cost']
    points = pd.DataFrame.from_dict(rows, 'index', columns=columns).dropna(subset='cost')
    return points.astype(dict.fromkeys(('cost', 'low', 'high'), float))


def _pareto_plot(study: Study, cost: str) -> Plot:
    title, (name, label), points = f'Accuracy against {cost}', COSTS[cost], _points(study, cost)
    if points.empty:
        return Plot(title, omitted='no trial has been trained and measured yet')
    hollow = '; hollow are the trials that others are compared with.'
    on_front = '; '.join(
        f'{point.label}: {point.accuracy:.4f} at {point.cost:.3g}'
        for point in pareto_front(points).itertuples()
    )
    return Plot(
        title,
        name,
        'Up is more accurate, left is cheaper; no trial is both cheaper and more accurate than '
        'an orange one, which are named from the cheapest at the bottom; bars are 95 % '
        f'intervals of the mean over seeds{hollow if points.hollow.any() else "."}',
        f'On the front: {on_front}',
        pareto_plot(points, label, SPLITS[study.split]),
    )


def _map_plot(study: Study) -> Plot:
    title, rows = 'Accuracy by settings', [trial.settings for trial in study.trials]
    settings = pd.DataFrame(rows, columns=study.content['axes'], dtype=object)
    axes = map_axes(settings)
    if len(axes) < 2:
        why = 'a map needs two settings that are numbers and differ between trials'
        return Plot(title, omitted=why)
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
