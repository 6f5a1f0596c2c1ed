"""Training curves: accuracy and loss by epoch, the mean over seeds and its spread."""

import warnings
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixer_dilated.reports.figure_style import (
    figure_style,
    label_text,
    legend_below,
    line_style,
    number_ticks,
)

PANELS = {
    'test_accuracy': ('test accuracy', 'part of test images'),
    'train_accuracy': ('train accuracy, while training', 'part of training images'),
    'test_loss': ('test loss', 'cross-entropy (nats)'),
    'train_loss': ('train loss, while training', 'cross-entropy (nats)'),
}


@figure_style()
def training_curves(methods: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Four panels; a line a method with a band of one standard deviation either way.

    Args:
      methods: {label: {'test_accuracy', 'train_accuracy', 'test_loss', 'train_loss': array
        (seeds, epochs)}}; NaN is left out, and epochs in which
        there is nothing else (those without an evaluation).
    """
    figure = Figure(figsize=(10.4, 7.2), layout='constrained')
    for axes, (name, (title, unit)) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for index, curves in enumerate(methods.values()):
            known = ~np.isnan(curves[name]).all(axis=0)
            epochs = 1 + np.flatnonzero(known)
            draw_band(axes, epochs, *_spread(curves[name][:, known]), line_style(index))
        if name.endswith('loss'):
            axes.set_yscale('log')
            number_ticks(axes.yaxis)
        else:
            _leave_out_the_climb(axes, [curves[name] for curves in methods.values()])
        axes.set(title=title, xlabel='epoch', ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles = figure.axes[0].lines
    legend_below(figure, handles, [label_text(label) for label in methods])
    return figure


def draw_band(
    axes: Axes, x: np.ndarray, middle: np.ndarray, low: np.ndarray, high: np.ndarray, style: dict
) -> None:
    """A line with markers, at most twelve of them, and a band between `low` and `high`."""
    axes.fill_between(x, low, high, color=style['color'], alpha=0.16, linewidth=0)
    axes.plot(x, middle, markevery=max(1, len(x) // 12), **style)


def _leave_out_the_climb(axes: Axes, values: list[np.ndarray]) -> None:
    """Starts the axis below the lowest band after a fifth of the epochs; the ends lie close."""
    later = np.concatenate([np.ravel(_spread(each[:, each.shape[1] // 5 :])) for each in values])
    later = later[~np.isnan(later)]
    if later.size and np.ptp(later):
        axes.set_ylim(later.min() - 0.06 * np.ptp(later), later.max() + 0.06 * np.ptp(later))


def _spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, mean - std and mean + std over the first axis; std is 0 for a single number."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # an epoch in which no seed is finite
        mean = np.nanmean(values, axis=0)
        std = np.nanstd(values, axis=0, ddof=1)
    std = np.where(np.isnan(std), 0, std)
    return mean, mean - std, mean + std
