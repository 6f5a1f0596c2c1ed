"""What a method costs against the side of the image."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mixer_dilated.reports.figure_style import (
    figure_style,
    label_text,
    legend_below,
    line_style,
    number_ticks,
)
from mixer_dilated.reports.quantities import QUANTITIES


@figure_style()
def resolution_curves(
    methods: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]],
    exponents: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Four panels, both axes logarithmic: a straight line is a power of the side.

    Args:
      methods: {label: {one of QUANTITIES: {image side: value, or (value, lower quartile, upper
        quartile)}}}, in tokens, FLOPs, seconds and bytes.
      exponents: {label: {the same names: fitted exponent of the side}}; may lack any.
    """
    figure = Figure(figsize=(10.4, 8.0), layout='constrained')
    grid = figure.subplots(2, 2)
    sides = sorted({side for found in methods.values() for side in found['num_tokens']})
    for axes, (name, quantity) in zip(grid.flat, QUANTITIES.items(), strict=True):
        axes.set_xscale('log')
        axes.set_yscale('log')
        for index, (label, found) in enumerate(methods.items()):
            exponent = exponents.get(label, {}).get(name)
            _draw(axes, found[name], quantity.scale, line_style(index), exponent)
        axes.set(title=quantity.noun, xlabel='side of the image (pixels)', ylabel=quantity.axis)
        number_ticks(axes.xaxis, sides)
        number_ticks(axes.yaxis)
        if any(exponents.get(label, {}).get(name) is not None for label in methods):
            axes.legend(title='grows as', title_fontsize=9, alignment='left', handlelength=3.2)
    legend_below(figure, grid[0, 0].lines, [label_text(label) for label in methods])
    return figure


def _draw(axes, points: Mapping, scale: float, style: dict, exponent: float | None) -> None:
    sides = sorted(side for side, value in points.items() if _middle(value) > 0)
    middle = [_middle(points[side]) * scale for side in sides]
    label = '_' if exponent is None else f'side to the power {exponent:.2f}'
    axes.plot(sides, middle, label=label, **style)
    if sides and isinstance(points[sides[0]], Sequence):
        low, high = ([points[side][k] * scale for side in sides] for k in (1, 2))
        axes.fill_between(sides, low, high, color=style['color'], alpha=0.16, linewidth=0)


def _middle(value: float | Sequence[float]) -> float:
    return value[0] if isinstance(value, Sequence) else value
