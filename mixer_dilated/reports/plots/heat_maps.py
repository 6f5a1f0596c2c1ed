"""Heat maps: which class is taken for which, and accuracy over two settings of a sweep."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from mixer_dilated.reports.formatting import setting_text
from mixer_dilated.reports.plots.figure import figure_style, label_text, subplots

MAX_CLASSES_WITH_NUMBERS = 12
MAX_NAME_LENGTH = 16
CELL_INCHES, PAGE_INCHES = 0.62, 10.8


def confusion_matrix(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Counts (true class, predicted class), summed over seeds.

    Args:
      labels: (examples,).
      probabilities: (seeds, examples, classes).
    """
    classes = probabilities.shape[-1]
    pairs = labels.astype(np.int64) * classes + probabilities.argmax(axis=-1)
    return np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)


@figure_style()
def confusion_matrices(counts: Mapping[str, np.ndarray], class_names: Sequence[str] = ()) -> Figure:
    """A panel a method; the colour is that of the errors, what is right is grey.

    Args:
      counts: {label: counts (true class, predicted class)}.
      class_names: of every class, at the sides of a small matrix; their numbers if empty.
    """
    figure, panels = subplots(len(counts), 2, 5.3, 4.8)
    diagonal = np.eye(len(next(iter(counts.values()))), dtype=bool)
    most = max(1, max(np.where(diagonal, 0, of_method).max() for of_method in counts.values()))
    small = len(diagonal) <= MAX_CLASSES_WITH_NUMBERS
    class_names = class_names or [str(k) for k in range(len(diagonal))]
    names = [label_text(name, MAX_NAME_LENGTH) for name in class_names]
    for axes, (label, of_method) in zip(panels, counts.items(), strict=True):
        texts = np.vectorize(_count_text, otypes=[str])(of_method) if small else False
        options = {'annot': texts, 'fmt': '', 'ax': axes, 'rasterized': not small}
        options |= {'xticklabels': names if small else 'auto', 'square': True}
        options['yticklabels'] = options['xticklabels']
        draw_map(of_method, mask=diagonal, cmap='Oranges', vmin=0, vmax=most, **options)
        options['annot_kws'] = {'color': '#777777', 'fontsize': 9}
        draw_map(of_method, mask=~diagonal, cmap=ListedColormap(['#ededed']), **options)
        axes.set(xlabel='predicted class', ylabel='true class')
        axes.set_title(label_text(label), fontsize=10)
        axes.tick_params(axis='x', rotation=90 if max(map(len, names)) > 3 else 0)
        axes.tick_params(axis='y', rotation=0)
    label = 'wrong predictions (all seeds)'
    figure.colorbar(panels[0].collections[0], ax=panels, label=label, shrink=0.9, aspect=30)
    return figure


def _count_text(count: int) -> str:
    """A count as a cell has room for it: right answers of many seeds have more digits."""
    return '' if not count else str(count) if count < 10_000 else f'{count / 1000:.0f}k'


def draw_map(values, *, ax: Axes, **options) -> None:
    """seaborn's heat map in the look of a report; text is black on all but dark colours."""
    options = {'annot_kws': {'fontsize': 9}, 'cbar': False, **options}
    seaborn.heatmap(values, ax=ax, **options)
    if ax.texts:
        mesh = ax.collections[-1]
        colours = mesh.get_facecolors()[~np.ma.getmaskarray(mesh.get_array()).ravel()]
        for text, colour in zip(reversed(ax.texts), reversed(colours), strict=False):
            is_dark = seaborn.utils.relative_luminance(colour) < 0.2
            text.set_color(options['annot_kws'].get('color', 'white' if is_dark else 'black'))
    ax.tick_params(length=0)
    ax.grid(False)


def map_axes(settings: pd.DataFrame) -> tuple[str, str] | None:
    """The last two settings that are numbers and vary: (down, across); None if there are none.

    They change fastest in a `grid`.

    Args:
      settings: a row a trial, a column a setting.
    """
    varying = [
        name
        for name, column in settings.items()
        if column.map(type).isin([int, float]).all() and column.nunique() > 1
    ]
    return (varying[-2], varying[-1]) if len(varying) > 1 else None


@figure_style()
def accuracy_maps(data: pd.DataFrame, down: str, across: str) -> Figure:
    """A panel for each combination of the other settings, all on one colour scale.

    Args:
      data: a row a trial: panel (its title), the two settings, accuracy (the mean over seeds, NaN
        where it is not trained yet) and invalid (whether it cannot be trained, which is hatched).
      down, across: the two settings' names.
    """
    rows, columns = (sorted(data[axis].unique()) for axis in (down, across))
    low, high = data.accuracy.min(), data.accuracy.max()
    width = max(len(columns) * CELL_INCHES + 0.9, 2.4)
    by_panel = data.groupby('panel', sort=False)
    lines = -(-len(by_panel) // max(1, int(PAGE_INCHES / width)))
    in_line = -(-len(by_panel) // lines)  # lines as equal as can be
    height = max(len(rows) * CELL_INCHES * 0.72 + 1.0, 2.4)
    figure, panels = subplots(
        len(by_panel), in_line, max(width + 1.1 / in_line, 4.2 / in_line), height
    )
    for axes, (title, trials) in zip(panels, by_panel, strict=True):
        trials = trials.drop_duplicates([down, across], keep='last')
        table = trials.pivot(index=down, columns=across).reindex(index=rows)
        values, invalid = (table[name].reindex(columns=columns) for name in ('accuracy', 'invalid'))
        draw_map(
            values,
            cmap='viridis',
            vmin=low,
            vmax=max(high, low + 1e-6),
            annot=True,
            fmt='.3f',
            xticklabels=[*map(setting_text, columns)],
            yticklabels=[*map(setting_text, rows)],
            ax=axes,
        )
        axes.pcolor(
            np.ma.masked_equal(invalid.eq(True).to_numpy(), False),
            cmap=ListedColormap(['#f4f4f4']),
            hatch='////',
            edgecolor='#888888',
            linewidth=0,
        )
        axes.set_title(label_text(title), fontsize=9.5)
        axes.set(xlabel=label_text(across, 20), ylabel=label_text(down, 20))
        axes.tick_params(rotation=0)
    label = 'mean test accuracy'
    figure.colorbar(panels[0].collections[0], ax=panels, label=label, aspect=30)
    return figure
