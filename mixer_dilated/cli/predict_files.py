"""The command `predict`: files in, classes on the terminal and in files."""

import contextlib
import os
import sys
import textwrap
import time
import warnings
from collections.abc import Iterable
from types import SimpleNamespace

from mixer_dilated.cli.compilation_cache import keep_compiled_programs
from mixer_dilated.data.image_files import Ignored, ignored_text
from mixer_dilated.errors import UserError, printable
from mixer_dilated.files import check_output

OUTPUTS = ('csv', 'json', 'sheet')
SHEET_SUFFIXES = ('.png', '.pdf', '.svg')
TOP = 3
MAX_SHOWN = 40  # lines of the table
MAX_NAMED = 20  # files that failed
MAX_DRAWN = 60  # images of the sheet


def _check_outputs(arguments: SimpleNamespace) -> None:
    """Raises UserError if a file that shall be written cannot be."""
    paths = {flag: getattr(arguments, flag) for flag in OUTPUTS if getattr(arguments, flag)}
    real = [*map(os.path.realpath, paths.values())]
    for flag, path in paths.items():
        check_output(flag, path)
        if real.count(os.path.realpath(path)) > 1:
            raise UserError(f'--{flag}={path}: two outputs in one file; name one each')
    if arguments.sheet and arguments.sheet.suffix.lower() not in SHEET_SUFFIXES:
        allowed = ', '.join(SHEET_SUFFIXES)
        raise UserError(f'--sheet={arguments.sheet}: allowed are names that end with {allowed}')


def predict_files(arguments: SimpleNamespace) -> None:
    """Classifies all files, writes the outputs, and prints a table and counts.

    Raises UserError without a run or files, and at the end if any file could not be used.
    """
    _check_outputs(arguments)
    keep_compiled_programs()
    from mixer_dilated.inference.prediction import image_paths, open_classifier, predict
    from mixer_dilated.inference.prediction_outputs import open_csv, open_json

    ignored, best = Ignored(), arguments.checkpoint == 'best'
    paths = image_paths(arguments.words, ignored)
    limit = arguments.max_pixels or 0
    classifier, paths = open_classifier(arguments.workdir, paths, best=best, max_pixels=limit)
    names = classifier.class_names
    top = min(arguments.top or TOP, len(names))
    shown, drawn, num_images, num_failed = [], [], 0, 0
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings('ignore', module='PIL')  # which names no file
        outputs = (open_csv, arguments.csv), (open_json, arguments.json)
        writes = [stack.enter_context(write(path, names, top)) for write, path in outputs if path]
        for prediction in _show_progress(predict(classifier, paths), stack):
            for write in writes:
                write(prediction)
            if prediction.error:
                num_failed += 1
                if num_failed <= MAX_NAMED:
                    warnings.warn(f'{prediction.path}: {prediction.error}', stacklevel=2)
                continue
            classes, file = prediction.top(names, top), os.path.basename(prediction.path)
            if num_images < MAX_SHOWN:
                shown.append((prediction.path, classes))
            if num_images < MAX_DRAWN and arguments.sheet:
                drawn.append((prediction.image, file, classes))
            num_images += 1
    _print_results(shown, num_images, num_failed, time.perf_counter() - start)
    if ignored:
        print(textwrap.fill(f'left out in folders: {ignored_text(ignored)}', 80))
    if drawn:
        from mixer_dilated.reports.plots.figure import save_figure
        from mixer_dilated.reports.plots.image_grids import prediction_sheet

        note = f'the first {len(drawn)} of {num_images} images' if num_images > len(drawn) else ''
        save_figure(prediction_sheet(drawn, note), arguments.sheet, 'sheet')
    for flag in OUTPUTS:
        path = getattr(arguments, flag)
        if path and (drawn or flag != 'sheet'):
            print(f'{flag}: {printable(str(path))}')
    if num_failed:
        are = 'they are' if num_failed > 1 else 'it is'
        named = f'{are} named above' + (f', {MAX_NAMED} of them' if num_failed > MAX_NAMED else '')
        total = num_failed + num_images
        raise UserError(f'{num_failed} of {total} files could not be used; {named}')


def _show_progress(predictions: Iterable, stack: contextlib.ExitStack) -> Iterable:
    """Counts the predictions on a terminal's last line, which goes away at the end."""
    if not sys.stderr.isatty():
        return predictions
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn('{task.completed:.0f} images'), TimeElapsedColumn()
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    return stack.enter_context(progress).track(predictions, total=None)


def _print_results(shown: list[tuple], num_images: int, num_failed: int, seconds: float) -> None:
    from mixer_dilated.reports.tables.run_tables import print_predictions

    failed = f'; {num_failed} could not be used' if num_failed else ''
    if not num_images:
        print(f'no image was classified{failed}')
        return
    print_predictions(shown)
    if num_images > len(shown):
        print(f'… {num_images - len(shown)} more; --csv=FILE or --json=FILE has all of them')
    count, rate = f'{num_images} image{"s" * (num_images != 1)}', num_images / seconds
    print(f'\n{count} in {seconds:.1f} s, {rate:.{0 if rate > 10 else 1}f} a second{failed}')
