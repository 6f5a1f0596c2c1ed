"""Confusion matrices: which class is taken for which."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mixer_dilated.reports.figure_style import figure_style, label_text

MAX_CLASSES_WITH_NUMBERS = 12
LONGEST_NAME = 16


def confusion_matrix(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Counts (true class, predicted class), summed over seeds.

    Args:
      labels: (examples,).
      probabilities: (seeds, examples, classes).
    """
    classes = probabilities.shape[-1]
    predicted = probabilities.argmax(axis=-1)
    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)


@figure_style()
def confusion_matrices(
    methods: Mapping[str, np.ndarray], class_names: Sequence[str] = ()
) -> Figure:
    """A panel a method; the colour is that of the errors, what is right is grey.

    Args:
      methods: {label: counts (true class, predicted class)}.
      class_names: of every class, at the sides of a small matrix; their numbers if empty.
    """
    columns = min(len(methods), 2)
    rows = -(-len(methods) // columns)
    figure = Figure(figsize=(5.0 * columns + 0.6, 4.7 * rows + 0.2), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False)
    most = max(1, max(int(_errors(counts).max()) for counts in methods.values()))
    for axes, (label, counts) in zip(grid.flat, methods.items(), strict=False):
        picture = axes.imshow(_errors(counts), cmap='Oranges', vmin=0, vmax=most)
        _grey_diagonal(axes, len(counts))
        if len(counts) <= MAX_CLASSES_WITH_NUMBERS:
            _write_counts(axes, counts, most)
        axes.set(xlabel='predicted class', ylabel='true class')
        axes.set_title(label_text(label), fontsize=10)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        if len(counts) <= MAX_CLASSES_WITH_NUMBERS:
            _name_classes(axes, class_names or list(map(str, range(len(counts)))))
    for axes in list(grid.flat)[len(methods) :]:
        axes.set_axis_off()
    figure.colorbar(
        picture, ax=grid, label='wrong predictions (all seeds)', shrink=min(1, 0.9), aspect=30
    )
    return figure


def _errors(counts: np.ndarray) -> np.ndarray:
    return np.where(np.eye(len(counts), dtype=bool), 0, counts)


def _name_classes(axes, class_names: Sequence[str]) -> None:
    texts = [label_text(name, LONGEST_NAME) for name in class_names]
    upright = max(map(len, texts)) > 3
    axes.set_xticks(range(len(texts)), texts, rotation=90 if upright else 0)
    axes.set_yticks(range(len(texts)), texts)
    axes.tick_params(length=0)


def _grey_diagonal(axes, classes: int) -> None:
    from matplotlib.patches import Rectangle

    for k in range(classes):
        axes.add_patch(Rectangle((k - 0.5, k - 0.5), 1, 1, facecolor='#ededed', linewidth=0))


def _write_counts(axes, counts: np.ndarray, most: int) -> None:
    for (true, predicted), count in np.ndenumerate(counts):
        if count:
            dark = true != predicted and count > 0.6 * most
            colour = '#777777' if true == predicted else 'white' if dark else 'black'
            # Right answers of many seeds have more digits than a cell has room for.
            text = str(count) if count < 10_000 else f'{count / 1000:.0f}k'
            axes.text(predicted, true, text, ha='center', va='center', color=colour, fontsize=9)
