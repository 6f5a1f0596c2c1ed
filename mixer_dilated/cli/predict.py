"""The command `predict`: files in, classes on the terminal and in files."""

import contextlib
import os
import pathlib
import sys
import textwrap
import time
import warnings
from collections.abc import Iterable

from mixer_dilated.cli.arguments import Arguments
from mixer_dilated.data.image_files import Ignored, ignored_text
from mixer_dilated.errors import UserError, printable
from mixer_dilated.files import check_output
from mixer_dilated.prediction.inputs import picture_paths

OUTPUTS = ('csv', 'json', 'sheet')
SHEET_ENDINGS = ('.png', '.pdf', '.svg')
TOP = 3
MAX_SHOWN = 40  # lines of the table
MAX_NAMED = 20  # files that failed
MAX_DRAWN = 60  # pictures of the sheet


def check_outputs(arguments: Arguments) -> None:
    """Raises UserError if a file that shall be written cannot be."""
    given = {flag: getattr(arguments, flag) for flag in OUTPUTS if getattr(arguments, flag)}
    for flag, path in given.items():
        check_output(flag, path)
        if list(map(os.path.realpath, given.values())).count(os.path.realpath(path)) > 1:
            raise UserError(f'--{flag}={path}: two outputs in one file; name one each')
    if arguments.sheet and arguments.sheet.suffix.lower() not in SHEET_ENDINGS:
        raise UserError(
            f'--sheet={arguments.sheet}: allowed are names that end with {", ".join(SHEET_ENDINGS)}'
        )


def predict_files(arguments: Arguments, workdir: pathlib.Path, *, best: bool) -> None:
    """Classifies all files, writes what was asked for, and prints a table and counts.

    Raises:
      UserError: no run there, no files, or at the end if any could not be used.
    """
    from mixer_dilated.prediction.stream import open_classifier, predictions

    ignored = Ignored()
    paths = picture_paths(arguments.paths, ignored)
    classifier, paths = open_classifier(workdir, paths, best=best)
    names = classifier.class_names
    top = min(arguments.top or TOP, len(names))
    tally = _Tally(names, top, draws=bool(arguments.sheet))
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings('ignore', module='PIL')  # which names no file
        writes = _opened(arguments, names, top, stack)
        for prediction in _shown_progress(predictions(classifier, paths), stack):
            for write in (tally.take, *writes):
                write(prediction)
    tally.print(time.perf_counter() - start)
    if ignored:
        print(textwrap.fill(f'left out in folders: {ignored_text(ignored)}', 80))
    for flag in ('csv', 'json'):
        if getattr(arguments, flag):
            print(f'{flag}: {printable(str(getattr(arguments, flag)))}')
    if arguments.sheet and tally.drawn:
        tally.draw(arguments.sheet)
        print(f'sheet: {printable(str(arguments.sheet))}')
    if tally.failed:
        raise UserError(
            f'{tally.failed} of {tally.failed + tally.classified} files could not be used; '
            f'{"they are" if tally.failed > 1 else "it is"} named above'
            + (f', {MAX_NAMED} of them' if tally.failed > MAX_NAMED else '')
        )


def _opened(arguments: Arguments, names: tuple[str, ...], top: int, stack) -> list:
    """Functions that write a prediction into each file that was asked for."""
    from mixer_dilated.prediction.outputs import csv_output, json_output

    return [
        stack.enter_context(output(path, names, top))
        for output, path in ((csv_output, arguments.csv), (json_output, arguments.json))
        if path
    ]


def _shown_progress(found: Iterable, stack) -> Iterable:
    """The same, with a count on a terminal's last line, which goes away at the end."""
    if not sys.stderr.isatty():
        return found
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    progress = stack.enter_context(
        Progress(
            TextColumn('{task.completed:.0f} pictures'),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
    )
    return progress.track(found, total=None)


class _Tally:
    """What is kept of all predictions to be shown: counts, and the first few.

    Args:
      names: of the classes.
      top: classes of each picture that are shown.
      draws: whether pictures are kept for a sheet.
    """

    def __init__(self, names: tuple[str, ...], top: int, *, draws: bool):
        self._names, self._top, self._draws = names, top, draws
        self._rows = []
        self.classified = self.failed = 0
        self.drawn = []

    def take(self, prediction) -> None:
        """Counts a prediction; says at once which file failed."""
        if prediction.error:
            self.failed += 1
            if self.failed <= MAX_NAMED:
                warnings.warn(f'{prediction.path}: {prediction.error}', stacklevel=2)
            return
        self.classified += 1
        classes = None
        if len(self._rows) < MAX_SHOWN or len(self.drawn) < MAX_DRAWN:
            found = prediction.top(self._top)
            classes = [(self._names[label], probability) for label, probability in found]
        if len(self._rows) < MAX_SHOWN:
            self._rows.append((prediction.path, classes))
        if self._draws and len(self.drawn) < MAX_DRAWN:
            self.drawn.append((prediction.image, prediction.path, classes))

    def print(self, seconds: float) -> None:
        """Prints the table, and how many there were in how long."""
        from mixer_dilated.reports.tables.prediction_table import print_predictions

        if self._rows:
            print_predictions(self._rows)
        more = self.classified - len(self._rows)
        if more > 0:
            print(f'… {more} more; --csv=FILE or --json=FILE has all of them')
        counted = f'{self.classified} {"picture" if self.classified == 1 else "pictures"}'
        speed = f'{counted} in {seconds:.1f} s, {self.classified / seconds:.0f} a second'
        print(
            (f'\n{speed}' if self.classified else 'no picture was classified')
            + (f'; {self.failed} could not be used' if self.failed else '')
        )

    def draw(self, path: pathlib.Path) -> None:
        """Draws the sheet."""
        from mixer_dilated.reports.plots.figure import save_figure
        from mixer_dilated.reports.plots.image_grids import Predicted, prediction_sheet

        more = self.classified - len(self.drawn)
        note = f'the first {len(self.drawn)} of {self.classified} pictures' if more else ''
        pictures = [
            Predicted(image, os.path.basename(file), classes) for image, file, classes in self.drawn
        ]
        save_figure(prediction_sheet(pictures, note), path, 'sheet')
