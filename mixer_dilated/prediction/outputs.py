"""Predictions as CSV and JSON files, written row by row."""

import contextlib
import csv
import json
import pathlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace

from mixer_dilated.files import AtomicFile
from mixer_dilated.prediction.stream import Prediction

Write = Callable[[Prediction], None]


@contextlib.contextmanager
def csv_output(path: pathlib.Path, class_names: tuple[str, ...], top: int) -> Iterator[Write]:
    """A function that writes a row of a CSV file; the file is there when all is done.

    Columns: `file`, `class_1`, `probability_1`, `class_2`, …, `error`, which is empty for a file
    that could be used.

    Args:
      path: the file.
      class_names: of every class.
      top: classes a row.
    """
    ranks = range(1, top + 1)
    with AtomicFile(path, 'csv') as file:
        rows = csv.writer(_text(file))
        of_ranks = [name for rank in ranks for name in (f'class_{rank}', f'probability_{rank}')]
        rows.writerow(['file', *of_ranks, 'error'])

        def write(prediction: Prediction) -> None:
            cells = [''] * (2 * top)
            if not prediction.error:
                cells = [
                    cell
                    for label, probability in prediction.top(top)
                    for cell in (class_names[label], f'{probability:.6g}')
                ]
            rows.writerow([prediction.path, *cells, prediction.error])

        yield write


@contextlib.contextmanager
def json_output(path: pathlib.Path, class_names: tuple[str, ...], top: int) -> Iterator[Write]:
    """As `csv_output`, of a JSON file: a list of objects.

    Each has 'file' and 'classes', a list of objects with 'class' and 'probability', or 'error'.
    """
    with AtomicFile(path, 'json') as file:
        separator = '[\n'

        def write(prediction: Prediction) -> None:
            nonlocal separator
            row = {'file': prediction.path}
            if prediction.error:
                row['error'] = prediction.error
            else:
                row['classes'] = [
                    {'class': class_names[label], 'probability': probability}
                    for label, probability in prediction.top(top)
                ]
            file.write((separator + json.dumps(row)).encode())
            separator = ',\n'

        yield write
        file.write(b'[]\n' if separator == '[\n' else b'\n]\n')


def _text(file: AtomicFile) -> SimpleNamespace:
    """A text file for `csv.writer`; names of files that are not UTF-8 keep their bytes."""
    return SimpleNamespace(
        write=lambda text: file.write(text.encode('utf-8', errors='surrogateescape'))
    )
