"""The Pareto front: cells that no other cell beats in accuracy and cost at once."""

import dataclasses
from collections.abc import Sequence

from matplotlib.figure import Figure

from mixer_dilated.reports.cell_text import count_text
from mixer_dilated.reports.figure_style import figure_style, label_text, number_ticks

FRONT, OTHERS = '#d55e00', '#8a8a8a'
LABEL_GAP = 0.19  # inches from one label to the next
PLOT_INCHES = 7.0


@dataclasses.dataclass(frozen=True)
class Point:
    """A cell of the picture.

    Attributes:
      label: what it is called.
      cost: above 0, in whatever unit the axis says.
      accuracy: mean over seeds.
      low, high: ends of its error bar; None for no bar.
      hollow: whether it is drawn as an outline.
    """

    label: str
    cost: float
    accuracy: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, accuracy) that no other point dominates, the cheapest first.

    A point dominates another if it costs no more and is no less accurate, and is better in one of
    the two. Points that are equal in both are on the front together.
    """
    front, best, cost_of_best = [], float('-inf'), None
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        cost, accuracy = points[index]
        if accuracy > best:
            best, cost_of_best = accuracy, cost
            front.append(index)
        elif accuracy == best and cost == cost_of_best:
            front.append(index)
    return front


@figure_style()
def pareto_picture(points: Sequence[Point], cost_label: str) -> Figure:
    """Accuracy against cost; the front's cells are named in a column beside the plot.

    Cells far below a front of several are counted, not drawn: they would press it flat.
    """
    front = [points[i] for i in pareto_front([(p.cost, p.accuracy) for p in points])]
    names_width = 0.5 + 0.078 * max(len(label_text(point.label)) for point in front)
    size = PLOT_INCHES + names_width, max(4.8, 1.4 + LABEL_GAP * len(front))
    figure = Figure(figsize=size, layout='constrained')
    axes, names = figure.subplots(1, 2, width_ratios=[PLOT_INCHES, names_width])
    axes.set_xscale('log')
    for point in points:
        _draw(axes, point, point in front)
    axes.step(
        [point.cost for point in front],
        [point.accuracy for point in front],
        where='post',
        color=FRONT,
        linewidth=1.2,
        zorder=3,
    )
    axes.set(xlabel=cost_label, ylabel='test accuracy, mean over seeds')
    number_ticks(axes.xaxis)
    if len(front) > 2:
        _leave_out_far_below(axes, points, front)
    _name(figure, axes, names, front)
    return figure


def _draw(axes, point: Point, on_front: bool) -> None:
    colour, layer = (FRONT, 4) if on_front else (OTHERS, 2)
    if point.low is not None and point.high is not None:
        axes.vlines(
            point.cost,
            point.low,
            point.high,
            color=colour,
            linewidth=1.4 if on_front else 0.8,
            alpha=0.9 if on_front else 0.45,
            zorder=layer,
        )
    axes.plot(
        point.cost,
        point.accuracy,
        'D' if on_front else 'o',
        markersize=6 if on_front else 4.5,
        color=colour,
        markerfacecolor='white' if point.hollow else colour,
        zorder=layer,
    )


def _leave_out_far_below(axes, points: Sequence[Point], front: Sequence[Point]) -> None:
    lowest, highest = front[0].accuracy, front[-1].accuracy
    bottom = lowest - 0.15 * (highest - lowest)
    below = sum(point.accuracy < bottom for point in points)
    if below:
        axes.set_ylim(bottom, highest + 0.1 * (highest - lowest))
        text = f'{count_text(below, "cell")} below {bottom:.3f} not drawn'
        axes.text(0.99, 0.015, text, transform=axes.transAxes, ha='right', fontsize=9)


def _name(figure, axes, names, front: Sequence[Point]) -> None:
    """Writes the labels of the front from bottom to top, each with a line to its point."""
    from matplotlib.patches import ConnectionPatch

    names.set_axis_off()
    names.set(xlim=(0, 1), ylim=(0, 1))
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    gap = LABEL_GAP / (figure.get_figheight() * 0.8)
    wanted = [(point.accuracy - low) / (high - low) for point in front]
    for point, height in zip(front, spread_out(wanted, gap), strict=True):
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
    placed = []
    for k, height in enumerate(heights):
        lowest = placed[-1] + gap if placed else 0.0
        placed.append(max(height, lowest, k * gap))
    for k in reversed(range(len(placed))):
        above = placed[k + 1] - gap if k + 1 < len(placed) else 1.0
        placed[k] = min(placed[k], above)
    return placed
