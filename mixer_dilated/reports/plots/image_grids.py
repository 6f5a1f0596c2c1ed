"""Grids of images: mistakes, augmentation, predictions, learned weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixer_dilated.reports.plots.figure import (
    COLOURS,
    figure_style,
    label_text,
    show_image,
    subplots,
)

MAX_CLASSES, MAX_LETTERS, LINE_INCHES = 5, 17, 0.19  # letters beside one another on an image
MAX_UNITS, UNITS_A_ROW, MAX_PANELS, PANELS_A_ROW = 64, 8, 16, 4


def _image_grid(
    count: int,
    columns: int,
    size: tuple[float, float],
    row_gap: float,
    top: float = 0.48,
    gap: float = 0.15,
    bottom: float = 0.02,
) -> tuple[Figure, np.ndarray]:
    """A figure of as many images in reading order, and the grid of their axes, which are off.

    All sizes are in inches: (height, width) of an image, the gaps between rows and columns, what is
    above and below all. So the layout is known, which takes long to find for so many panels.
    """
    (height, width), rows = size, -(-count // columns)
    size = columns * (width + gap), rows * (height + row_gap) - row_gap + top + bottom
    figure = Figure(figsize=size, layout='none')
    room = {'left': gap / 2 / size[0], 'right': 1 - gap / 2 / size[0], 'wspace': gap / width}
    room |= {'bottom': bottom / size[1], 'top': 1 - top / size[1], 'hspace': row_gap / height}
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=room)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


@figure_style()
def mistakes_plot(mistakes: Sequence[tuple[np.ndarray, str, str, float]]) -> Figure:
    """Images in reading order; above each 'true → predicted' and the confidence; long names cut.

    A mistake is (image, true class, predicted class, its probability).
    """
    columns = min(8, len(mistakes))
    figure, grid = _image_grid(len(mistakes), columns, (1.0, 1.0), row_gap=0.5)
    for axes, (image, true, predicted, probability) in zip(grid.flat, mistakes, strict=False):
        show_image(axes, image, as_ink=True)
        title, confidence = f'{true} → {predicted}\n', f'{min(probability, 0.999):.3f}'
        if len(title) > 13:
            title = f'{label_text(true, 12)} →\n{label_text(predicted, 8)} '
        axes.set_title(title + confidence, fontsize=9.5)
    return figure


@figure_style()
def augmentation_plot(columns: Mapping[str, np.ndarray]) -> Figure:
    """One row an image, one column a way to show it: {title: uint8 (images, height, width,
    channels)}, all alike; a title has two lines where a comma is."""
    images = np.stack([*columns.values()], axis=1)
    rows, count, height, width, _ = images.shape
    size = 0.85 * height / width, 0.85
    figure, grid = _image_grid(rows * count, count, size, row_gap=0.085, gap=0.085)
    for axes, image in zip(grid.flat, images.reshape(-1, *images.shape[2:]), strict=True):
        axes.set_axis_on()
        show_image(axes, image, as_ink=True)
        axes.spines[:].set(visible=True, color='#d0d0d0', linewidth=0.6)
    for axes, title in zip(grid[0], columns, strict=True):
        lines = [label_text(line, 14) for line in title.split(',')[:2]]
        axes.set_title('\n'.join(lines), fontsize=9)
    return figure


@figure_style()
def prediction_sheet(
    images: Sequence[tuple[np.ndarray, str, list[tuple[str, float]]]], note: str = ''
) -> Figure:
    """Images in reading order, uint8 (height, width, channels); below each its file's name, and its
    classes, the most probable first, with bars as long as their probabilities; a note below all."""
    lines = 1 + min(MAX_CLASSES, max(len(classes) for _, _, classes in images))
    columns = max(3, min(10, len(images)))
    height, width, _ = images[0][0].shape
    size = 1.25 * height / width, 1.25
    text_height, below = lines * LINE_INCHES, 0.3 if note else 0.05
    bottom, row_gap = text_height + below, text_height + 0.6 * LINE_INCHES
    figure, grid = _image_grid(len(images), columns, size, row_gap, top=0.08, bottom=bottom)
    for axes, (image, file, classes) in zip(grid.flat, images, strict=False):
        show_image(axes, image)
        box = 0, -(text_height + 0.04) / size[0], 1, text_height / size[0]
        _write_classes(axes.inset_axes(box), file, classes, lines)
    if note:
        figure.text(0.1, 0.09, note, fontsize=9, color='#555555', transform=figure.dpi_scale_trans)
    return figure


def _write_classes(axes: Axes, file: str, classes: list[tuple[str, float]], lines: int) -> None:
    axes.set(xlim=(0, 1), ylim=(lines, 0))
    axes.set_axis_off()
    style = {'fontsize': 9, 'va': 'center'}
    axes.text(0, 0.5, label_text(file, MAX_LETTERS), color='#555555', **style)
    for line, (name, probability) in enumerate(classes[: lines - 1], 1):
        axes.barh(line + 0.5, probability, 0.86, color=COLOURS[5] if line == 1 else '#cfe6f5')
        axes.text(0.02, line + 0.5, label_text(name, MAX_LETTERS - 6), **style)
        axes.text(0.98, line + 0.5, f'{probability:.3f}', ha='right', **style)


@figure_style()
def weights_plot(panels: Mapping[str, np.ndarray]) -> Figure:
    """Mosaics of the 64 units with the largest weights; one scale, symmetric about 0.

    Panels are {title: weights (height, width, units)} of as many units, each of any height and
    width; unit k is at the same place in each of the first 16, which are drawn. What is not finite,
    as after a divergence, is drawn as 0.
    """
    panels = {
        title: np.nan_to_num(weights, posinf=0, neginf=0)
        for title, weights in list(panels.items())[:MAX_PANELS]
    }
    size = sum((weights**2).sum(axis=(0, 1)) for weights in panels.values())
    order = np.argsort(-size, kind='stable')[:MAX_UNITS]
    mosaics = [_mosaic(weights[..., order]) for weights in panels.values()]
    limit = max(np.nanmax(np.abs(mosaic)) for mosaic in mosaics) or 1.0
    width, letters = (4.1, 64) if len(panels) < 3 else (2.4, 32)
    height = min(max(width * mosaics[0].shape[0] / mosaics[0].shape[1], 1.2), 8.0)
    bar = 1.0 / min(PANELS_A_ROW, len(panels))
    figure, grid = subplots(len(panels), PANELS_A_ROW, width + bar, height + 0.45)
    for axes, title, mosaic in zip(grid, panels, mosaics, strict=True):
        show_image(axes, mosaic, cmap='RdBu_r', vmin=-limit, vmax=limit)
        axes.set_title(label_text(title, letters), fontsize=10)
    figure.colorbar(grid[0].images[0], ax=grid, label='weight', shrink=0.8, aspect=30)
    return figure


def _mosaic(units: np.ndarray, zoom: int = 8, gap: int = 5) -> np.ndarray:
    """Units (height, width, units) in rows of 8, with gaps of NaN between them."""
    count = units.shape[-1]
    rows, columns = -(-count // UNITS_A_ROW), min(UNITS_A_ROW, count)
    units = units.repeat(zoom, axis=0).repeat(zoom, axis=1)
    room = (0, gap), (0, gap), (0, rows * columns - count)
    units = np.pad(units, room, constant_values=np.nan)
    height, width, _ = units.shape
    tiles = units.reshape(height, width, rows, columns).transpose(2, 0, 3, 1)
    return tiles.reshape(rows * height, columns * width)[:-gap, :-gap]
