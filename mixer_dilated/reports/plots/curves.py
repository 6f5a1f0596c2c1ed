"""Lines with bands: training curves, accuracy by training images and corruption, cost by size."""

from collections.abc import Mapping

import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixer_dilated.reports.intervals import t_interval
from mixer_dilated.reports.plots.figure import (
    LINE,
    figure_style,
    label_text,
    legend_below,
    line_styles,
    number_ticks,
    subplots,
)
from mixer_dilated.reports.quantities import QUANTITIES

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
def little_data_curves(data: pd.DataFrame) -> Figure:
    """A line a method over the number of training images, on a logarithmic axis.

    Args:
      data: a row a seed: label, train_examples, test_accuracy.
    """
    labels = [*data.label.unique()]
    figure, (axes,) = subplots(1, 1, 8.6, 5.2)
    draw_lines(axes, data, 'train_examples', 'test_accuracy', labels)
    axes.set_xscale('log')
    number_ticks(axes.xaxis, sorted(data.train_examples.unique()))
    axes.set(xlabel='training images', ylabel='test accuracy, mean over seeds')
    legend_below(figure, labels)
    return figure


@figure_style()
def robustness_curves(data: pd.DataFrame) -> Figure:
    """A panel a corruption, a line a method over the strength of the corruption.

    Args:
      data: a row a seed: label, corruption, strength, accuracy.
    """
    labels = [*data.label.unique()]
    corruptions = data.groupby('corruption', sort=False)
    figure, panels = subplots(len(corruptions), 2, 5.2, 3.8, sharey=True)
    for axes, (corruption, rows) in zip(panels, corruptions, strict=True):
        draw_lines(axes, rows, 'strength', 'accuracy', labels)
        strengths = sorted(rows.strength.unique())
        axes.set_xticks(strengths, [f'{strength:g}' for strength in strengths])
        axes.set(title=label_text(corruption), ylabel='test accuracy')
        axes.set_xlabel(UNITS.get(corruption, 'strength'))
        axes.yaxis.set_tick_params(labelleft=True)
    legend_below(figure, labels)
    return figure


@figure_style()
def resolution_curves(data: pd.DataFrame, exponents: Mapping[str, Mapping[str, float]]) -> Figure:
    """What a method costs against the side of the image; a straight line is a power of the side.

    Args:
      data: a row an image side: label, image_size, the QUANTITIES, and step_seconds_low and
        step_seconds_high, the quartiles, which are the ends of its band.
      exponents: {label: {one of QUANTITIES: fitted exponent of the side}}; may lack any.
    """
    labels, sides = [*data.label.unique()], sorted(data.image_size.unique())
    figure, panels = subplots(4, 2, 5.2, 4.0)
    for axes, (name, quantity) in zip(panels, QUANTITIES.items(), strict=True):
        columns = [column for column in data if column.startswith(name)]
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
            line: f'side to the power {exponents[label][name]:.2f}'
            for line, label in zip(axes.lines, labels, strict=False)
            if name in exponents.get(label, {})
        }
        if powers:
            axes.legend(
                powers.keys(),
                powers.values(),
                title='grows as',
                title_fontsize=9,
                alignment='left',
                handlelength=3.2,
            )
    legend_below(figure, labels)
    return figure
