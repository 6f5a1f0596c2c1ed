"""Files read so that whatever is wrong with one is told in a line that names it.

Every function raises UserError where a file is not there, is damaged, or lacks what it should
have.
"""

import contextlib
import math
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from mixer_dilated import files
from mixer_dilated.errors import UserError

# Types that a field may have: a number, and one that may be missing.
NUMBER, OPTIONAL = (int, float), (int, float, type(None))


def read_object(path: pathlib.Path) -> dict:
    """The object in a JSON file."""
    return files.read_json(path, _hint(path))


def read_rows(path: pathlib.Path, fields: Mapping) -> list[dict]:
    """The objects of a file of one JSON object a line, each checked for the fields."""
    rows = files.read_json_lines(path, _hint(path))
    for row in rows:
        check(path, row, fields)
    return rows


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file."""
    return files.read_arrays(path, _hint(path))


def _hint(path: pathlib.Path) -> str:
    if path.name in ('metrics.jsonl', 'predictions.npz', 'weights.npz'):
        return (
            'the command that trained this, given again with this folder, makes it again from the '
            'newest checkpoint'
        )
    return 'restore it, or make it again'


@contextlib.contextmanager
def damaged(path: pathlib.Path) -> Iterator[None]:
    """Raises UserError, which names the file, where its content is not what it should be."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        cause = ' '.join(f'{type(error).__name__}: {error}'.split())
        raise UserError(f'{path}: damaged ({cause}); restore it, or make it again') from None


def check(path: pathlib.Path, content, fields: Mapping) -> None:
    """Raises UserError unless `content` has the fields, each of its type and finite."""
    if not isinstance(content, dict):
        raise UserError(f'{path}: damaged ({content!r} is not an object); make it again')
    for name, kind in fields.items():
        if name not in content:
            raise UserError(
                f'{path}: has no {name!r}: damaged, or of another version; make it again'
            )
        value = content[name]
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, kind) or not finite:
            raise UserError(f'{path}: {name} = {value!r} cannot be; restore it, or make it again')
