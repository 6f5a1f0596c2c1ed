"""Learned weights as small images: the stem's kernels, the first block's token mixing."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from mixer_dilated.reports.figure_style import figure_style, label_text

MAX_UNITS, COLUMNS, MAX_PANELS, PANELS_A_ROW = 64, 8, 16, 4
COLOUR_MAP = 'RdBu_r'


@figure_style()
def weight_images(panels: Mapping[str, np.ndarray], unit: str) -> Figure:
    """Mosaics of units, those with the largest weights first; one scale, symmetric about 0.

    Args:
      panels: {title: weights (height, width, units)}, all with as many units; unit k is at the same
        place in each. Of more than 64 units the largest are drawn, of more than 16 panels the
        first.
      unit: what the colours measure.
    """
    panels = dict(list(panels.items())[:MAX_PANELS])
    # What is not finite, as after a divergence, stays white and has no say in the scale.
    panels = {name: np.where(np.isfinite(w), w, np.nan) for name, w in panels.items()}
    size = sum((np.nan_to_num(weights) ** 2).sum(axis=(0, 1)) for weights in panels.values())
    order = np.argsort(-size, kind='stable')[:MAX_UNITS]
    shown = [np.nan_to_num(weights[..., order]) for weights in panels.values()]
    limit = max(float(np.abs(weights).max()) for weights in shown) or 1.0
    columns = min(PANELS_A_ROW, len(panels))
    rows = -(-len(panels) // columns)
    width = 4.1 if columns < 3 else 2.4
    height, across = (
        (length + 0.6) * count
        for length, count in zip(
            next(iter(panels.values())).shape[:2],
            (-(-len(order) // COLUMNS), COLUMNS),
            strict=True,
        )
    )
    tall = min(max(width * height / across, 1.2), 8.0)
    figure = Figure(figsize=(columns * width + 1.0, rows * (tall + 0.45)), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (title, weights) in zip(grid.flat, panels.items(), strict=False):
        picture = axes.imshow(
            _mosaic(weights[..., order]), cmap=COLOUR_MAP, vmin=-limit, vmax=limit
        )
        axes.set_title(label_text(title, 64 if columns < 3 else 32), fontsize=10)
    figure.colorbar(picture, ax=grid, label=unit, shrink=0.8, aspect=30)
    return figure


def _mosaic(units: np.ndarray, zoom: int = 8, gap: int = 5) -> np.ndarray:
    """Units (height, width, units) in rows of 8, with gaps of NaN between them."""
    height, width, count = units.shape
    rows, columns = -(-count // COLUMNS), min(COLUMNS, count)
    tall, wide = height * zoom + gap, width * zoom + gap
    mosaic = np.full((rows * tall - gap, columns * wide - gap), np.nan)
    for k in range(count):
        top, left = k // COLUMNS * tall, k % COLUMNS * wide
        image = units[..., k].repeat(zoom, axis=0).repeat(zoom, axis=1)
        mosaic[top : top + height * zoom, left : left + width * zoom] = image
    return mosaic
