"""Image files and labels that a CSV file lists: `read_listing`."""

import csv
import functools
import io
import os
import pathlib
import re
import stat
from collections.abc import Callable

from mixer_dilated.data.class_folders import ClassFolders, ImageFile
from mixer_dilated.data.image_decoding import SUFFIXES
from mixer_dilated.data.split_names import complete_splits, split_of
from mixer_dilated.errors import UserError
from mixer_dilated.files import read_bytes

COLUMNS = {  # by preference; without capitals, spaces and '_'
    'file': (
        'file', 'filename', 'filepath', 'path', 'image', 'imagefile', 'imagename', 'imagepath',
        'imageid', 'img', 'imgname', 'imgpath', 'id',
    ),
    'label': ('label', 'labels', 'class', 'classname', 'category', 'target', 'species'),
    'split': ('split', 'subset', 'partition', 'set'),
}  # fmt: skip


def read_listing(path: pathlib.Path, image_key: str = '', label_key: str = '') -> ClassFolders:
    """The image files that a CSV file lists, a row a file, below a header.

    Names of files are relative to the CSV's folder, with or without their ending. A column 'split'
    has the split of each file.

    Args:
      path: of the CSV, in UTF-8, with ',', ';' or tabs between columns.
      image_key, label_key: names of the columns; '' for the usual ones.

    Returns:
      Classes are sorted: by their value, if all are integers.

    Raises:
      UserError: the file, a column or a row cannot be used.
    """
    rows = _read_rows(path)
    header = rows[0][1] if rows else []
    columns, notes = _find_columns(path, header, {'file': image_key, 'label': label_key})
    files, lines, missing = {}, {}, []
    find = functools.partial(_find_file, functools.cache(_files_by_stem), path.parent)
    for line, row in rows[1:]:
        where = f'{path}, line {line}'
        if len(row) != len(header):
            raise UserError(
                f'{where}: {len(row)} columns; allowed are the {len(header)} of the header; put '
                'texts with commas between quotes'
            )
        values = {what: row[column].strip() for what, column in columns.items()}
        split = split_of(values['split']) if 'split' in values else 'all'
        empty = [what for what in ('file', 'label') if not values[what]]
        if empty or not split:
            what = empty[0] if empty else 'split'
            allowed = 'text' if empty else 'train, validation or test'
            raise UserError(
                f'{where}: {header[columns[what]]} = {values[what]!r}: allowed is {allowed}; fill '
                'it in, or remove the row'
            )
        file = find(values['file'], where)
        if file is None:
            missing.append(f'{where}: {values["file"]!r}')
            continue
        name, status = file
        if name in lines:
            raise UserError(
                f'{where}: {values["file"]!r} is the file of line {lines[name]} too; allowed is a '
                'row a file; remove one'
            )
        lines[name] = line
        files.setdefault(split, []).append((name, values['label'], status))
    if missing:
        raise UserError(
            f'{missing[0]}: no such file, and so {len(missing)} of {len(rows) - 1}; allowed are '
            'names relative to the folder of the CSV; correct or remove the rows'
        )
    if not files:
        raise UserError(f'{path}: has no rows; allowed are a header and a row for each image')
    names = {label for of_split in files.values() for _, label, _ in of_split}
    integers = all(re.fullmatch(r'-?[0-9]{1,18}', name) for name in names)
    names = sorted(names, key=(lambda name: (int(name), name)) if integers else None)
    labels = {name: number for number, name in enumerate(names)}
    splits, more = complete_splits(path, files)
    splits = {
        split: [
            ImageFile(name, labels[label], status.st_size, status.st_mtime_ns)
            for name, label, status in of_split
        ]
        for split, of_split in splits.items()
    }
    return ClassFolders(tuple(names), splits, (*notes, *more))


def _read_rows(path: pathlib.Path) -> list[tuple[int, list[str]]]:
    """(line, values) of the rows that are not empty, the header first."""
    try:
        text = read_bytes(path, 'name a CSV file').decode('utf-8-sig')
        header = text.lstrip().split('\n', 1)[0]
        delimiter = max(',;\t', key=header.count)
        reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter, strict=True)
        return [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path}: not a CSV file in UTF-8: {error}; save it as one') from None


def _find_columns(
    path: pathlib.Path, header: list[str], keys: dict[str, str]
) -> tuple[dict[str, int], list[str]]:
    """{'file': column, 'label': column}, perhaps with 'split', and notes."""
    plain = [re.sub(r'[\W_]+', '', name.lower()) for name in header]
    columns, notes = {}, []
    for what, usual in COLUMNS.items():
        key = {'file': 'image_key', 'label': 'label_key'}.get(what)
        candidates = [plain.index(name) for name in usual if name in plain]
        if keys.get(what):
            candidates = [column for column, name in enumerate(header) if name == keys[what]]
        if candidates:
            columns[what] = candidates[0]
            if len(candidates) > 1 and key:
                notes.append(
                    f'its {what} is {header[candidates[0]]!r} (--config.dataset.{key}=COLUMN)'
                )
        elif key:
            raise UserError(
                f'{path}: no column {keys[what] or what!r} in its first line, which names the '
                f'columns: {", ".join(header)!r}; '
                f'allowed are {", ".join(usual)}; or name it, --config.dataset.{key}=COLUMN'
            )
    return columns, notes


def _find_file(
    files_by_stem: Callable[[str], dict[str, list[str]]], root: pathlib.Path, name: str, where: str
) -> tuple[str, os.stat_result] | None:
    """The file of a name, relative to root, and its status; None if there is none."""
    path = os.path.normpath(os.path.join(root, name.replace('\\', '/')))
    try:
        if not os.path.isfile(path):
            folder, stem = os.path.split(path)
            names = files_by_stem(folder).get(stem, [stem])
            if len(names) > 1:
                raise UserError(f'{where}: {name!r} may be {" or ".join(names)}; write its ending')
            path = os.path.join(folder, names[0])
        status = os.stat(path)
    except UserError:
        raise
    except (OSError, ValueError):  # of a name that no file can have
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return os.path.relpath(path, root).replace(os.sep, '/'), status


def _files_by_stem(folder: str) -> dict[str, list[str]]:
    """The image files of a folder by their names without endings."""
    stems = {}
    for name in sorted(os.listdir(folder)):
        stem, ending = os.path.splitext(name)
        if ending.lower() in SUFFIXES:
            stems.setdefault(stem, []).append(name)
    return stems
