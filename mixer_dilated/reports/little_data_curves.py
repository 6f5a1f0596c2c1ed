"""Accuracy against the number of training images."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from mixer_dilated.reports.curves import draw_band
from mixer_dilated.reports.figure_style import (
    figure_style,
    label_text,
    legend_below,
    line_style,
    number_ticks,
)


@figure_style()
def little_data_curves(methods: Mapping[str, Mapping[int, Mapping]]) -> Figure:
    """A line a method with a band of the 95 % interval; images on a logarithmic axis.

    Args:
      methods: {label: {training images: {mean, low, high} of the test accuracy}}; low and high
        may be None.
    """
    figure = Figure(figsize=(8.6, 5.2), layout='constrained')
    axes = figure.subplots()
    axes.set_xscale('log')
    for index, points in enumerate(methods.values()):
        images = sorted(points)
        mean = np.array([points[n]['mean'] for n in images])
        low, high = (
            np.array([_or(points[n][end], points[n]['mean']) for n in images])
            for end in ('low', 'high')
        )
        draw_band(axes, np.array(images), mean, low, high, line_style(index))
    number_ticks(axes.xaxis, sorted({n for points in methods.values() for n in points}))
    axes.set(xlabel='training images', ylabel='test accuracy, mean over seeds')
    legend_below(figure, axes.lines, [label_text(label) for label in methods])
    return figure


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
