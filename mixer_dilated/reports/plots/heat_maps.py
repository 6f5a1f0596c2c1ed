"""Heat maps: which class is taken for which, and accuracy over two settings of a sweep."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from mixer_dilated.reports.formatting import setting_text
from mixer_dilated.reports.plots.figure import figure_style, label_text, subplots

MAX_CLASSES_WITH_NUMBERS = 12
CELL_INCHES, PAGE_INCHES = 0.62, 10.8
# Light enough everywhere for black numbers.
ERRORS, ACCURACIES = 'blend:#fff5eb,#fdae6b,#e6550d', 'blend:#fdf0b0,#8fd18a,#3d9fc4'
RIGHT = 'blend:#ededed,#ededed'


def confusion_matrix(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Counts (true class, predicted class), summed over seeds, of labels (examples,) and
    probabilities (seeds, examples, classes)."""
    classes = probabilities.shape[-1]
    pairs = labels.astype(np.int64) * classes + probabilities.argmax(axis=-1)
    return np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)


@figure_style()
def confusion_matrices(counts: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Figure:
    """A panel a method, of counts (true class, predicted class) by label.

    The colour is that of the errors, what is right is grey; small matrices have numbers and names.
    """
    figure, panels = subplots(len(counts), 2, 5.3, 4.8)
    right = np.eye(len(class_names), dtype=bool)
    most = max(1, *(of_method[~right].max(initial=0) for of_method in counts.values()))
    small = len(right) <= MAX_CLASSES_WITH_NUMBERS
    names = [label_text(name, 16) for name in class_names] if small else 'auto'
    # A cell has little room: right answers of many seeds have more digits.
    cell = np.vectorize(lambda n: f'{n / 1000:.0f}k' if n >= 1e4 else str(n or ''), otypes=[str])
    for axes, (label, of_method) in zip(panels, counts.items(), strict=True):
        options = {'annot': cell(of_method) if small else False, 'rasterized': not small}
        options |= {'xticklabels': names, 'yticklabels': names, 'square': True, 'ax': axes}
        _draw_map(of_method, mask=right, cmap=ERRORS, vmin=0, vmax=most, **options)
        _draw_map(of_method, mask=~right, cmap=RIGHT, colour='#777777', **options)
        axes.set(xlabel='predicted class', ylabel='true class')
        axes.set_title(label_text(label), fontsize=10)
        axes.tick_params(axis='x', rotation=90 if small and max(map(len, names)) > 3 else 0)
        axes.tick_params(axis='y', rotation=0)
    label = 'wrong predictions (all seeds)'
    figure.colorbar(panels[0].collections[0], ax=panels, label=label, shrink=0.9, aspect=30)
    return figure


def _draw_map(values, cmap: str, fmt: str = '', colour: str = 'black', **options) -> None:
    """seaborn's heat map in the look of a report."""
    options |= {'cmap': seaborn.color_palette(cmap, as_cmap=True), 'cbar': False, 'fmt': fmt}
    axes = seaborn.heatmap(values, annot_kws={'fontsize': 9, 'color': colour}, **options)
    axes.tick_params(length=0)
    axes.grid(False)


def map_axes(settings: pd.DataFrame) -> list[str]:
    """The last two settings, columns of a row a trial, that are numbers and vary, [down, across];
    fewer if there are not two. They change fastest in a `grid`."""
    numbers = settings.columns[settings.map(type).isin([int, float]).all()]  # others may be lists
    return [axis for axis in numbers if settings[axis].nunique() > 1][-2:]


@figure_style()
def accuracy_maps(data: pd.DataFrame, down: str, across: str) -> Figure:
    """A panel for each combination of the other settings, all on one colour scale.

    Data are a row a trial: panel (its title), the settings `down` and `across`, accuracy (the mean
    over seeds, NaN where it is not trained yet) and invalid (it cannot be trained: hatched).
    """
    rows, columns = (sorted(data[axis].unique()) for axis in (down, across))
    low, high = data.accuracy.min(), data.accuracy.max()
    by_panel = data.groupby('panel', sort=False)
    width = max(len(columns) * CELL_INCHES + 0.9, 2.4)
    lines = -(-len(by_panel) // max(1, int(PAGE_INCHES / width)))
    in_line = -(-len(by_panel) // lines)  # lines as equal as can be
    size = max(width + 1.1 / in_line, 4.2 / in_line), max(len(rows) * CELL_INCHES * 0.72 + 1.0, 2.4)
    figure, panels = subplots(len(by_panel), in_line, *size)
    for axes, (title, trials) in zip(panels, by_panel, strict=True):
        trials = trials.drop_duplicates([down, across], keep='last').set_index([down, across])
        values, invalid = (
            trials[name].unstack().reindex(index=rows, columns=columns)
            for name in ('accuracy', 'invalid')
        )
        scale = {'vmin': low, 'vmax': max(high, low + 1e-6), 'annot': True, 'fmt': '.3f'}
        scale |= {'xticklabels': [*map(setting_text, columns)]}
        scale |= {'yticklabels': [*map(setting_text, rows)]}
        _draw_map(values, ACCURACIES, ax=axes, **scale)
        look = {'hatch': '////', 'edgecolor': '#888888', 'linewidth': 0}
        hatched = np.ma.masked_equal(invalid.eq(True).to_numpy(), False)
        axes.pcolor(hatched, cmap=ListedColormap(['#f4f4f4']), **look)
        axes.set_title(label_text(title), fontsize=9.5)
        axes.set(xlabel=label_text(across, 20), ylabel=label_text(down, 20))
        axes.tick_params(rotation=0)
    label = 'mean test accuracy'
    figure.colorbar(panels[0].collections[0], ax=panels, label=label, aspect=30)
    return figure
