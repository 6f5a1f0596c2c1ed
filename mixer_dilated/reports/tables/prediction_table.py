"""Predictions on the terminal: a table of files and their classes."""

from rich.cells import cell_len
from rich.text import Text

from mixer_dilated.errors import printable
from mixer_dilated.reports.formatting import cut_front
from mixer_dilated.reports.tables.terminal import new_table, print_table

WIDTH, BETWEEN = 80, 3  # characters of a line, and from a column to the next
_HEADINGS = ('most probable', '2nd', '3rd')
FILE, CLASS = 30, 24  # characters of a name; what is longer is cut


def print_predictions(rows: list[tuple[str, list[tuple[str, float]]]]) -> None:
    """A line an image: its file, then its most probable classes with their probabilities.

    A line of 80 characters has room for two or three classes with long names and more with short
    ones; those that find none are left out.

    Args:
      rows: of each image its path and (name, probability) pairs, the most probable first.
    """
    files = [cut_front(printable(path), FILE) for path, _ in rows]
    ranks = zip(*(classes for _, classes in rows), strict=True)
    table = new_table('file')
    columns, room = [files], WIDTH - max(map(cell_len, [*files, 'file']))
    for rank, classes in enumerate(ranks):
        column = [f'{_cut(printable(name), CLASS)} {share:.3f}' for name, share in classes]
        heading = _HEADINGS[rank] if rank < len(_HEADINGS) else f'{rank + 1}th'
        room -= BETWEEN + max(map(cell_len, [*column, heading]))
        if room < 0 and rank:
            break
        table.add_column(heading)
        columns.append(column)
    for row in zip(*columns, strict=True):
        table.add_row(*(Text(text, no_wrap=True) for text in row))
    print_table(table)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f'{text[: length - 1]}…'
