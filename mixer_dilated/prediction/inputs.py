"""The picture files that words of the command line mean."""

import os
import sys
from collections.abc import Iterable, Iterator

from mixer_dilated.data.image_files import Ignored, walk_images
from mixer_dilated.errors import UserError

STDIN = '-'


def picture_paths(words: Iterable[str], ignored: Ignored) -> Iterator[str | tuple[str, UserError]]:
    """Paths, one at a time, in the order of the words.

    A folder stands for the picture files in it and in all folders below (see `walk_images`), '-'
    for the paths that standard input lists, one a line, anything else for the file of that name.

    Args:
      words: folders, files and '-'.
      ignored: counts of what is left out in folders, which are added to.

    Yields:
      A path; or, of a folder that cannot be read or holds no pictures, its path and the error.

    Raises:
      UserError: '-', and standard input is closed.
    """
    for word in words:
        if word == STDIN:
            yield from _listed()
        elif os.path.isdir(word):
            yield from _in_folder(word, ignored)
        else:
            yield word


def _listed() -> Iterator[str]:
    if sys.stdin is None:  # closed, as by `<&-`
        raise UserError(
            "'-': standard input is closed; give it a list of files, as in find album | …, or name "
            'the files'
        )
    for line in sys.stdin.buffer:
        path = os.fsdecode(line).rstrip('\r\n')
        if path:
            yield path


def _in_folder(folder: str, ignored: Ignored) -> Iterator[str | tuple[str, UserError]]:
    found = False
    try:
        for entry in walk_images(folder, ignored):
            found = True
            yield entry.path
    except UserError as error:
        yield folder, error
        return
    if not found:
        yield folder, UserError('a folder without images (.png, .jpg, .jpeg, .webp)')
