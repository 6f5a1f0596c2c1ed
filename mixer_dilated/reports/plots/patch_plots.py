"""What patches see: the sampled pixels of an image in colour."""

import pathlib
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mixer_dilated.config import patch_branches
from mixer_dilated.patches.geometry import Patches
from mixer_dilated.reports.plots.figure import (
    figure_style,
    label_text,
    save_figure,
    show_image,
    subplots,
)

if TYPE_CHECKING:  # a report needs no JAX
    from mixer_dilated.training.setup import Setup

WINDOW, SAMPLE, TOKEN = '#0072b2', '#56b4e9', '#d55e00'
MAX_OUTLINES = 400
IMAGE_INCHES = 2.1  # with the gap beside it


@figure_style()
def coverage_plot(
    rows: Sequence[tuple[str, Sequence[str], tuple[Patches, ...], str, np.ndarray]],
) -> Figure:
    """One row a method: its name and facts, then each image with the pixels that it sees.

    Of each: label, facts, branches and branch_merge (of `show_patches`), and as many uint8 images
    (count, height, width, channels).
    """
    columns = 1 + len(rows[0][-1])
    figure, panels = subplots(len(rows) * columns, columns, IMAGE_INCHES, IMAGE_INCHES)
    for row, (label, facts, branches, branch_merge, images) in enumerate(rows):
        first, *others = panels[row * columns :][:columns]
        first.set_axis_off()
        text = '\n'.join([textwrap.fill(label_text(label, 60), 22), '', *map(label_text, facts)])
        first.text(0, 0.5, text, va='center', transform=first.transAxes)
        for axes, image in zip(others, images, strict=True):
            show_patches(axes, image, branches, branch_merge)
    return figure


def draw_patches(setup: 'Setup', path: pathlib.Path) -> None:
    """Draws a training image as plain patches of the same size see it, and as the network's do.

    The path is that of --picture; a UserError says so where it cannot be written.
    """
    from mixer_dilated.data.stored_images import to_input

    data_source = setup.dataset.data_source(setup.config.dataset.train_split)
    image = to_input(data_source.read([0]).images, setup.image_size)[0]
    designs = {}  # by the pixels they sample: the same geometry is drawn once
    for patches in patch_branches(setup.config.model):
        plain = Patches(size=patches.size, stride=patches.size, padding=patches.padding)
        for design in (plain, patches):
            indices = design.pixel_indices(image.shape[:2])
            designs.setdefault((indices.shape, indices.tobytes()), design)
    figure, panels = subplots(len(designs), len(designs), 4.2, 4.9)
    for axes, patches in zip(panels, designs.values(), strict=True):
        show_patches(axes, image, (patches,))
        pairs = patches.size, patches.dilation, patches.window
        size, dilation, window = ('×'.join(map(str, pair)) for pair in pairs)
        seen = (patches.coverage(image.shape[:2]) > 0).mean()
        title = f'{size} pixels, dilation {dilation}, window {window}\n'
        title += f'{patches.num_tokens(image.shape[:2])} tokens, see {seen:.0%} of the pixels'
        axes.set_title(title, fontsize=11)
        axes.set_xlabel('orange: the pixels of one token', fontsize=9)
    save_figure(figure, path, 'picture')


def show_patches(
    axes: Axes, image: np.ndarray, branches: tuple[Patches, ...], branch_merge: str = 'channels'
) -> None:
    """Draws an image with every sampled pixel in blue, and the pixels of one token in orange.

    Windows are outlined, those of other tokens only where they do not overlap. Padding that a
    patch reaches into is drawn as a grey border. The image is uint8 (height, width, channels).
    Branches are those of one network: merged by 'channels' a token has the pixels of all of them
    at its place, by 'tokens' the one in orange is of the first branch.
    """
    height, width = image.shape[:2]
    sampled = [patches.pixel_indices((height, width)) for patches in branches]
    of_tokens = np.concatenate(sampled, axis=1) if branch_merge == 'channels' else sampled[0]
    rows, columns = branches[0].grid((height, width))
    chosen = rows // 2 * columns + columns // 2
    everything = np.concatenate([indices.reshape(-1, 2) for indices in sampled])
    origin = np.minimum(everything.min(axis=0), 0)
    canvas = _canvas(image, origin, np.maximum(everything.max(axis=0) + 1, (height, width)))
    ink = canvas.copy()
    _tint(canvas, ink, everything - origin, SAMPLE)
    _tint(canvas, ink, of_tokens[chosen] - origin, TOKEN)
    (top, left), (bottom, right) = origin - 0.5, origin + canvas.shape[:2] - 0.5
    show_image(axes, canvas, extent=(left, right, bottom, top))
    _outline(axes, (-0.5, -0.5), (height, width), '#999999', 0.6)
    corners, sizes = of_tokens.min(axis=1) - 0.5, np.ptp(of_tokens, axis=1) + 1
    one_grid = branch_merge == 'channels' or len(branches) == 1
    apart = (sizes[0] <= branches[0].stride).all() and len(sizes) <= MAX_OUTLINES
    others = [token for token in range(len(sizes)) if token != chosen]
    for token in [*(others if one_grid and apart else ()), chosen]:
        colour, width = (TOKEN, 2.5) if token == chosen else (WINDOW, 0.8)
        _outline(axes, corners[token], sizes[token], colour, width)


def _outline(axes: Axes, corner, size, colour: str, width: float) -> None:
    """Draws a rectangle; corner and size are (row, column)."""
    style = {'fill': False, 'edgecolor': colour, 'linewidth': width}
    axes.add_patch(Rectangle(corner[::-1], *size[::-1], **style))


def _canvas(image: np.ndarray, origin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """RGB (rows, columns, 3) from 0 to 1 of an image with its padding; a grey image as ink."""
    canvas = np.full((*(end - origin), 3), 0.9)
    pixels = image / 255 if image.shape[-1] == 3 else (255 - image[..., :1] + 120.0) / 375
    (top, left), (height, width) = -origin, image.shape[:2]
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def _tint(canvas: np.ndarray, ink: np.ndarray, places: np.ndarray, colour: str) -> None:
    """Colours pixels (row, column) of the canvas, the ink showing through."""
    rows, columns = places.T
    canvas[rows, columns] = 0.45 * ink[rows, columns] + 0.55 * np.asarray(to_rgb(colour))
