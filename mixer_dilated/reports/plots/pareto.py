"""The Pareto front: trials that no other trial beats in accuracy and cost at once."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from mixer_dilated.reports.formatting import count_text
from mixer_dilated.reports.plots.figure import figure_style, label_text, number_ticks

FRONT, OTHERS = '#d55e00', '#8a8a8a'
LABEL_GAP = 0.19  # inches from one label to the next
PLOT_INCHES = 7.0


def pareto_front(points: pd.DataFrame) -> pd.DataFrame:
    """The points (cost, accuracy, …) that no other point dominates, the cheapest first.

    A point dominates another if it costs no more and is no less accurate, and is better in one of
    the two. Points that are equal in both are on the front together.
    """
    ordered = points.sort_values(['cost', 'accuracy'], ascending=[True, False], kind='stable')
    best = ordered.accuracy.cummax()
    cheapest = ordered.cost.groupby(best).transform('min')
    return ordered[(ordered.accuracy == best) & (ordered.cost == cheapest)]


@figure_style()
def pareto_plot(points: pd.DataFrame, cost_label: str) -> Figure:
    """Accuracy against cost; the front's trials are named in a column beside the plot.

    Trials far below a front of several are counted, not drawn: they would press it flat.

    Args:
      points: a row a trial: label, cost (above 0, in whatever unit the axis says), accuracy (mean
        over seeds), low and high (ends of its error bar, NaN for none), hollow (whether it is drawn
        as an outline).
      cost_label: of the axis.
    """
    front = pareto_front(points)
    names_width = 0.5 + 0.078 * front.label.map(label_text).str.len().max()
    size = PLOT_INCHES + names_width, max(4.8, 1.4 + LABEL_GAP * len(front))
    figure = Figure(figsize=size, layout='constrained')
    axes, names = figure.subplots(1, 2, width_ratios=[PLOT_INCHES, names_width])
    axes.set_xscale('log')
    _draw_points(
        axes, points.drop(front.index), OTHERS, 'o', 4.5, {'linewidth': 0.8, 'alpha': 0.45}
    )
    _draw_points(axes, front, FRONT, 'D', 6, {'linewidth': 1.4, 'alpha': 0.9})
    axes.step(front.cost, front.accuracy, where='post', color=FRONT, linewidth=1.2)
    axes.set(xlabel=cost_label, ylabel='test accuracy, mean over seeds')
    number_ticks(axes.xaxis)
    if len(front) > 2:
        _leave_out_far_below(axes, points, front)
    _write_names(figure, axes, names, front)
    return figure


def _draw_points(
    axes: Axes, points: pd.DataFrame, colour: str, marker: str, size: float, bars: dict
) -> None:
    axes.vlines(points.cost, points.low, points.high, color=colour, **bars)
    for hollow, some in points.groupby('hollow'):
        face = 'white' if hollow else colour
        axes.plot(
            some.cost,
            some.accuracy,
            marker,
            markersize=size,
            color=colour,
            markerfacecolor=face,
            zorder=3,
        )


def _leave_out_far_below(axes: Axes, points: pd.DataFrame, front: pd.DataFrame) -> None:
    lowest, highest = front.accuracy.min(), front.accuracy.max()
    bottom = lowest - 0.15 * (highest - lowest)
    below = (points.accuracy < bottom).sum()
    if below:
        axes.set_ylim(bottom, highest + 0.1 * (highest - lowest))
        text = f'{count_text(below, "trial")} below {bottom:.3f} not drawn'
        axes.text(0.99, 0.015, text, transform=axes.transAxes, ha='right', fontsize=9)


def _write_names(figure: Figure, axes: Axes, names: Axes, front: pd.DataFrame) -> None:
    """Writes the labels of the front from bottom to top, each with a line to its point."""
    names.set_axis_off()
    names.set(xlim=(0, 1), ylim=(0, 1))
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    gap = LABEL_GAP / (figure.get_figheight() * 0.8)
    heights = spread_out(((front.accuracy - low) / (high - low)).tolist(), gap)
    for point, height in zip(front.itertuples(), heights, strict=True):
        names.text(0.1, height, label_text(point.label), va='center', fontsize=9)
        line = ConnectionPatch(
            (0.08, height),
            (point.cost, point.accuracy),
            'data',
            'data',
            axesA=names,
            axesB=axes,
            color='#666666',
            linewidth=0.7,
            linestyle=':',
            shrinkB=5,
        )
        line.set_in_layout(False)
        figure.add_artist(line)


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Moves ascending heights apart to at least `gap`, within 0 … 1 as far as there is room."""
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    spread = []
    for k, height in enumerate(heights):
        lowest = spread[-1] + gap if spread else 0.0
        spread.append(max(height, lowest, k * gap))
    for k in reversed(range(len(spread))):
        above = spread[k + 1] - gap if k + 1 < len(spread) else 1.0
        spread[k] = min(spread[k], above)
    return spread
