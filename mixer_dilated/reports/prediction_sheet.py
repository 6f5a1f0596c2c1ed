"""A sheet of pictures with what a network says of them."""

import dataclasses
import io
import pathlib
import warnings

import numpy as np
from matplotlib.figure import Figure

from mixer_dilated.files import AtomicFile
from mixer_dilated.reports.figure_style import COLOURS, figure_style, label_text
from mixer_dilated.reports.plot import PNG_DOTS_PER_INCH

COLUMNS, IMAGE_INCHES, LINE_INCHES = 10, 1.25, 0.19
MAX_CLASSES = 5
LETTERS = 17  # of 9 points beside one another on a picture's width


@dataclasses.dataclass(frozen=True)
class Predicted:
    """A picture and its classes.

    Attributes:
      image: uint8 (height, width, channels), as the network sees it.
      file: its file's name.
      classes: (name, probability) pairs, the most probable first.
    """

    image: np.ndarray
    file: str
    classes: list[tuple[str, float]]


@figure_style()
def prediction_sheet(pictures: list[Predicted], note: str = '') -> Figure:
    """Pictures in reading order; below each its file, and its classes with bars as long as their
    probabilities.

    Args:
      pictures: those to draw.
      note: a line below all.
    """
    lines = 1 + min(MAX_CLASSES, max(len(picture.classes) for picture in pictures))
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    cell_width, text_height = 1.12 * IMAGE_INCHES, (lines + 0.6) * LINE_INCHES
    cell_height = IMAGE_INCHES + text_height
    width = max(columns * cell_width, 3 * cell_width) + 0.12
    bottom = 0.3 if note else 0.05
    height = rows * cell_height + bottom + 0.08
    figure = Figure(figsize=(width, height), layout='none')
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        left = (0.1 + column * cell_width) / width
        top = 1 - (0.08 + row * cell_height) / height
        share = IMAGE_INCHES / width, IMAGE_INCHES / height
        _show_image(figure.add_axes((left, top - share[1], *share)), picture.image)
        share = IMAGE_INCHES / width, lines * LINE_INCHES / height
        text_top = top - (IMAGE_INCHES + 0.04) / height
        _show_classes(figure.add_axes((left, text_top - share[1], *share)), picture, lines)
    if note:
        figure.text(0.1 / width, 0.09 / height, note, fontsize=9, color='#555555')
    return figure


def _show_image(axes, image: np.ndarray) -> None:
    grey = image.shape[-1] == 1
    axes.imshow(image[..., 0] if grey else image[..., :3], cmap='gray', vmin=0, vmax=255)
    axes.set_axis_off()


def _show_classes(axes, picture: Predicted, lines: int) -> None:
    axes.set(xlim=(0, 1), ylim=(lines, 0))
    axes.set_axis_off()
    style = {'fontsize': 9, 'va': 'center', 'transform': axes.transData}
    axes.text(0, 0.5, label_text(picture.file, LETTERS), color='#555555', **style)
    for line, (name, probability) in enumerate(picture.classes[: lines - 1], 1):
        axes.barh(line + 0.5, probability, 0.86, color=COLOURS[5] if line == 1 else '#cfe6f5')
        axes.text(0.02, line + 0.5, label_text(name, LETTERS - 6), **style)
        axes.text(0.98, line + 0.5, f'{probability:.3f}', ha='right', **style)


@figure_style()
def write_sheet(figure: Figure, path: pathlib.Path) -> None:
    """Writes the file of --sheet; its ending, '.png', '.pdf' or '.svg', chooses the format.

    Raises:
      UserError: it cannot be written.
    """
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph', UserWarning)  # letters without a shape
        figure.savefig(content, format=path.suffix[1:].lower(), dpi=PNG_DOTS_PER_INCH)
    with AtomicFile(path, 'sheet') as file:
        file.write(content.getvalue())
