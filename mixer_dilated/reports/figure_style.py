"""How every figure looks: type sizes, colours that the colour-blind tell apart, no formulas."""

import contextlib
from collections.abc import Iterator, Sequence

from mixer_dilated.reports.cell_text import grouped_text

# Okabe and Ito's colours, without the yellow that white paper swallows.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
_LINES = ('-', '--', '-.', (0, (1, 1.2)), (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = 'osD^vPX*'
LABEL_LENGTH = 48


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Matplotlib's settings for a figure; usable as a decorator: @figure_style().

    Text is never a formula: a label that holds `$` is drawn as it is. Identifiers in an SVG depend
    on its content alone, so that the same data give the same bytes.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({
            'text.parse_math': False,
            'svg.hashsalt': 'mixer_dilated',
            'font.size': 10,
            'axes.titlesize': 10.5,
            'axes.labelsize': 10,
            'xtick.labelsize': 9,
            'ytick.labelsize': 9,
            'legend.fontsize': 9,
            'legend.frameon': False,
            'figure.titlesize': 11,
            'figure.constrained_layout.w_pad': 0.08,
            'figure.constrained_layout.h_pad': 0.08,
            'axes.spines.top': False,
            'axes.spines.right': False,
            'axes.grid': True,
            'axes.axisbelow': True,
            'grid.color': '#e4e4e4',
            'image.interpolation': 'none',
            'hatch.linewidth': 0.6,
        })  # fmt: skip
        yield


def line_style(index: int) -> dict:
    """Colour, line and marker of the index-th method; no two of the first 35 are alike."""
    return {
        'color': COLOURS[index % len(COLOURS)],
        'linestyle': _LINES[index % len(_LINES)],
        'marker': _MARKERS[index % len(_MARKERS)],
        'linewidth': 1.7,
        'markersize': 5,
    }


def label_text(text: str, length: int = LABEL_LENGTH) -> str:
    """A label on one line, cut where it would be longer than `length` characters."""
    text = ' '.join(''.join(c if c.isprintable() else ' ' for c in text).split())
    return text if len(text) <= length else f'{text[: length - 1]}…'


def number_ticks(axis, values: Sequence[float] | None = None) -> None:
    """Plain numbers along a logarithmic axis: at `values`, or at round numbers of what it shows."""
    from matplotlib.ticker import (
        FixedLocator,
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullLocator,
    )

    low, high = sorted(axis.get_view_interval())
    if high < 1.1 * low:
        low, high = low / 1.3, high * 1.3
    # Fixed, or the other locator would choose other limits.
    axis.axes.set(**{f'{axis.axis_name}lim': (low, high)})
    if values:
        locator = FixedLocator(values)
    elif high < 12 * low:  # within a decade 1, 2 and 5 are too few
        locator = MaxNLocator(6, steps=[1, 2, 5, 10])
    else:
        locator = LogLocator(subs=(1, 2, 5) if high < 1e4 * low else (1,))
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: quantity_text(value)))


def quantity_text(value: float) -> str:
    """12300 as '12 300', 0.25 as '0.25': four significant digits at most."""
    if abs(value) >= 1000:
        return grouped_text(value)
    return f'{value:.4g}'


def legend_below(figure, handles, labels: Sequence[str]) -> None:
    """One legend under all panels, in as many columns as the labels leave room for."""
    longest = max(map(len, labels))
    room = int(figure.get_figwidth() * 13)  # characters of 9 points in a line
    columns = max(1, min(len(labels), room // (longest + 7)))
    figure.legend(handles, labels, loc='outside lower center', ncols=columns, handlelength=3.2)
