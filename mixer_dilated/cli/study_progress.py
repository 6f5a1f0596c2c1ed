"""Progress of a study: a line a trial, with the time that is left."""

import contextlib
import datetime
import pathlib
import statistics
import sys
import time

from mixer_dilated.cli import preemption
from mixer_dilated.cli.run_progress import SilentProgress
from mixer_dilated.errors import Preempted
from mixer_dilated.reports.formatting import count_text
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.sweep import PreparedTrial

# What an epoch of no tokens would cost, in tokens: a step takes time whatever it computes.
TOKENS_OF_A_STEP = 4


class TerminalStudyProgress(StudyObserver):
    """Prints what a study is and, trial by trial, how far it is.

    Args:
      name: what to call the study.
      folder: its folder.
    """

    def __init__(self, name: str, folder: pathlib.Path):
        self._name = name
        self._folder = folder
        self._hint = f'interrupted; {folder} holds what is done, the same command resumes it'

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if isinstance(error, Preempted):
            print(f'\n{self._hint}', file=sys.stderr, flush=True)

    def on_start(self, trials: list[PreparedTrial]) -> None:
        valid = [trial for trial in trials if not trial.invalid]
        self._left = {trial.name: _work(trial) for trial in valid}
        self._count, self._done = len(valid), 0
        self._seconds = self._worked = 0.0
        self._awaited = []
        seeds = valid[0].setup.config.num_seeds
        cannot = len(trials) - len(valid)
        print(
            f'{self._name}: {count_text(len(valid), "trial")}, {count_text(seeds, "seed")} each'
            + (f'; {cannot} more cannot be (the report says why)' if cannot else '')
        )
        print(f'folder: {self._folder}', flush=True)
        preemption.set_exit_message(self._hint)

    def on_help(self) -> None:
        print(
            'another process makes this study: this one helps, with trials that none has\n'
            'begun; the other compares them and writes the report',
            flush=True,
        )

    def on_wait(self, folders: list[pathlib.Path]) -> None:
        preemption.exit_if_requested()
        if folders != self._awaited:
            self._awaited = folders
            print('waits for other processes, which work in\n  ' + '\n  '.join(map(str, folders)))
            print('(where surely none does, remove the .lock there)', flush=True)

    @contextlib.contextmanager
    def trial(self, trial: PreparedTrial, finished: bool):
        preemption.exit_if_requested()
        self._start = time.perf_counter()
        try:
            yield _Epochs(f'{self._done + 1}/{self._count}  {trial.label}')
        finally:
            preemption.exit_at_once()
        if sys.stdout.isatty():
            print('\r\x1b[K', end='')

    def on_trial_end(self, trial: PreparedTrial, summary: dict, finished: bool) -> None:
        seconds, work = time.perf_counter() - self._start, self._left.pop(trial.name)
        self._done += 1
        if not finished:
            self._seconds += seconds
            self._worked += work
        print(
            f'{self._done:{len(str(self._count))}}/{self._count}  {trial.label}  '
            f'test {_accuracy(summary)}  '
            + ('was trained before' if finished else f'{seconds:.0f} s{self._eta()}'),
            flush=True,
        )

    def on_timing_start(self, num_trials: int, rounds: int) -> None:
        self._timed, self._to_time = 0, num_trials * (rounds + 1)
        print(
            f'times epochs of {count_text(num_trials, "trial")} in turns, {rounds} rounds …',
            flush=True,
        )

    def on_epoch_timed(self) -> None:
        preemption.exit_if_requested()
        self._timed += 1
        if sys.stdout.isatty():
            end = f'\r\x1b[K  epoch {self._timed}/{self._to_time}'
            print('\r\x1b[K' if self._timed == self._to_time else end, end='', flush=True)

    def on_measured(self, what: str, done: int, total: int) -> None:
        preemption.exit_if_requested()
        print(f'{done:{len(str(total))}}/{total}  {what}', flush=True)

    def _eta(self) -> str:
        if not self._left:
            return ''
        left = self._seconds / self._worked * sum(self._left.values())
        return f'  ETA {datetime.timedelta(seconds=round(left))}'


class _Epochs(SilentProgress):
    """Shows the epoch of the trial that trains, on a terminal."""

    def __init__(self, what: str):
        self._what = what

    def on_start(self, setup) -> None:
        self._num_epochs = setup.config.num_epochs
        self._show('reads the data and compiles …')

    def on_epoch_end(self, rows: list[dict], speed: dict) -> None:
        self._show(f'epoch {rows[0]["epoch"]}/{self._num_epochs}')

    def _show(self, text: str) -> None:
        if sys.stdout.isatty():
            print(f'\r\x1b[K{self._what}  {text}'[:79], end='', flush=True)


def _work(trial: PreparedTrial) -> float:
    """How long a trial takes beside others, in a unit of its own."""
    setup = trial.setup
    steps = setup.total_steps * setup.config.num_seeds
    return steps * setup.config.batch * (TOKENS_OF_A_STEP + setup.num_tokens)


def _accuracy(summary: dict) -> str:
    accuracies = [result['test_accuracy'] for result in summary['results']]
    mean = f'{statistics.fmean(accuracies):.4f}'
    return f'{mean} ± {statistics.stdev(accuracies):.4f}' if len(accuracies) > 1 else mean
