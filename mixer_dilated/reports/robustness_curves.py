"""Accuracy on corrupted test images against the strength of the corruption."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from mixer_dilated.reports.curves import draw_band
from mixer_dilated.reports.figure_style import figure_style, label_text, legend_below, line_style

UNITS = {
    'shift': 'pixels moved, in one of eight directions',
    'noise': 'standard deviation, where the range of values is 1',
    'occlusion': 'side of the black square, pixels',
    'contrast': 'part of the contrast taken away',
}


@figure_style()
def robustness_curves(
    methods: Mapping[str, Mapping[str, Mapping[float, Mapping]]],
) -> Figure:
    """A panel a corruption, a line a method with a band of the 95 % interval.

    Args:
      methods: {label: {corruption: {strength: {mean, low, high} of the accuracy}}}; low and high
        may be None.
    """
    corruptions = list(dict.fromkeys(name for found in methods.values() for name in found))
    columns = min(2, len(corruptions))
    rows = -(-len(corruptions) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.5 * rows + 0.5), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in list(grid.flat)[len(corruptions) :]:
        axes.set_axis_off()
    lines = {}
    for axes, corruption in zip(grid.flat, corruptions, strict=False):
        for index, (label, found) in enumerate(methods.items()):
            points = found.get(corruption)
            if points:
                strengths = sorted(points)
                draw_band(axes, np.array(strengths), *_band(points, strengths), line_style(index))
                lines.setdefault(label, axes.lines[-1])
        strengths = sorted({s for found in methods.values() for s in found.get(corruption, ())})
        axes.set_xticks(strengths, [f'{strength:g}' for strength in strengths])
        axes.set(title=label_text(corruption), ylabel='test accuracy')
        axes.set_xlabel(UNITS.get(corruption, 'strength'))
        axes.yaxis.set_tick_params(labelleft=True)
    legend_below(figure, list(lines.values()), [label_text(label) for label in lines])
    return figure


def _band(points: Mapping, strengths: list[float]) -> list[np.ndarray]:
    mean = [points[s]['mean'] for s in strengths]
    ends = (
        [points[s]['mean'] if points[s][end] is None else points[s][end] for s in strengths]
        for end in ('low', 'high')
    )
    return [np.array(values) for values in (mean, *ends)]
