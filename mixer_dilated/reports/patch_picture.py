"""A picture of what patches see: solid ones and a config's own, on one of its images."""

import pathlib

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mixer_dilated.errors import InputError
from mixer_dilated.patches.geometry import Patches

WINDOW, SAMPLE, TOKEN = '#0072b2', '#56b4e9', '#d55e00'


def draw_patches(branches: tuple[Patches, ...], image: np.ndarray, path: pathlib.Path) -> None:
    """Draws an image as plain patches of the same size see it, and as the branches do.

    Args:
      branches: patch geometries.
      image: uint8 (height, width, channels).
      path: picture file; its ending chooses the format.

    Raises:
      InputError: the file cannot be written.
    """
    designs = {}  # by the pixels they sample: the same geometry is drawn once
    for patches in branches:
        plain = Patches(size=patches.size, stride=patches.size, padding=patches.padding)
        for design in (plain, patches):
            indices = design.pixel_indices(image.shape[:2])
            designs.setdefault((indices.shape, indices.tobytes()), design)
    figure = Figure(figsize=(4.2 * len(designs), 4.9), layout='constrained')
    for axes, patches in zip(
        figure.subplots(1, len(designs), squeeze=False)[0], designs.values(), strict=True
    ):
        _draw(axes, image, patches)
    try:
        with matplotlib.rc_context({'svg.hashsalt': 'mixer_dilated'}):
            figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise InputError(f'--picture={path}: cannot be written: {error}') from None


def _draw(axes, image: np.ndarray, patches: Patches) -> None:
    height, width = image.shape[:2]
    axes.imshow(255 - image.squeeze(), cmap='gray', vmin=-120, vmax=255)
    indices = patches.pixel_indices((height, width))
    rows, columns = patches.grid((height, width))
    chosen = rows // 2 * columns + columns // 2
    for y, x in np.argwhere(patches.coverage((height, width))):
        colour = TOKEN if (indices[chosen] == (y, x)).all(axis=1).any() else SAMPLE
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colour, alpha=0.55, linewidth=0))
    overlapping = any(w > s for w, s in zip(patches.window, patches.stride, strict=True))
    others = [] if overlapping else [token for token in range(len(indices)) if token != chosen]
    for token in [*others, chosen]:
        top, left = indices[token][0] - 0.5
        axes.add_patch(
            Rectangle(
                (left, top),
                patches.window[1],
                patches.window[0],
                fill=False,
                edgecolor=TOKEN if token == chosen else WINDOW,
                linewidth=2.5 if token == chosen else 0.8,
            )
        )
    seen = (patches.coverage((height, width)) > 0).mean()
    size, dilation, window = (
        '×'.join(map(str, pair)) for pair in (patches.size, patches.dilation, patches.window)
    )
    axes.set_title(
        f'{size} pixels, dilation {dilation}, window {window}\n'
        f'{len(indices)} tokens, see {seen:.0%} of the pixels',
        fontsize=11,
    )
    axes.set_xlabel('orange: the pixels of one token', fontsize=9)
    axes.set(xticks=[], yticks=[])
