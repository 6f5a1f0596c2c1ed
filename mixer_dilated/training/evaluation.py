"""Evaluating a run that is on disk: `evaluate_checkpoint`."""

import pathlib

import jax
import ml_collections

from mixer_dilated.data.sources import load_examples
from mixer_dilated.data.splits import num_examples
from mixer_dilated.errors import InputError
from mixer_dilated.training.checkpoints import Checkpoints
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.task import open_task
from mixer_dilated.training.workdir import check_same_config, read_config


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
    programs.check_batches('batch_eval')
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(programs.abstract_state())
    if restored is None:
        raise InputError(f'--workdir={workdir}: no checkpoint there yet; train it first')
    state, history = restored
    data = programs.place(load_examples(task.source, split, task.config.dataset))
    result = jax.device_get(programs.compile_evaluate(state, data)(state))
    return {
        'dataset': task.config.dataset.name,
        'split': split,
        'examples': examples,
        'epoch': len(history),
        'loss': float(result['loss']),
        'accuracy': int(result['correct']) / examples,
        'correct': int(result['correct']),
    }
