"""A figure with the words that belong to it, as an SVG to put into a page and as a PNG file."""

import dataclasses
import io
import pathlib
import re

from matplotlib.figure import Figure

from mixer_dilated.errors import UserError
from mixer_dilated.reports.figure_style import figure_style

PNG_DOTS_PER_INCH = 144


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot of a report.

    Attributes:
      name: its file's name, without ending.
      title: a few words.
      caption: one sentence on how to read it.
      alt: what it shows, for those who cannot see it.
      figure: the picture.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Omitted:
    """A plot that there cannot be, and why."""

    title: str
    reason: str


@figure_style()
def svg_text(plot: Plot) -> str:
    """The plot as an <svg> element that can stand in a page beside others.

    It is drawn at its natural size, has no metadata, loads nothing, and its identifiers start with
    the plot's name, so that those of two plots never meet.
    """
    text = io.StringIO()
    nothing = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
    plot.figure.savefig(text, format='svg', metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index('<svg') :]
    svg = re.sub(r'<!--.*?-->', '', svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{plot.name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf'\g<1>{plot.name}-', svg)
    return re.sub(r'\n\s*', '\n', svg).strip()


@figure_style()
def write_png(plot: Plot, folder: pathlib.Path) -> pathlib.Path:
    """Writes the plot as `folder/NAME.png` and returns that path.

    Raises:
      UserError: the file cannot be written.
    """
    path = folder / f'{plot.name}.png'
    try:
        plot.figure.savefig(path, dpi=PNG_DOTS_PER_INCH, metadata={'Software': None})
    except OSError as error:
        raise UserError(f'{path}: cannot be written: {error.strerror}') from None
    return path
