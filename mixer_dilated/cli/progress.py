"""Progress of a run and of a study: a bar or a line on a terminal, plain lines elsewhere."""

import contextlib
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
from mixer_dilated.reports.formatting import count_text, spread_text
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.sweep import PreparedTrial
from mixer_dilated.training.run_progress import Progress
from mixer_dilated.training.setup import Setup

# What an epoch of no tokens would cost, in tokens: a step takes time whatever it computes.
TOKENS_OF_A_STEP = 4
# A share of an epoch that is worth a line, and what to do about it, by `config.input.mode`.
SLOW_INPUT = 0.05
INPUT_HINTS = {
    'auto': 'a larger config.input.disk_gib or memory_gib keeps them',
    'disk': 'later epochs read what is decoded; else see config.input.workers',
    'stream': "config.input.mode='disk' decodes them once",
}


class SilentProgress(Progress):
    """Prints nothing; a signal makes the run save and stop."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        preemption.on_signal('exit')

    def on_restore(self) -> None:
        preemption.on_signal('defer')

    def on_train_end(self) -> None:
        preemption.on_signal('exit')

    def stop_requested(self) -> bool:
        return preemption.requested()


class TerminalProgress(SilentProgress):
    """Prints what a run is and, epoch by epoch, how far it is."""

    def __init__(self, name: str, workdir: pathlib.Path):
        self._name, self._workdir, self._bar = name, workdir, None
        self._output_error = None  # of standard output: the run saves before it is raised
        self._hint = f'the same command with --workdir={workdir} resumes the run'

    def __exit__(self, kind, error, traceback):
        if self._bar:
            self._bar.stop()
        super().__exit__(kind, error, traceback)
        if self._output_error and (error is None or isinstance(error, Preempted)):
            raise self._output_error
        if isinstance(error, Preempted):
            print(f'\n{error};\n{self._hint}', flush=True)

    def stop_requested(self) -> bool:
        return bool(self._output_error) or super().stop_requested()

    def on_start(self, setup: Setup) -> None:
        config, counts = setup.config, setup.num_examples
        shown = f', {counts["val"]} validation' if 'val' in counts else ''
        seeds = f', {config.num_seeds} seeds' if config.num_seeds > 1 else ''
        print(
            f'{self._name}: {config.dataset.name}, {counts["train"]} training{shown} and '
            f'{counts["test"]} test images, {setup.num_tokens} tokens{seeds}\n'
            f'folder: {self._workdir}\nreads the data and compiles …',
            flush=True,
        )
        preemption.set_exit_message(f'interrupted; {self._hint}')

    def on_already_finished(self, workdir: pathlib.Path) -> None:
        print(f'{workdir} holds this run, finished; this is its result', flush=True)

    def on_initial_params(self, initial: dict) -> None:
        split = 'val' if 'val_accuracy' in initial else 'test'
        accuracy = f'{split} {statistics.fmean(initial[f"{split}_accuracy"]):.4f}'
        begins = f'begins with {printable(initial["init_from"])}; {accuracy} before training'
        for text in (begins, *initial['adapted']):
            print(textwrap.fill(text, 80, subsequent_indent='  '), flush=True)

    def on_ready(self, setup: Setup, step: int, counts: np.ndarray | None) -> None:
        print(classes_text(setup.dataset.class_names, counts), flush=True)
        self._num_epochs, self._input_mode = setup.num_epochs, setup.config.input.mode
        self._epochs_before = step / setup.steps_per_epoch
        self._start = time.perf_counter()
        if step:
            done = f'{self._epochs_before:.4g} of {self._num_epochs} epochs'
            print(f'continues after step {step}, {done}', flush=True)
        if sys.stdout.isatty():
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bars

            epochs = TextColumn('epoch {task.completed}/{task.total}')
            self._bar = Bars(epochs, BarColumn(bar_width=None), TextColumn('{task.description}'))
            self._bar.start()
            numbers = {'total': self._num_epochs, 'completed': int(self._epochs_before)}
            self._bar_task = self._bar.add_task('first epoch', **numbers)

    def on_epoch_end(self, rows: list[dict], speed: dict) -> None:
        epoch = rows[0]['epoch']
        here = epoch - self._epochs_before  # 0 if an earlier process left only the evaluation
        pace = (time.perf_counter() - self._start) / here if here else speed['seconds']
        accuracies = [
            f'{part} {statistics.fmean(row[f"{part}_accuracy"] for row in rows):.4f}  '
            for part in ('train', 'val', 'test')
            if rows[0].get(f'{part}_accuracy') is not None
        ]
        eta = _eta(pace * (self._num_epochs - epoch))
        text = f'{"".join(accuracies)}{speed["images_per_second"]:.0f} images/s{eta}'
        try:
            if self._bar:
                self._bar.update(self._bar_task, completed=epoch, description=text)
            else:
                print(f'epoch {_counted(epoch, self._num_epochs)}  {text}', flush=True)
            if speed['input_share'] > SLOW_INPUT:
                hint = INPUT_HINTS[self._input_mode]
                print(f'  {speed["input_share"]:.0%} of it waited for images; {hint}', flush=True)
        except OSError as error:
            self._output_error = self._output_error or error


class TerminalStudyProgress(StudyObserver):
    """Prints what a study is and, trial by trial, how far it is."""

    def __init__(self, name: str, folder: pathlib.Path):
        self._name, self._folder, self._awaited = name, folder, []
        self._hint = f'interrupted; {folder} holds what is done, the same command resumes it'

    def __enter__(self):
        preemption.set_exit_message(self._hint)
        return self

    def __exit__(self, kind, error, _):
        if isinstance(error, Preempted):
            print(f'\n{self._hint}', file=sys.stderr, flush=True)

    def on_rung(self, what: str, folder: pathlib.Path) -> None:
        self._name, self._folder = what, folder

    def on_start(self, trials: list[PreparedTrial]) -> None:
        valid = [trial for trial in trials if not trial.invalid]
        self._left = {trial.name: _work(trial.setup) for trial in valid}
        self._count, self._done, self._seconds, self._worked = len(valid), 0, 0.0, 0.0
        num_seeds, cannot = valid[0].setup.config.num_seeds, len(trials) - len(valid)
        trials, seeds = count_text(len(valid), 'trial'), count_text(num_seeds, 'seed')
        note = f'; {cannot} more cannot be (the report says why)' if cannot else ''
        print(f'{self._name}: {trials}, {seeds} each{note}\nfolder: {self._folder}', flush=True)

    def on_help(self) -> None:
        print('another process makes this study: this one helps, with trials that none has')
        print('begun; the other compares them and writes the report', flush=True)

    def on_wait(self, folders: list[pathlib.Path]) -> None:
        preemption.exit_if_requested()
        if folders != self._awaited:
            self._awaited = folders
            print('waits for other processes, which work in', *folders, sep='\n  ')
            print('(where surely none does, remove the .lock there)', flush=True)

    @contextlib.contextmanager
    def trial(self, trial: PreparedTrial, finished: bool):
        preemption.exit_if_requested()
        self._start = time.perf_counter()
        try:
            yield _TrialProgress(f'{self._done + 1}/{self._count}  {trial.label}  ')
        finally:
            preemption.on_signal('exit')
        _show_line('')

    def on_trial_end(self, trial: PreparedTrial, summary: dict, finished: bool) -> None:
        seconds, work = time.perf_counter() - self._start, self._left.pop(trial.name)
        self._done += 1
        text = 'was trained before'
        if not finished:
            self._seconds += seconds
            self._worked += work
            left = self._seconds / self._worked * sum(self._left.values())
            text = f'{seconds:.0f} s{_eta(left) if self._left else ""}'
        part = trial.setup.epoch_split  # 'val', by which methods are chosen, where there is one
        accuracies = [result[f'{part}_accuracy'] for result in summary['results']]
        std = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        accuracy = spread_text({'mean': statistics.fmean(accuracies), 'std': std})
        self.on_measured(f'{trial.label}  {part} {accuracy}  {text}', self._done, self._count)

    def on_timing_start(self, num_trials: int, rounds: int) -> None:
        self._timed, self._to_time = 0, num_trials * (rounds + 1)
        trials = count_text(num_trials, 'trial')
        print(f'times epochs of {trials} in turns, {rounds} rounds …', flush=True)

    def on_epoch_timed(self) -> None:
        preemption.exit_if_requested()
        self._timed += 1
        left = self._timed < self._to_time
        _show_line(f'  epoch {self._timed}/{self._to_time}' if left else '')

    def on_measured(self, what: str, done: int, total: int) -> None:
        print(f'{_counted(done, total)}  {what}', flush=True)
        preemption.exit_if_requested()


class _TrialProgress(SilentProgress):
    """Shows the epoch of the trial that trains, on a terminal."""

    def __init__(self, what: str):
        self._what = what

    def on_start(self, setup: Setup) -> None:
        self._num_epochs = setup.num_epochs
        _show_line(f'{self._what}reads the data and compiles …')

    def on_epoch_end(self, rows: list[dict], speed: dict) -> None:
        _show_line(f'{self._what}epoch {rows[0]["epoch"]}/{self._num_epochs}')


def _show_line(text: str) -> None:
    """Replaces the last line of a terminal."""
    if sys.stdout.isatty():
        print(f'\r\x1b[K{text[:76]}', end='', flush=True)


def _counted(done: int, total: int) -> str:
    return f'{done:{len(str(total))}}/{total}'


def _eta(seconds: float) -> str:
    return f'  ETA {datetime.timedelta(seconds=round(seconds))}'


def _work(setup: Setup) -> float:
    """How long a trial takes beside others, in a unit that only compares."""
    steps = setup.total_steps * setup.config.num_seeds
    return steps * setup.config.batch * (TOKENS_OF_A_STEP + setup.num_tokens)


def classes_text(names: Sequence[str], counts: np.ndarray | None) -> str:
    """'3 classes: cat, dog, fox; 5 (fox) to 9 (cat) training images'."""
    names = [printable(name) for name in names]
    shown = ', '.join(name if len(name) <= 20 else f'{name[:19]}…' for name in names[:5])
    text = f'{len(names)} classes: {shown}' + (', …' if len(names) > 5 else '')
    if counts is not None:
        few, many = int(counts.argmin()), int(counts.argmax())
        words = f'({names[few]}) to {counts[many]} ({names[many]}) training images'
        equal = counts[few] == counts[many]
        text += f'; {counts[few]} {"training images each" if equal else words}'
    return textwrap.fill(text, 80, subsequent_indent='  ')
