"""Heat maps of accuracy over two settings of a sweep, one panel a combination of the others."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mixer_dilated.reports.cell_text import setting_text
from mixer_dilated.reports.figure_style import figure_style, label_text

CELL_INCHES, PAGE_INCHES = 0.62, 10.8


def map_axes(axes: Sequence[str], cells: Sequence[Mapping]) -> tuple[str, str] | None:
    """The last two settings that are numbers and vary: (down, across); None if there are none.

    They change fastest in a `grid`.

    Args:
      axes: the settings' names.
      cells: {setting: value} of every cell.
    """
    varying = [
        axis
        for axis in axes
        if all(type(cell.get(axis)) in (int, float) for cell in cells)
        and len({cell[axis] for cell in cells}) > 1
    ]
    return (varying[-2], varying[-1]) if len(varying) > 1 else None


@figure_style()
def accuracy_maps(
    down: str, across: str, panels: Mapping[str, Mapping[tuple[float, float], float | None]]
) -> Figure:
    """A panel for each combination of the other settings, all on one colour scale.

    Args:
      down, across: the two settings' names.
      panels: {title: {(value down, value across): mean accuracy, None for a cell that cannot be,
        NaN for one that is not trained yet}}.
    """
    rows_at, columns_at = (
        sorted({place[k] for panel in panels.values() for place in panel}) for k in (0, 1)
    )
    known = [v for panel in panels.values() for v in panel.values() if v is not None]
    found = [value for value in known if not np.isnan(value)]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    width = max(len(columns_at) * CELL_INCHES + 0.9, 2.4)
    rows = -(-len(panels) // max(1, int(PAGE_INCHES / width)))
    a_row = -(-len(panels) // rows)  # rows as equal as can be
    height = len(rows_at) * CELL_INCHES * 0.72 + 1.0
    figure = Figure(
        figsize=(max(a_row * width + 1.1, 4.2), max(rows * height, 2.4)), layout='constrained'
    )
    grid = figure.subplots(rows, a_row, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=False):
        values = np.full((len(rows_at), len(columns_at)), np.nan)
        for (y, x), value in panel.items():
            if value is not None:
                values[rows_at.index(y), columns_at.index(x)] = value
        axes.set_axis_on()
        picture = axes.imshow(
            values, cmap='viridis', vmin=low, vmax=max(high, low + 1e-6), aspect='auto'
        )
        _write(axes, values, low, high)
        for (y, x), value in panel.items():
            if value is None:
                _hatch(axes, rows_at.index(y), columns_at.index(x))
        axes.set_title(label_text(title), fontsize=9.5)
        axes.set(xlabel=label_text(across, 20), ylabel=label_text(down, 20))
        axes.set_xticks(range(len(columns_at)), map(setting_text, columns_at))
        axes.set_yticks(range(len(rows_at)), map(setting_text, rows_at))
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
    figure.colorbar(picture, ax=grid, label='mean test accuracy', aspect=30)
    return figure


def _write(axes, values: np.ndarray, low: float, high: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            dark = value < low + 0.55 * (high - low)
            axes.text(
                column,
                row,
                f'{value:.3f}',
                ha='center',
                va='center',
                fontsize=9,
                color='white' if dark else 'black',
            )


def _hatch(axes, row: int, column: int) -> None:
    axes.add_patch(
        Rectangle(
            (column - 0.47, row - 0.47),
            0.94,
            0.94,
            facecolor='#f4f4f4',
            edgecolor='#888888',
            hatch='////',
            linewidth=0,
        )
    )
