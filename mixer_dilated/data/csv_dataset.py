"""Image files and labels that a CSV file lists: `read_listing`."""

import contextlib
import csv
import functools
import io
import os
import pathlib
import re
from collections.abc import Callable

from mixer_dilated.data.class_folders import ClassFolders, ImageFile
from mixer_dilated.data.image_decoding import SUFFIXES
from mixer_dilated.data.split_names import complete_splits, split_of
from mixer_dilated.errors import UserError
from mixer_dilated.files import MAX_JSON_BYTES, read_bytes

MAX_ROWS = 2**22
COLUMNS = {  # by preference; without capitals, spaces and '_'
    'file': (
        'file', 'filename', 'filepath', 'path', 'image', 'imagefile', 'imagename', 'imagepath',
        'imageid', 'img', 'imgname', 'imgpath', 'id',
    ),
    'label': ('label', 'labels', 'class', 'classname', 'category', 'target', 'species'),
    'split': ('split', 'subset', 'partition', 'set'),
}  # fmt: skip


def read_listing(path: pathlib.Path, image_key: str = '', label_key: str = '') -> ClassFolders:
    """The image files that a CSV file in UTF-8 lists, a row a file, below a header.

    Columns are between ',', ';' or tabs, and named by the keys, or '' for the usual names; 'split'
    has the split of each file. Names of files are relative to the CSV's folder, with or without
    their ending. Classes are the labels as texts, sorted: by their value, if all are integers.
    Raises UserError for a file, a column or a row that cannot be used, or two labels that are one
    number.
    """
    rows, notes, files, lines, missing = _read_rows(path), [], {}, {}, []
    header = rows.pop(0)[1] if rows else []
    columns = _find_columns(path, header, {'file': image_key, 'label': label_key}, notes)
    files_by_stem = functools.cache(_files_by_stem)
    for line, row in rows:
        where = f'{path}, line {line}'
        if len(row) != len(header):
            raise UserError(
                f'{where}: {len(row)} columns; allowed are the {len(header)} of the header; put '
                'texts with commas between quotes'
            )
        values = {what: row[column].strip() for what, column in columns.items()}
        split = split_of(values['split']) if 'split' in values else 'all'
        for what in columns:
            if not (split if what == 'split' else values[what]):
                allowed = 'train, validation or test' if what == 'split' else 'text'
                raise UserError(
                    f'{where}: {header[columns[what]]} = {values[what]!r}: allowed is {allowed}; '
                    'fill it in, or remove the row'
                )
        name = _find_file(files_by_stem, path.parent, values['file'], where)
        if not name:
            missing.append(f'{where}: {values["file"]!r}')
        elif name in lines:
            raise UserError(
                f'{where}: {values["file"]!r} is the file of line {lines[name]} too; remove one'
            )
        else:
            lines[name], status = line, os.stat(path.parent / name)
            file = ImageFile(name, values['label'], status.st_size, status.st_mtime_ns)
            files.setdefault(split, []).append(file)
    if missing:
        raise UserError(
            f'{missing[0]}: no such file, and so {len(missing)} of {len(rows)}; allowed are '
            'names relative to the folder of the CSV; correct or remove the rows'
        )
    if not files:
        raise UserError(f'{path}: has no rows; allowed are a header and a row for each image')
    names = _sort_names(path, {file.label for of_split in files.values() for file in of_split})
    labels = {name: label for label, name in enumerate(names)}
    splits = {
        split: [file._replace(label=labels[file.label]) for file in of_split]
        for split, of_split in complete_splits(path, files, notes).items()
    }
    return ClassFolders(tuple(names), splits, tuple(notes))


def _read_rows(path: pathlib.Path) -> list[tuple[int, list[str]]]:
    """(line, values) of the rows that are not empty, the header first."""
    try:
        text = read_bytes(path, 'name a CSV file', MAX_JSON_BYTES).decode('utf-8-sig')
        if text.count('\n') > MAX_ROWS:
            raise UserError(f'{path}: more than {MAX_ROWS} lines; use a folder for each class')
        header = text.lstrip().split('\n', 1)[0]
        delimiter = max(',;\t', key=header.count)
        reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter, strict=True)
        return [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path}: not a CSV file in UTF-8: {error}; save it as one') from None


def _find_columns(
    path: pathlib.Path, header: list[str], keys: dict[str, str], notes: list[str]
) -> dict[str, int]:
    """{'file': column, 'label': column}, perhaps with 'split'; appends to the notes."""
    plain, columns = [re.sub(r'[\W_]+', '', name.lower()) for name in header], {}
    for what, usual in COLUMNS.items():
        candidates = [plain.index(name) for name in usual if name in plain]
        if keys.get(what):
            candidates = [column for column, name in enumerate(header) if name == keys[what]]
        hint = f'--config.dataset.{"image" if what == "file" else what}_key=COLUMN'
        if candidates:
            columns[what] = candidates[0]
            if len(candidates) > 1 and what in keys:
                notes.append(f'its {what} is {header[candidates[0]]!r} ({hint})')
        elif what in keys:
            raise UserError(
                f'{path}: no column {keys[what] or what!r} in its first line, which names the '
                f'columns: {", ".join(header)!r}; allowed are {", ".join(usual)}; or name it: '
                f'{hint}'
            )
    return columns


def _find_file(
    files_by_stem: Callable[[str], dict[str, list[str]]], root: pathlib.Path, name: str, where: str
) -> str:
    """The path relative to root of the file of a name; '' if there is none."""
    path = os.path.normpath(os.path.join(root, name.replace('\\', '/')))
    folder, stem = os.path.split(path)
    if not os.path.isfile(path):
        names = files_by_stem(folder).get(stem, [stem])
        if len(names) > 1:
            raise UserError(f'{where}: {name!r} may be {" or ".join(names)}; write its ending')
        path = os.path.join(folder, names[0])
    return os.path.relpath(path, root).replace(os.sep, '/') if os.path.isfile(path) else ''


def _files_by_stem(folder: str) -> dict[str, list[str]]:
    stems = {}
    with contextlib.suppress(OSError, ValueError):  # of a name that no folder can have
        for name in sorted(os.listdir(folder)):
            stem, ending = os.path.splitext(name)
            if ending.lower() in SUFFIXES:
                stems.setdefault(stem, []).append(name)
    return stems


def _sort_names(path: pathlib.Path, names: set[str]) -> list[str]:
    """By their value, if all are integers; UserError if two are one number, as '01' and '1'."""
    numbers = {name: int(name) for name in names if re.fullmatch(r'-?[0-9]{1,18}', name)}
    if len(numbers) < len(names):
        return sorted(names)
    by_number = {number: name for name, number in numbers.items()}
    for name, number in numbers.items():
        if by_number[number] != name:
            raise UserError(
                f'{path}: labels {" and ".join(map(repr, sorted((name, by_number[number]))))} are '
                'one number; allowed is one spelling for each class; write them alike'
            )
    return sorted(names, key=numbers.get)
