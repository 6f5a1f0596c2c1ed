"""Predictions as CSV and JSON files, written row by row."""

import contextlib
import csv
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TextIO

from mixer_dilated.errors import InputError
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
    with _written('csv', path) as file:
        rows = csv.writer(file)
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
    with _written('json', path) as file:
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
            file.write(separator + json.dumps(row))
            separator = ',\n'

        yield write
        file.write('[]\n' if separator == '[\n' else '\n]\n')


@contextlib.contextmanager
def _written(flag: str, path: pathlib.Path) -> Iterator[TextIO]:
    """A text file that is there whole or not at all.

    Names of files that are not UTF-8 keep their bytes.
    """
    unfinished = path.with_name(f'.{path.name}.unfinished')
    try:
        # CSV has its own ends of lines.
        with unfinished.open('w', encoding='utf-8', errors='surrogateescape', newline='') as file:
            yield file
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(
            f'--{flag}={path}: cannot be written: {error.strerror or error}; name a file that can'
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)
