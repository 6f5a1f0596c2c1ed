"""The one way to draw: how figures look, and how they become a file or a part of a page."""

import functools
import io
import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from mixer_dilated.errors import UserError
from mixer_dilated.files import AtomicFile
from mixer_dilated.reports.formatting import grouped_text

# Okabe and Ito's colours, without the yellow that white paper swallows.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
LABEL_LENGTH = 48
DOTS_PER_INCH = 144
# Dates and versions are left out, so that the same data give the same bytes.
_METADATA = {
    'png': {'Software': None},
    'svg': dict.fromkeys(('Date', 'Creator', 'Format', 'Type')),
    'pdf': {'CreationDate': None},
}
_STYLE = {
    'text.parse_math': False,  # a label that holds `$` is drawn as it is
    'svg.hashsalt': 'mixer_dilated',
    'axes.titlesize': 10.5,
    **dict.fromkeys(('xtick.labelsize', 'ytick.labelsize', 'legend.fontsize'), 9),
    **dict.fromkeys((f'figure.constrained_layout.{side}_pad' for side in 'wh'), 0.08),
    **dict.fromkeys(('legend.frameon', 'axes.spines.top', 'axes.spines.right'), False),
    **dict.fromkeys(('axes.grid', 'axes.axisbelow'), True),
    'grid.color': '#e4e4e4',
    'hatch.linewidth': 0.6,
}


# Matplotlib's settings for a figure, as a decorator or a context: figure_style().
figure_style = functools.partial(matplotlib.style.context, _STYLE, after_reset=True)


class Plot(NamedTuple):
    """One plot of a report, or why there is none."""

    title: str
    name: str = ''  # of its file, without ending
    caption: str = ''  # how to read it
    alt: str = ''  # what it shows, for those who cannot see it
    figure: Figure | None = None
    omitted: str = ''  # why nothing is drawn


@figure_style()
def render(figure: Figure, file_format: str) -> bytes:
    """A figure as the content of a file, 'png', 'svg', 'pdf' and others that Matplotlib writes."""
    content, metadata = io.BytesIO(), _METADATA.get(file_format)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph', UserWarning)  # letters without a shape
        figure.savefig(content, format=file_format, dpi=DOTS_PER_INCH, metadata=metadata)
    return content.getvalue()


def save_figure(figure: Figure, path: pathlib.Path, flag: str = '') -> None:
    """Writes a figure; the ending of the path chooses the format.

    A UserError of what cannot be written names the flag that the path was given by.
    """
    file_format = path.suffix[1:].lower()
    allowed = figure.canvas.get_supported_filetypes()
    if file_format not in allowed:
        endings = ', '.join(f'.{ending}' for ending in sorted(allowed))
        raise UserError(f'--{flag}={path}: allowed are names that end with {endings}')
    with AtomicFile(path, flag) as file:
        file.write(render(figure, file_format))


def svg_text(plot: Plot) -> str:
    """The plot as an <svg> element without metadata that loads nothing; its identifiers start with
    the plot's name, so that those of two plots on a page never meet."""
    svg = render(plot.figure, 'svg').decode()
    svg = re.sub(r'<!--.*?-->', '', svg[svg.index('<svg') :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf'\g<1>{plot.name}-', svg)
    return re.sub(r'\n\s*', '\n', svg).strip()


def label_text(text: str, length: int = LABEL_LENGTH) -> str:
    """A label on one line, cut where it would be longer than `length` characters."""
    text = ' '.join(''.join(c if c.isprintable() else ' ' for c in text).split())
    return text if len(text) <= length else f'{text[: length - 1]}…'


def subplots(panels: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with as many panels of `width` × `height` inches in rows, and their flat axes."""
    columns = max(1, min(columns, panels))
    rows = -(-panels // columns)
    figure = Figure(figsize=(columns * width, rows * height), layout='constrained')
    grid = [*figure.subplots(rows, columns, squeeze=False).flat]
    for axes in grid[panels:]:
        axes.set_axis_off()
    return figure, grid[:panels]


def show_image(axes: Axes, image: np.ndarray, *, as_ink: bool = False, **options) -> None:
    """Draws an image (height, width[, channels]) without ticks; a grey one as dark ink if asked."""
    if image.ndim == 3:
        image = image[..., :3] if image.shape[-1] > 1 else image[..., 0]
    if as_ink and image.ndim == 2:
        image = 255 - image
    look = {'cmap': 'gray', 'vmin': 0, 'vmax': 255, 'interpolation': 'none'}
    axes.imshow(image, **look | options)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def number_ticks(axis, values: Sequence[float] | None = None) -> None:
    """Plain numbers along a logarithmic axis: at `values`, or at round numbers of what it shows."""
    low, high = sorted(axis.get_view_interval())
    if high < 1.1 * low:
        low, high = low / 1.3, high * 1.3
    # Fixed, or the other locator would choose other limits.
    axis.axes.set(**{f'{axis.axis_name}lim': (low, high)})
    locator = LogLocator(subs=(1, 2, 5) if high < 1e4 * low else (1,))
    if values:
        locator = FixedLocator(values)
    elif high < 12 * low:  # within a decade 1, 2 and 5 are too few
        locator = MaxNLocator(6, steps=[1, 2, 5, 10])
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    # 12300 is '12 300', 0.25 is '0.25': four significant digits at most.
    axis.set_major_formatter(lambda x, _: grouped_text(x) if abs(x) >= 1000 else f'{x:.4g}')


def legend_below(figure: Figure) -> None:
    """Moves the legend of the first panel under all, in as many columns as there is room for."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.axes[0].get_legend().remove()
    texts = [label_text(label) for label in labels]
    room = int(figure.get_figwidth() * 13)  # characters of 9 points in a line
    columns = max(1, min(len(labels), room // (max(map(len, texts)) + 7)))
    figure.legend(handles, texts, loc='outside lower center', ncols=columns, handlelength=3.2)
