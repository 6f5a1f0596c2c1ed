"""Training images beside what augmentation makes of them."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from mixer_dilated.reports.figure_style import figure_style, label_text

IMAGE_INCHES, TITLE_INCHES, GAP = 0.85, 0.45, 0.1


@figure_style()
def augmentation_picture(columns: Mapping[str, np.ndarray]) -> Figure:
    """One row an image, one column a way to show it.

    Args:
      columns: {title: uint8 (images, height, width, channels)}, all alike; a title has two lines
        where a comma is.
    """
    count, height, width, channels = next(iter(columns.values())).shape
    tall = IMAGE_INCHES * height / width
    # The layout is known, and finding it anew for so many panels would take long.
    rows_inches = count * tall + (count - 1) * GAP * tall
    size = (len(columns) * (1 + GAP) * IMAGE_INCHES, rows_inches + TITLE_INCHES)
    figure = Figure(figsize=size, layout='none')
    room = {'left': 0.003, 'right': 0.997, 'bottom': 0.005, 'top': rows_inches / size[1]}
    room |= {'hspace': GAP, 'wspace': GAP}
    grid = figure.subplots(count, len(columns), squeeze=False, gridspec_kw=room)
    for of_column, (title, images) in zip(grid.T, columns.items(), strict=True):
        lines = [label_text(line, 14) for line in title.split(',')[:2]]
        of_column[0].set_title('\n'.join(lines), fontsize=8.5)
        for axes, image in zip(of_column, images, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color='#d0d0d0', linewidth=0.6)
            shown = 255 - image[..., 0] if channels == 1 else image
            axes.imshow(shown, cmap='gray', vmin=0, vmax=255)
    return figure
