"""Predictions as CSV and JSON files, written row by row, so that memory does not grow."""

import contextlib
import csv
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace

from mixer_dilated.files import AtomicFile
from mixer_dilated.inference.prediction import Prediction

Write = Callable[[Prediction], None]


@contextlib.contextmanager
def open_csv(path: pathlib.Path, class_names: tuple[str, ...], top: int) -> Iterator[Write]:
    """Opens a CSV file; yields the function that writes a row of it.

    Columns: `file`, `class_1`, `probability_1`, … of the `top` classes, `error`, which is empty for
    a file that could be used. The file appears when the context ends without an error.
    """
    with AtomicFile(path, 'csv') as file:
        # Names of files that are not UTF-8 keep their bytes.
        encode = SimpleNamespace(
            write=lambda text: file.write(text.encode('utf-8', 'surrogateescape'))
        )
        rows = csv.writer(encode)
        columns = [f'{name}_{k + 1}' for k in range(top) for name in ('class', 'probability')]
        rows.writerow(['file', *columns, 'error'])

        def write(prediction: Prediction) -> None:
            cells = [''] * (2 * top)
            if not prediction.error:
                for k, (name, probability) in enumerate(prediction.top(class_names, top)):
                    cells[2 * k : 2 * k + 2] = name, f'{probability:.6g}'
            rows.writerow([prediction.path, *cells, prediction.error])

        yield write


@contextlib.contextmanager
def open_json(path: pathlib.Path, class_names: tuple[str, ...], top: int) -> Iterator[Write]:
    """Opens a JSON file, a list of objects; yields the function that writes one, as `open_csv`.

    Each has 'file' and 'classes', a list of objects with 'class' and 'probability', or 'error'.
    """
    with AtomicFile(path, 'json') as file:
        separators = itertools.chain(['[\n'], itertools.repeat(',\n'))

        def write(prediction: Prediction) -> None:
            row = {'error': prediction.error}
            if not prediction.error:
                classes = prediction.top(class_names, top)
                row = {'classes': [{'class': name, 'probability': p} for name, p in classes]}
            row = {'file': prediction.path, **row}
            file.write((next(separators) + json.dumps(row)).encode())

        yield write
        file.write(b'[]\n' if next(separators) == '[\n' else b'\n]\n')
