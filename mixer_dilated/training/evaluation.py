"""Evaluating a run that is on disk: `evaluate_checkpoint`."""

import pathlib

import jax

from mixer_dilated.config import resolve
from mixer_dilated.data.sources import load_examples
from mixer_dilated.data.splits import num_examples
from mixer_dilated.errors import InputError
from mixer_dilated.training.checkpoints import Checkpoints
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.snapshot import Snapshot
from mixer_dilated.training.task import open_task
from mixer_dilated.training.workdir import read_config


def evaluate_checkpoint(
    workdir: pathlib.Path,
    split: str | None = None,
    data_dir: str | None = None,
    *,
    best: bool = False,
) -> dict:
    """Evaluates a checkpoint of a run, the newest that is undamaged.

    Args:
      workdir: the run's folder.
      split: examples to evaluate, in TFDS split syntax; the run's test split if None.
      data_dir: where prepared data lies now; where the run's config says if None.
      best: the checkpoint of the highest test accuracy instead.

    Returns:
      'dataset', 'split', 'examples', 'step', 'epoch', and 'results': of each seed its 'seed',
      'loss', 'accuracy' and 'correct'.

    Raises:
      InputError: no run or no checkpoint there, or no such data.
    """
    config = read_config(workdir)
    if data_dir is not None:
        config = resolve({**config, 'dataset': {**config.dataset, 'data_dir': data_dir}})
    task = open_task(config)
    split = task.config.dataset.test_split if split is None else split
    examples = num_examples('--split', split, task.source.split_sizes)
    programs = Programs(task)
    snapshot = checkpoint(workdir, programs, best=best)
    data = programs.place(load_examples(task.source, split, task.config.dataset))
    result = jax.device_get(programs.evaluation(data)(snapshot.state))
    return {
        'dataset': task.config.dataset.name,
        'split': split,
        'examples': examples,
        'step': snapshot.step,
        'epoch': snapshot.step / task.steps_per_epoch,
        'results': [
            {
                'seed': config.seed + k,
                'loss': float(loss),
                'accuracy': int(correct) / examples,
                'correct': int(correct),
            }
            for k, (loss, correct) in enumerate(zip(result['loss'], result['correct'], strict=True))
        ],
    }


def checkpoint(workdir: pathlib.Path, programs: Programs, *, best: bool = False) -> Snapshot:
    """The newest undamaged snapshot of a run, or its best.

    Args:
      workdir: the run's folder.
      programs: of its config; they say how the state is laid out.
      best: as in `evaluate_checkpoint`.

    Raises:
      InputError: no checkpoint there, or none that can be read.
    """
    if (workdir / 'checkpoints').is_dir():
        with Checkpoints(workdir, read_config(workdir), read_only=True) as checkpoints:
            restore = checkpoints.restore_best if best else checkpoints.restore
            restored = restore(programs.abstract_snapshot())
        if restored:
            return restored
    raise InputError(
        f'{workdir}: no checkpoint there; remove this folder, and the command that trained it '
        'makes one'
    )
