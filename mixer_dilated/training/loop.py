"""Training from a config to a run's folder: `train_and_evaluate`."""

import contextlib
import pathlib
import secrets
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
import ml_collections
from flax.training.train_state import TrainState

from mixer_dilated.data.examples import Examples
from mixer_dilated.errors import InputError
from mixer_dilated.training.agreement import (
    OTHER_DATA,
    check_same,
    first_says,
    first_text,
    lost_told,
    on_every,
    on_first,
    on_host,
)
from mixer_dilated.training.augmented_images import write_augmented_images
from mixer_dilated.training.checkpoints import SEEN_WITHIN_SECONDS, Checkpoints
from mixer_dilated.training.data_file import check_same_data, data_facts
from mixer_dilated.training.environment import versions
from mixer_dilated.training.initial import Initial, starting_params, with_params, write_initial
from mixer_dilated.training.metrics import METRICS, MetricsWriter, has_rows
from mixer_dilated.training.predictions import drawn_weights, write_predictions, write_weights
from mixer_dilated.training.preprocessing_file import write_preprocessing
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.progress import Progress
from mixer_dilated.training.snapshot import Snapshot, array_checksums
from mixer_dilated.training.streamed_examples import StreamedExamples, closing, open_examples
from mixer_dilated.training.summary import run_summary
from mixer_dilated.training.task import Task, open_task
from mixer_dilated.training.trainer import Trainer
from mixer_dilated.training.workdir import (
    check_place,
    check_same_config,
    claim,
    file_checksums,
    locked,
    read_summary,
    write_summary,
    write_text,
)

# Files of a finished run that its summary has the checksums of.
RESULTS = (METRICS, 'predictions.npz', 'weights.npz')
# 'train' and 'test'.
Data = Mapping[str, Examples | StreamedExamples]
# What processes are told that do not train the same.
OTHER_CONFIG = (
    'the processes were started with different configs, or have different versions installed; '
    'start all with the same command, in the same environment (or apart from each other, with '
    '--num_processes=1 and each in a folder of its own)'
)
OTHER_WEIGHTS = 'config.init_from: the processes read different weights; give all the same file'


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    name: str = '',
    started: float | None = None,
    progress: Progress | None = None,
) -> dict | None:
    """Trains a config in a folder, from its newest checkpoint if it has one.

    Args:
      config: a resolved config.
      workdir: the run's folder; made if it is not there.
      name: what to call the run; the folder's name if empty.
      started: `time.perf_counter()` at the start of the process, from which start-up counts.
      progress: told how far the run is, and asked whether it should stop.

    Returns:
      The content of `summary.json`; None on other processes than the first.

    Raises:
      InputError: the config does not fit the data, the devices or the folder; another process
        works in the folder; something cannot be read or written.
      NotFiniteError: the loss or its gradient is not finite, and `config.on_nonfinite` is 'stop'.
      Stopped: the run was asked to stop, and its state is saved.
    """
    started = time.perf_counter() if started is None else started
    progress = progress or Progress()
    check_same([config.to_dict(), versions()], OTHER_CONFIG)
    finished = on_first(_finished, workdir, config)
    if first_says(bool(finished)):
        progress.already_finished(workdir)
        return finished
    on_first(check_place, workdir, 'run', 'config.json')
    if jax.process_count() > 1:
        on_first(open_task, config)  # where there is something to prepare, one process does so
    starts = first_says(not (workdir / 'checkpoints').exists())
    task, programs, initial = on_every(_prepared, config, starts=starts)
    with contextlib.ExitStack() as ending:
        on_first(ending.enter_context, locked(workdir))
        on_first(claim, workdir, config, versions())
        _check_seen(workdir)
        progress.starts(task)
        with Checkpoints(workdir, config) as checkpoints, lost_told():
            saved = checkpoints.any_there()
            examples = on_every(_read_and_compile, task, programs, initialise=not saved)
            ending.enter_context(closing(*examples.values()))
            on_first(write_preprocessing, workdir, task)
            facts = {part: data_facts(task, part, found) for part, found in examples.items()}
            check_same(facts, OTHER_DATA)
            on_first(check_same_data, workdir, facts, saved=saved)
            placed = {part: programs.place(found) for part, found in examples.items()}
            progress.restores()
            snapshot = on_every(_restored, workdir, config, checkpoints, programs)
            if snapshot is None:
                snapshot = _first_snapshot(workdir, task, programs, initial, placed, progress)
            jax.block_until_ready((snapshot.arrays, placed))
            startup = time.perf_counter() - started
            progress.compiled(task, snapshot.step)
            with on_first(MetricsWriter, workdir, snapshot) or contextlib.nullcontext() as writer:
                trainer = Trainer(task, programs, checkpoints, writer, progress)
                snapshot = trainer.run(snapshot, placed['train'], placed['test'])
            progress.trained()
        results = _final_results(workdir, task, programs, snapshot.state, examples, placed)
        seconds = {'startup': startup, 'compile': programs.compile_seconds}
        summary = run_summary(task, name or workdir.name, snapshot, results, seconds)
        files = on_first(file_checksums, workdir, RESULTS)
        return on_first(write_summary, workdir, {**summary, 'files': files})


