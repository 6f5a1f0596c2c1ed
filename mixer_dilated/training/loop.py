"""Training from a config to a run's folder: `train_and_evaluate`."""

import math
import pathlib
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import ml_collections
from flax.training.train_state import TrainState

from mixer_dilated.data.examples import Examples, checksums
from mixer_dilated.data.sources import load_examples
from mixer_dilated.training.checkpoints import Checkpoints
from mixer_dilated.training.metrics import MetricsWriter
from mixer_dilated.training.optimizer import learning_rate_schedule
from mixer_dilated.training.predictions import write_predictions, write_weights
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.progress import Progress
from mixer_dilated.training.summary import run_summary
from mixer_dilated.training.task import Task, open_task
from mixer_dilated.training.workdir import (
    check_same_config,
    check_same_data,
    claim,
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
      progress: told how far the run is.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: the config does not fit the data, the devices or the folder.
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
    claim(workdir, config)
    progress.starts(task)
    with Checkpoints(workdir, config.checkpoints.keep) as checkpoints:
        examples = _read_and_compile(task, programs, initialise=not checkpoints.any_there())
        check_same_data(workdir, {part: checksums(found) for part, found in examples.items()})
        train, test = (programs.place(found) for found in examples.values())
        state, history = checkpoints.restore(programs.abstract_state()) or (
            programs.create_state(),
            [],
        )
        run_epoch = programs.train_epoch(train)
        evaluate = programs.evaluation(test)
        epochs_done = history[-1]['epoch'] if history else 0
        startup = time.perf_counter() - started
        progress.compiled(task, epochs_done)
        with MetricsWriter(workdir, history) as writer:
            for epoch in range(epochs_done + 1, config.num_epochs + 1):
                evaluated = epoch % config.eval_every == 0 or epoch == config.num_epochs
                state, rows = _epoch(task, epoch, state, run_epoch, evaluate if evaluated else None)
                history = [*history, *rows]
                writer.write(rows)
                if evaluated:
                    checkpoints.save(epoch, state, history)
                progress.epoch_done(rows)
        results = {'train': programs.evaluation(train)(state), 'test': evaluate(state)}
        write_predictions(workdir, examples['test'], programs.prediction(test)(state))
        write_weights(workdir, state.params)
    seconds = {'startup': startup, 'compile': programs.compile_seconds}
    summary = run_summary(task, name or workdir.name, history, jax.device_get(results), seconds)
    write_json(workdir / 'summary.json', summary)
    return summary


def _read_and_compile(task: Task, programs: Programs, *, initialise: bool) -> dict[str, Examples]:
    """Reads the examples, 'train' and 'test', while the training programs are compiled."""
    config = task.config.dataset
    with ThreadPoolExecutor() as threads:
        compiling = threads.submit(programs.compile_training, initialise=initialise)
        examples = {
            part: load_examples(task.source, config[f'{part}_split'], config)
            for part in ('train', 'test')
        }
        compiling.result()
    return examples


def _epoch(
    task: Task,
    epoch: int,
    state: TrainState,
    run_epoch: Callable,
    evaluate: Callable | None,
) -> tuple[TrainState, list[dict]]:
    """Trains one epoch and returns the state and the rows of `metrics.jsonl`.

    Without `evaluate` the rows' test_loss and test_accuracy are None.
    """
    config = task.config
    start = time.perf_counter()
    state, training = run_epoch(state)
    jax.block_until_ready(training)
    seconds = time.perf_counter() - start
    training, testing = jax.device_get((training, evaluate(state) if evaluate else None))
    step = epoch * task.steps_per_epoch
    schedule = learning_rate_schedule(config.optimizer, task.total_steps)
    rows = [
        {
            'epoch': epoch,
            'step': step,
            'seed': config.seed + k,
            'train_loss': float(training['loss'][k]),
            'train_accuracy': float(training['accuracy'][k]),
            'test_loss': float(testing['loss'][k]) if testing else None,
            'test_accuracy': int(testing['correct'][k]) / task.test_examples if testing else None,
            'learning_rate': float(schedule(step - 1)),
            'seconds': seconds,
            'images_per_second': config.num_seeds * task.steps_per_epoch * config.batch / seconds,
        }
        for k in range(config.num_seeds)
    ]
    diverged = [str(row['seed']) for row in rows if not math.isfinite(row['train_loss'])]
    if diverged:
        warnings.warn(
            f'epoch {epoch}: the training loss is not finite (seed {", ".join(diverged)}); a '
            'smaller config.optimizer.base_lr may help',
            stacklevel=2,
        )
    return state, rows
