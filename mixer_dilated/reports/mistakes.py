"""The mistakes a network is surest of."""

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from mixer_dilated.reports.figure_style import figure_style, label_text

COLUMNS, IMAGE_INCHES, TITLE_INCHES = 8, 1.0, 0.5
LETTERS = 12  # in a line that is as wide as a picture


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A test image that was taken for another class.

    Attributes:
      image: uint8 (height, width, channels).
      true, predicted: names of classes.
      confidence: the probability that the network gave the predicted class.
    """

    image: np.ndarray
    true: str
    predicted: str
    confidence: float


@figure_style()
def mistakes_picture(mistakes: list[Mistake]) -> Figure:
    """Images in reading order; above each 'true → predicted' and the confidence; long names cut."""
    columns = min(COLUMNS, len(mistakes))
    rows = -(-len(mistakes) // columns)
    # The layout is known, and finding it anew for so many panels would take long.
    height = rows * (IMAGE_INCHES + TITLE_INCHES)
    figure = Figure(figsize=(1.15 * IMAGE_INCHES * columns, height), layout='none')
    room = {'left': 0, 'right': 1, 'bottom': 0.02 / rows, 'top': 1 - TITLE_INCHES / height}
    room |= {'hspace': TITLE_INCHES / IMAGE_INCHES, 'wspace': 0.15}
    grid = list(figure.subplots(rows, columns, squeeze=False, gridspec_kw=room).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, mistake in zip(grid, mistakes, strict=False):
        grey = mistake.image.shape[-1] == 1
        image = 255 - mistake.image[..., 0] if grey else mistake.image
        axes.imshow(image, cmap='gray', vmin=0, vmax=255)
        axes.set_title(_title(mistake), fontsize=9.5)
    return figure


def _title(mistake: Mistake) -> str:
    confidence = f'{min(mistake.confidence, 0.999):.3f}'
    title = f'{mistake.true} → {mistake.predicted}'
    if len(title) > LETTERS:
        return f'{label_text(mistake.true, 12)} →\n{label_text(mistake.predicted, 8)} {confidence}'
    return f'{title}\n{confidence}'
