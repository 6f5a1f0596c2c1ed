"""Training from a config to a run's folder: `train_and_evaluate`."""

import pathlib
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import ml_collections

from mixer_dilated.data.examples import Examples, checksums
from mixer_dilated.data.sources import load_examples
from mixer_dilated.training.augmented_images import write_augmented_images
from mixer_dilated.training.checkpoints import Checkpoints
from mixer_dilated.training.environment import versions
from mixer_dilated.training.metrics import METRICS, MetricsWriter, has_rows
from mixer_dilated.training.predictions import write_predictions, write_weights
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.progress import Progress
from mixer_dilated.training.snapshot import Snapshot
from mixer_dilated.training.summary import run_summary
from mixer_dilated.training.task import Task, open_task
from mixer_dilated.training.trainer import Trainer
from mixer_dilated.training.workdir import (
    check_place,
    check_same_config,
    check_same_data,
    claim,
    locked,
    read_summary,
    write_json,
)


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    name: str = '',
    started: float | None = None,
    progress: Progress | None = None,
) -> dict:
    """Trains a config in a folder, from its newest checkpoint if it has one.

    Args:
      config: a resolved config.
      workdir: the run's folder; made if it is not there.
      name: what to call the run; the folder's name if empty.
      started: `time.perf_counter()` at the start of the process, from which start-up counts.
      progress: told how far the run is, and asked whether it should stop.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: the config does not fit the data, the devices or the folder; another process
        works in the folder; something cannot be read or written.
      NotFiniteError: the loss or its gradient is not finite, and `config.on_nonfinite` is 'stop'.
      Stopped: the run was asked to stop, and its state is saved.
    """
    started = time.perf_counter() if started is None else started
    progress = progress or Progress()
    finished = read_summary(workdir)
    if finished:
        check_same_config(workdir, config)
        progress.already_finished(workdir)
        return finished
    task = open_task(config)
    programs = Programs(task)
    programs.check_batch()
    check_place(workdir, 'run', 'config.json')
    with locked(workdir):
        claim(workdir, config, versions())
        progress.starts(task)
        with Checkpoints(workdir, config) as checkpoints:
            examples = _read_and_compile(task, programs, initialise=not checkpoints.any_there())
            check_same_data(workdir, {part: checksums(found) for part, found in examples.items()})
            train, test = (programs.place(found) for found in examples.values())
            snapshot = checkpoints.restore(
                programs.abstract_snapshot(), expected=has_rows(workdir / METRICS)
            )
            snapshot = snapshot or Snapshot(programs.create_state(), programs.zero_sums())
            jax.block_until_ready((snapshot.arrays, train, test))
            startup = time.perf_counter() - started
            progress.compiled(task, snapshot.step)
            with MetricsWriter(workdir, snapshot) as writer:
                trainer = Trainer(task, programs, checkpoints, writer, progress)
                snapshot = trainer.run(snapshot, train, test)
            progress.trained()
        state = snapshot.state
        results = {
            part: programs.evaluation(placed)(state)
            for part, placed in (('train', train), ('test', test))
        }
        write_predictions(workdir, examples['test'], programs.prediction(test)(state))
        write_weights(workdir, state.params)
        write_augmented_images(workdir, config, examples['train'])
        seconds = {'startup': startup, 'compile': programs.compile_seconds}
        name = name or workdir.name
        summary = run_summary(task, name, snapshot.speed, jax.device_get(results), seconds)
        write_json(workdir / 'summary.json', summary)
    return summary


def _read_and_compile(task: Task, programs: Programs, *, initialise: bool) -> dict[str, Examples]:
    """Reads the examples, 'train' and 'test', while the training programs are compiled."""
    config = task.config.dataset
    threads = ThreadPoolExecutor(1)
    try:
        compiling = threads.submit(programs.compile_training, initialise=initialise)
        examples = {
            part: load_examples(task.source, config[f'{part}_split'], config)
            for part in ('train', 'test')
        }
        compiling.result()
    finally:
        threads.shutdown(wait=False)  # an error, or Ctrl-C, does not wait for the compiler
    return examples
