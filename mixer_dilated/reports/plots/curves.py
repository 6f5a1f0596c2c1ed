"""Lines with bands: training curves, accuracy by training images and corruption, cost by size."""

from collections.abc import Mapping

import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixer_dilated.reports.formatting import setting_text, spread_text
from mixer_dilated.reports.intervals import describe, t_interval
from mixer_dilated.reports.plots.figure import (
    LINE,
    Omitted,
    Plot,
    figure_style,
    label_text,
    legend_below,
    line_styles,
    number_ticks,
    subplots,
)
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.reports.result_files import Study

PANELS = {
    'test_accuracy': ('test accuracy', 'part of test images'),
    'train_accuracy': ('train accuracy, while training', 'part of training images'),
    'test_loss': ('test loss', 'cross-entropy (nats)'),
    'train_loss': ('train loss, while training', 'cross-entropy (nats)'),
}
UNITS = {
    'shift': 'pixels moved, in one of eight directions',
    'noise': 'standard deviation, where the range of values is 1',
    'occlusion': 'side of the black square, pixels',
    'contrast': 'part of the contrast taken away',
}


def draw_lines(axes: Axes, data: pd.DataFrame, x: str, y: str, labels: list[str], **options):
    """A line for each label, with at most twelve markers and a band; what is NaN is left out.

    Args:
      axes: where to draw, not yet logarithmic: means are those of the numbers.
      data: a row a seed, with 'label', x and y.
      x, y: names of columns.
      labels: all that the figure shows, for their `line_styles`.
      options: of seaborn's lineplot; by default the band is the 95 % t interval of the mean.
    """
    seaborn.lineplot(
        data[[x, y, 'label']],
        x=x,
        y=y,
        hue='label',
        style='label',
        hue_order=labels,
        style_order=labels,
        **line_styles(labels),
        **{'errorbar': t_interval, **options},
        err_kws={'alpha': 0.16, 'linewidth': 0},
        markevery=max(1, data[x].nunique() // 12),
        **LINE,
        legend=False,
        ax=axes,
    )


@figure_style()
def training_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Four panels; a line a method, the mean over seeds, with a band of one standard deviation.

    Args:
      curves: {label: epoch, seed, test_accuracy, train_accuracy, test_loss, train_loss}; NaN is
        left out, and epochs in which there is nothing else (those without an evaluation).
    """
    data = pd.concat(
        [frame.assign(label=label) for label, frame in curves.items()], ignore_index=True
    )
    figure, panels = subplots(4, 2, 5.2, 3.6)
    for axes, (name, (title, unit)) in zip(panels, PANELS.items(), strict=True):
        draw_lines(axes, data, 'epoch', name, [*curves], errorbar='sd')
        if name.endswith('loss'):
            axes.set_yscale('log')
            number_ticks(axes.yaxis)
        else:
            _leave_out_the_climb(axes, data, name)
        axes.set(title=title, xlabel='epoch', ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_below(figure, [*curves])
    return figure


def _leave_out_the_climb(axes: Axes, data: pd.DataFrame, name: str) -> None:
    """Starts the axis below the lowest band after a fifth of the epochs; the ends lie close."""
    late = data[data.epoch > data.groupby('label').epoch.transform('max') // 5]
    spread = late.groupby(['label', 'epoch'])[name].agg(['mean', 'std'])
    std = spread['std'].fillna(0)
    low, high = (spread['mean'] - std).min(), (spread['mean'] + std).max()
    if high > low:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))


@figure_style()
def little_data_plot(study: Study) -> Plot | Omitted:
    """A line a method over the number of training images, on a logarithmic axis."""
    title = 'Accuracy by number of training images'
    if not study.finished:
        return Omitted(title, 'no trial has been trained yet')
    rows = [
        (
            setting_text(trial.settings.get('method', trial.label)),
            trial.run.summary['train_examples'],
            result['test_accuracy'],
        )
        for trial in study.finished
        for result in trial.run.summary['results']
    ]
    data = pd.DataFrame(rows, columns=['label', 'images', 'accuracy'])
    labels = [*data.label.unique()]
    figure, (axes,) = subplots(1, 1, 8.6, 5.2)
    draw_lines(axes, data, 'images', 'accuracy', labels)
    axes.set_xscale('log')
    number_ticks(axes.xaxis, sorted(data.images.unique()))
    axes.set(xlabel='training images', ylabel='test accuracy, mean over seeds')
    legend_below(figure, labels)
    return Plot(
        'little_data',
        title,
        'Each line is the mean test accuracy over seeds, its band the 95 % interval of that mean; '
        'the axis of images is logarithmic.',
        _alt_text(data, ['images'], '{} images'),
        figure,
    )


@figure_style()
def robustness_plot(study: Study) -> Plot | Omitted:
    """A panel a corruption, a line a method over the strength of the corruption."""
    title, data = 'Accuracy on corrupted images', study.robustness
    if data.empty:
        return Omitted(title, 'nothing has been measured yet (no robustness.jsonl)')
    labels = [*data.label.unique()]
    by_corruption = data.groupby('corruption', sort=False)
    figure, panels = subplots(len(by_corruption), 2, 5.2, 3.8, sharey=True)
    for axes, (corruption, rows) in zip(panels, by_corruption, strict=True):
        axes.yaxis.set_tick_params(labelleft=True)  # seaborn labels axes that have ticks
        draw_lines(axes, rows, 'strength', 'accuracy', labels)
        strengths = sorted(rows.strength.unique())
        axes.set_xticks(strengths, [f'{strength:g}' for strength in strengths])
        axes.set(title=label_text(corruption), ylabel='test accuracy')
        axes.set_xlabel(UNITS.get(corruption, 'strength'))
    legend_below(figure, labels)
    strongest = data[data.strength == by_corruption.strength.transform('max')]
    return Plot(
        'robustness',
        title,
        'Each line is the mean test accuracy over seeds at that strength of the corruption, its '
        'band the 95 % interval of that mean; strength 0 is the unchanged test set.',
        _alt_text(strongest, ['corruption', 'strength'], '{} {:g}'),
        figure,
    )


def _alt_text(data: pd.DataFrame, columns: list[str], place: str) -> str:
    """The mean accuracy of every label at every place, which some columns say."""
    return '; '.join(
        f'{label}: '
        + ', '.join(
            f'{place.format(*at)} {spread_text(describe(accuracies))}'
            for at, accuracies in rows.groupby(columns, sort=False).accuracy
        )
        for label, rows in data.groupby('label', sort=False)
    )


@figure_style()
def resolution_plot(study: Study) -> Plot | Omitted:
    """What a method costs against the side of the image, with the powers that fit its growth."""
    title, data = 'Cost by side of the image', study.resolution
    if data.empty:
        return Omitted(title, 'nothing has been measured yet (no resolution.jsonl)')
    labels, sides = [*data.label.unique()], sorted(data.image_size.unique())
    figure, panels = subplots(4, 2, 5.2, 4.0)
    for axes, (name, quantity) in zip(panels, QUANTITIES.items(), strict=True):
        columns = [column for column in data if column.startswith(name)]  # with its quartiles
        values = data.melt(['label', 'image_size'], columns, value_name='value')
        values = values[values.value > 0].assign(value=values.value * quantity.scale)
        draw_lines(
            axes, values, 'image_size', 'value', labels, estimator='median', errorbar=('pi', 100)
        )
        axes.set_xscale('log')
        axes.set_yscale('log')
        axes.set(title=quantity.noun, xlabel='side of the image (pixels)', ylabel=quantity.axis)
        number_ticks(axes.xaxis, sides)
        number_ticks(axes.yaxis)
        powers = {
            line: f'side to the power {study.exponents[label][name]:.2f}'
            for line, label in zip(axes.lines, labels, strict=False)
            if label in study.exponents
        }
        if powers:
            style = {'title_fontsize': 9, 'alignment': 'left', 'handlelength': 3.2}
            axes.legend(powers.keys(), powers.values(), title='grows as', **style)
    legend_below(figure, labels)
    largest = data[data.image_size == max(sides)]
    return Plot(
        'resolution',
        title,
        'Both axes are logarithmic, so a straight line is a power of the side; bands of the time '
        'are quartiles of the measured steps, powers are least-squares fits.',
        '; '.join(
            f'{row.label} at {max(sides)} pixels: {row.num_tokens} tokens, '
            f'{1e3 * row.step_seconds:.1f} ms a step'
            for row in largest.itertuples()
        ),
        figure,
    )
