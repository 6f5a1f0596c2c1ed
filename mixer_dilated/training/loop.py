"""Training from a config to a run's folder: `train_and_evaluate`."""

import importlib.metadata
import json
import pathlib
import platform
import statistics
import time
from collections.abc import Callable

import jax
import ml_collections
from flax.training.train_state import TrainState

import mixer_dilated
from mixer_dilated.data.sources import load_examples
from mixer_dilated.data.splits import num_examples
from mixer_dilated.errors import InputError
from mixer_dilated.models.costs import flops_per_image, layers, num_params
from mixer_dilated.models.mixer import mixer_from_config
from mixer_dilated.training.checkpoints import Checkpoints
from mixer_dilated.training.metrics import MetricsWriter
from mixer_dilated.training.optimizer import learning_rate_schedule
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.task import Task, open_task
from mixer_dilated.training.workdir import check_same_config, claim, read_config, write_json


class Progress:
    """What a run tells while it runs; this one keeps silent."""

    def starts(self, task: Task) -> None:
        """The config fits; data and programs are made ready next."""

    def already_finished(self, workdir: pathlib.Path) -> None:
        """The folder holds this very run, finished; its summary is returned as it is."""

    def compiled(self, task: Task, epochs_done: int) -> None:
        """All is ready; `epochs_done` epochs were done by an earlier process."""

    def epoch_done(self, row: dict) -> None:
        """An epoch is trained, evaluated and on its way to disk; `row` holds its metrics."""


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
    task = open_task(config)
    programs = Programs(task)
    claim(workdir, config)
    finished = workdir / 'summary.json'
    if finished.exists():
        progress.already_finished(workdir)
        return json.loads(finished.read_text())
    progress.starts(task)
    train, test = (
        programs.place(load_examples(task.source, split, config.dataset))
        for split in (config.dataset.train_split, config.dataset.test_split)
    )
    startup = time.perf_counter() - started
    with Checkpoints(workdir, config.checkpoints.keep) as checkpoints:
        state, history = checkpoints.restore(programs.abstract_state()) or (
            programs.create_state(),
            [],
        )
        run_epoch = programs.compile_train_epoch(state, train)
        evaluate = programs.compile_evaluate(state, test)
        progress.compiled(task, len(history))
        with MetricsWriter(workdir, history) as writer:
            for epoch in range(len(history) + 1, config.num_epochs + 1):
                state, row = _epoch(task, epoch, state, run_epoch, evaluate, train, test)
                history = [*history, row]
                writer.write(row)
                checkpoints.save(epoch, state, history)
                progress.epoch_done(row)
        results = {
            'train': programs.compile_evaluate(state, train)(state, train),
            'test': evaluate(state, test),
        }
    seconds = {'startup': startup, 'compile': programs.compile_seconds}
    summary = _summary(task, name or workdir.name, history, jax.device_get(results), seconds)
    write_json(workdir / 'summary.json', summary)
    return summary


def evaluate_checkpoint(
    workdir: pathlib.Path,
    split: str | None = None,
    config: ml_collections.ConfigDict | None = None,
) -> dict:
    """Evaluates the newest checkpoint of a run.

    Args:
      workdir: the run's folder.
      split: examples to evaluate, in TFDS split syntax; the run's test split if None.
      config: the run's config again, where its data lies elsewhere now; the run's own if None.

    Returns:
      'dataset', 'split', 'examples', 'epoch', 'loss', 'accuracy' and 'correct'.

    Raises:
      InputError: no run or no checkpoint there, or another config.
    """
    recorded = read_config(workdir)
    if config is not None:
        check_same_config(workdir, config)
    task = open_task(config or recorded)
    split = split or task.config.dataset.test_split
    examples = num_examples('--split', split, task.source.split_sizes)
    programs = Programs(task)
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(programs.abstract_state())
    if restored is None:
        raise InputError(f'--workdir={workdir}: no checkpoint there yet; train it first')
    state, history = restored
    data = programs.place(load_examples(task.source, split, task.config.dataset))
    result = jax.device_get(programs.compile_evaluate(state, data)(state, data))
    return {
        'dataset': task.config.dataset.name,
        'split': split,
        'examples': examples,
        'epoch': len(history),
        'loss': float(result['loss']),
        'accuracy': int(result['correct']) / examples,
        'correct': int(result['correct']),
    }


def _epoch(
    task: Task,
    epoch: int,
    state: TrainState,
    run_epoch: Callable,
    evaluate: Callable,
    train,
    test,
) -> tuple[TrainState, dict]:
    """Trains one epoch, evaluates, and returns the state and the row of `metrics.jsonl`."""
    start = time.perf_counter()
    state, training = run_epoch(state, train)
    jax.block_until_ready(training)
    seconds = time.perf_counter() - start
    testing = jax.device_get(evaluate(state, test))
    step = epoch * task.steps_per_epoch
    schedule = learning_rate_schedule(task.config.optimizer, task.total_steps)
    return state, {
        'epoch': epoch,
        'step': step,
        'train_loss': float(training['loss']),
        'train_accuracy': float(training['accuracy']),
        'test_loss': float(testing['loss']),
        'test_accuracy': int(testing['correct']) / task.test_examples,
        'learning_rate': float(schedule(step - 1)),
        'seconds': seconds,
        'images_per_second': task.steps_per_epoch * task.config.batch / seconds,
    }


def _summary(task: Task, name: str, history: list, results: dict, seconds: dict) -> dict:
    config = task.config
    epoch_seconds = [row['seconds'] for row in history]
    model_layers = layers(
        mixer_from_config(config.model, task.source.num_classes), task.source.image_shape
    )
    return {
        'config_name': name,
        'dataset': config.dataset.name,
        'train_split': config.dataset.train_split,
        'test_split': config.dataset.test_split,
        'train_examples': task.train_examples,
        'test_examples': task.test_examples,
        'seed': config.seed,
        'num_epochs': config.num_epochs,
        'num_tokens': task.num_tokens,
        'num_params': num_params(model_layers),
        'flops_per_image': flops_per_image(model_layers),
        'train_accuracy': int(results['train']['correct']) / task.train_examples,
        'train_correct': int(results['train']['correct']),
        'test_accuracy': int(results['test']['correct']) / task.test_examples,
        'test_correct': int(results['test']['correct']),
        'seconds': {
            **seconds,
            'train': sum(epoch_seconds),
            'epoch_median': statistics.median(epoch_seconds),
        },
        'versions': {
            'python': platform.python_version(),
            'mixer_dilated': mixer_dilated.__version__,
            **{
                package: importlib.metadata.version(package)
                for package in ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
            },
        },
        'device': {
            'platform': jax.default_backend(),
            'kind': jax.devices()[0].device_kind,
            'count': jax.device_count(),
        },
    }