def _check_seen(workdir: pathlib.Path) -> None:
    """Raises SharedError unless all processes see the folder in which the first writes."""
    if jax.process_count() == 1:
        return
    mark, said = workdir / '.seen', first_text(secrets.token_hex())
    on_first(write_text, mark, said)
    on_every(_wait_for, mark, said)
    on_first(mark.unlink)


def _wait_for(mark: pathlib.Path, said: str) -> None:
    until = time.monotonic() + SEEN_WITHIN_SECONDS
    while not mark.exists() or mark.read_text() != said:
        if time.monotonic() > until:
            raise InputError(
                f'--workdir={mark.parent}: this process does not see the folder of process 0; name '
                'one on a disk that all processes share'
            )
        time.sleep(0.1)


def _prepared(
    config: ml_collections.ConfigDict, *, starts: bool
) -> tuple[Task, Programs, Initial | None]:
    """What is refused, if it is, before there is a folder; no parameters if there were steps."""
    task = open_task(config)
    programs = Programs(task)
    programs.check_batch()
    return task, programs, starting_params(task) if starts else None


def _finished(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> dict | None:
    """The summary of the finished run in a folder; None if there is none, or files are damaged."""
    summary = read_summary(workdir)
    if not summary:
        return None
    check_same_config(workdir, config)
    _check_none_left_out(workdir, config, summary['skipped_steps'])
    there = file_checksums(workdir, RESULTS)
    damaged = [name for name in RESULTS if there[name] != summary['files'][name]]
    if damaged:
        warnings.warn(
            f'{workdir}: {", ".join(damaged)} damaged or gone; made again from the checkpoint',
            stacklevel=3,
        )
        return None
    return summary


def _restored(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    checkpoints: Checkpoints,
    programs: Programs,
) -> Snapshot | None:
    """The newest snapshot; None if nothing was trained yet."""
    snapshot = checkpoints.restore(
        programs.abstract_snapshot(), expected=has_rows(workdir / METRICS)
    )
    if snapshot is None:
        return None
    left_out = sum(row['skipped_steps'] for row in snapshot.metrics)
    left_out += int(on_host(snapshot.sums.skipped).sum())
    _check_none_left_out(workdir, config, left_out)
    return snapshot


def _check_none_left_out(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, skipped_steps: int
) -> None:
    if skipped_steps and config.on_nonfinite == 'stop':
        raise InputError(
            f"config.on_nonfinite = 'stop': {workdir} holds a run that left out {skipped_steps} "
            "steps; allowed is 'skip', or a new folder"
        )


def _first_snapshot(
    workdir: pathlib.Path,
    task: Task,
    programs: Programs,
    initial: Initial | None,
    placed: Data,
    progress: Progress,
) -> Snapshot:
    """Before the first step; what weights from elsewhere score is written."""
    initial = initial or on_every(starting_params, task)
    check_same(array_checksums(initial.params), OTHER_WEIGHTS)
    state = with_params(programs.create_state(), initial)
    if task.config.init_from:
        result = on_host(programs.evaluation(placed['test'])(state))
        progress.initialised(on_first(write_initial, workdir, initial, task, result))
    return Snapshot(state, programs.zero_sums())


def _final_results(
    workdir: pathlib.Path,
    task: Task,
    programs: Programs,
    state: TrainState,
    examples: Data,
    placed: Data,
) -> dict:
    """Of `epoch.evaluate` after the last step, on every part; predictions, weights and augmented
    images are written.
    """
    results = {part: programs.evaluation(found)(state) for part, found in placed.items()}
    predicted = programs.prediction(placed['test'])(state)
    results, predicted = on_host((results, predicted))
    on_first(write_predictions, workdir, examples['test'], predicted, task.image_size)
    on_first(write_weights, workdir, drawn_weights(state.params))
    on_first(write_augmented_images, workdir, task.config, examples['train'], task.image_size)
    return results


def _read_and_compile(task: Task, programs: Programs, *, initialise: bool) -> Data:
    """Reads the examples, 'train' and 'test', while the training programs are compiled."""
    config = task.config.dataset
    threads = ThreadPoolExecutor(1)
    try:
        compiling = threads.submit(programs.compile_training, initialise=initialise)
        examples = {
            part: open_examples(task, config[f'{part}_split']) for part in ('train', 'test')
        }
        compiling.result()
    finally:
        threads.shutdown(wait=False)  # an error, or Ctrl-C, does not wait for the compiler
    return examples
