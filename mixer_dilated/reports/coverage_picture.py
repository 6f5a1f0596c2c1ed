"""What each method sees: a few images, the sampled pixels in colour."""

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from mixer_dilated.patches.geometry import Patches
from mixer_dilated.reports.figure_style import figure_style, label_text
from mixer_dilated.reports.patch_picture import show_patches

IMAGE_INCHES = 2.0


@dataclasses.dataclass(frozen=True)
class Seen:
    """One method of the picture.

    Attributes:
      label: what it is called.
      branches, join: its patches (see `show_patches`).
      images: uint8 (images, height, width, channels), the same for all methods.
      facts: lines of text beside the images.
    """

    label: str
    branches: tuple[Patches, ...]
    join: str
    images: np.ndarray
    facts: tuple[str, ...] = ()


@figure_style()
def coverage_picture(methods: list[Seen]) -> Figure:
    """One row a method: its name and facts, then each image with the pixels that it sees."""
    count = len(methods[0].images)
    figure = Figure(
        figsize=(2.3 + count * IMAGE_INCHES, len(methods) * (IMAGE_INCHES + 0.1)),
        layout='constrained',
    )
    grid = figure.subplots(
        len(methods),
        count + 1,
        squeeze=False,
        width_ratios=[2.2, *[IMAGE_INCHES] * count],
    )
    for row, method in zip(grid, methods, strict=True):
        row[0].set_axis_off()
        lines = [*_wrapped(label_text(method.label, 60)), '', *map(label_text, method.facts)]
        row[0].text(0, 0.5, '\n'.join(lines), va='center', transform=row[0].transAxes)
        for axes, image in zip(row[1:], method.images, strict=True):
            show_patches(axes, image, method.branches, method.join)
    return figure


def _wrapped(text: str, length: int = 22) -> list[str]:
    lines = ['']
    for word in text.split(' '):
        longer = f'{lines[-1]} {word}'.strip()
        lines[-1:] = [longer] if len(longer) <= length or not lines[-1] else [lines[-1], word]
    return lines
