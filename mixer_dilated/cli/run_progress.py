"""Progress of a training run: a bar on a terminal, plain lines elsewhere, or nothing."""

import datetime
import pathlib
import statistics
import sys
import textwrap
import time
from collections.abc import Sequence

import numpy as np

from mixer_dilated.cli import preemption
from mixer_dilated.errors import Preempted, printable
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.train import Progress


class SilentProgress(Progress):
    """Prints nothing; a signal makes the run save and stop."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        preemption.exit_at_once()

    def on_restore(self) -> None:
        preemption.defer()

    def on_train_end(self) -> None:
        preemption.exit_at_once()

    def stop_requested(self) -> bool:
        return preemption.requested()


class TerminalProgress(SilentProgress):
    """Prints what a run is and, epoch by epoch, how far it is.

    Args:
      name: what to call the run.
      workdir: its folder.
    """

    def __init__(self, name: str, workdir: pathlib.Path):
        self._name = name
        self._workdir = workdir
        self._hint = f'the same command with --workdir={workdir} resumes the run'
        self._bar = None

    def __exit__(self, kind, error, traceback):
        if self._bar:
            self._bar.stop()
        super().__exit__(kind, error, traceback)
        if isinstance(error, Preempted):
            print(f'\n{error};\n{self._hint}', flush=True)

    def on_start(self, setup: Setup) -> None:
        print(
            f'{self._name}: {setup.config.dataset.name}, {setup.train_examples} training'
            + (f', {setup.val_examples} validation' if setup.val_examples else '')
            + f' and {setup.test_examples} test images, {setup.num_tokens} tokens'
            + (f', {setup.config.num_seeds} seeds' if setup.config.num_seeds > 1 else '')
        )
        print(f'folder: {self._workdir}')
        print('reads the data and compiles …', flush=True)
        preemption.set_exit_message(f'interrupted; {self._hint}')

    def on_already_finished(self, workdir: pathlib.Path) -> None:
        print(f'{workdir} holds this run, finished; this is its result', flush=True)

    def on_initial_params(self, initial: dict) -> None:
        split = 'val' if 'val_accuracy' in initial else 'test'
        accuracy = statistics.fmean(initial[f'{split}_accuracy'])
        for text in (
            f'begins with {printable(initial["init_from"])}; {split} {accuracy:.4f} before '
            'training',
            *initial['adapted'],
        ):
            print(textwrap.fill(text, 80, subsequent_indent='  '), flush=True)

    def on_ready(self, setup: Setup, step: int, counts: np.ndarray | None) -> None:
        print(_classes_text(setup.dataset.class_names, counts), flush=True)
        self._num_epochs = setup.config.num_epochs
        self._epochs_before = step / setup.steps_per_epoch
        self._start = time.perf_counter()
        if step:
            done = f'{self._epochs_before:.4g} of {self._num_epochs} epochs'
            print(f'continues after step {step}, {done}', flush=True)
        if sys.stdout.isatty():
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn('epoch {task.completed}/{task.total}'),
                progress.BarColumn(bar_width=None),
                progress.TextColumn('{task.description}'),
            )
            self._bar.start()
            self._bar_task = self._bar.add_task(
                'first epoch', total=self._num_epochs, completed=int(self._epochs_before)
            )

    def on_epoch_end(self, rows: list[dict], speed: dict) -> None:
        epoch = rows[0]['epoch']
        here = epoch - self._epochs_before  # 0 if an earlier process left only the evaluation
        pace = (time.perf_counter() - self._start) / here if here else speed['seconds']
        left = datetime.timedelta(seconds=round(pace * (self._num_epochs - epoch)))
        accuracies = '  '.join(
            f'{part} {statistics.fmean(row[f"{part}_accuracy"] for row in rows):.4f}'
            for part in ('train', 'val', 'test')
            if rows[0].get(f'{part}_accuracy') is not None
        )
        text = f'{accuracies}  {speed["images_per_second"]:.0f} images/s  ETA {left}'
        if self._bar:
            self._bar.update(self._bar_task, completed=epoch, description=text)
        else:
            width = len(str(self._num_epochs))
            print(f'epoch {epoch:{width}}/{self._num_epochs}  {text}', flush=True)


def _classes_text(names: Sequence[str], counts: np.ndarray | None) -> str:
    """'3 classes: cat, dog, fox; 5 (fox) to 9 (cat) training images'."""
    shown = ', '.join(
        name if len(name) <= 20 else f'{name[:19]}…' for name in map(printable, names[:5])
    )
    text = f'{len(names)} classes: {shown}' + (', …' if len(names) > 5 else '')
    if counts is not None:
        few, many = (int(counts.argmin()), int(counts.argmax()))
        text += f'; {counts[few]}'
        if counts[few] < counts[many]:
            text += f' ({printable(names[few])}) to {counts[many]} ({printable(names[many])})'
        text += ' training images' + (' each' if counts[few] == counts[many] else '')
    return textwrap.fill(text, 80, subsequent_indent='  ')
