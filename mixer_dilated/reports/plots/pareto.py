"""The Pareto front: trials that no other trial beats in accuracy and cost at once."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mixer_dilated.reports.formatting import count_text, optional_text
from mixer_dilated.reports.plots.figure import figure_style, label_text, number_ticks

FRONT, OTHERS = '#d55e00', '#8a8a8a'
LABEL_GAP = 0.19  # inches from one label to the next
PLOT_INCHES = 7.0


def pareto_front(points: pd.DataFrame) -> pd.DataFrame:
    """The points (cost, accuracy, …) that no other point dominates, the cheapest first.

    A point dominates another if it costs no more, is no less accurate, and does not equal it.
    """
    ordered = points.sort_values(['cost', 'accuracy'], ascending=[True, False], kind='stable')
    best = ordered.accuracy.cummax()
    cheapest = ordered.cost.groupby(best).transform('min')
    return ordered[(ordered.accuracy == best) & (ordered.cost == cheapest)]


@figure_style()
def pareto_plot(
    points: pd.DataFrame,
    cost_label: str,
    accuracy_label: str = 'test accuracy, mean over seeds',
    limits: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Figure:
    """Accuracy against cost; the front's trials are named in a column beside the plot.

    Trials far below a front of several are counted, not drawn: they would press it flat.

    Points are a row a trial: label, cost (above 0), accuracy (mean over seeds), low and high (ends
    of its error bar, NaN for none), hollow (whether it is drawn as an outline). Limits are of costs
    and accuracies, where the axes are those of other plots too.
    """
    front = pareto_front(points)
    names_width = 0.5 + 0.078 * front.label.map(label_text).str.len().max()
    size = PLOT_INCHES + names_width, max(4.8, 1.4 + LABEL_GAP * len(front))
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots()
    others = points.drop(front.index)
    for some, colour, marker, width in ((others, OTHERS, 'o', 0.8), (front, FRONT, 'D', 1.4)):
        axes.vlines(some.cost, some.low, some.high, colour, linewidth=width, alpha=0.5)
        style = {'marker': marker, 'edgecolors': colour, 'zorder': 3}
        faces = some.hollow.map({True: 'white', False: colour})
        axes.scatter(some.cost, some.accuracy, 24 * width, faces, **style)
    axes.step(front.cost, front.accuracy, where='post', color=FRONT, linewidth=1.2)
    axes.set(xscale='log', xlabel=cost_label, ylabel=accuracy_label)
    lowest, highest = front.accuracy.min(), front.accuracy.max()
    room = highest - lowest
    if limits:
        axes.set(xlim=limits[0], ylim=limits[1])
    elif len(front) > 2 and points.accuracy.min() < lowest - 0.15 * room:
        axes.set_ylim(lowest - 0.15 * room, highest + 0.1 * room)
    number_ticks(axes.xaxis)
    low, high = axes.set_ylim(axes.get_ylim())
    if below := (points.accuracy < low).sum():
        text = f'{count_text(below, "trial")} below {optional_text(low, ".3f")} not drawn'
        axes.text(0.99, 0.015, text, transform=axes.transAxes, ha='right', fontsize=9)
    gap = LABEL_GAP / (figure.get_figheight() * 0.8)
    heights = spread_out(((front.accuracy - low) / (high - low)).tolist(), gap)
    line = {'arrowstyle': '-', 'color': '#666666', 'linestyle': ':', 'linewidth': 0.7, 'shrinkB': 5}
    look = {'textcoords': 'axes fraction', 'va': 'center', 'fontsize': 9, 'arrowprops': line}
    for point, height in zip(front.itertuples(), heights, strict=True):
        place = point.cost, point.accuracy
        axes.annotate(label_text(point.label), place, (1.03, height), **look)
    return figure


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Moves ascending heights apart to at least `gap`, within 0 … 1 as far as there is room."""
    places = np.arange(len(heights)) * min(gap, 1 / max(len(heights) - 1, 1))
    # With the gaps taken out, heights only have to ascend.
    spread = np.maximum.accumulate(np.maximum(np.subtract(heights, places), 0))
    return (np.minimum(spread, 1 - places.max(initial=0)) + places).tolist()
