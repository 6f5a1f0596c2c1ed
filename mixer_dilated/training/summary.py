"""The result of a finished run: the content of `summary.json`."""

import statistics

from mixer_dilated.config import pixels_seen
from mixer_dilated.models.costs import flops_per_image, num_params
from mixer_dilated.training.environment import environment
from mixer_dilated.training.snapshot import Snapshot
from mixer_dilated.training.task import Task


def run_summary(task: Task, name: str, snapshot: Snapshot, results: dict, seconds: dict) -> dict:
    """Facts of a finished run.

    Args:
      task: what was trained.
      name: what the run is called.
      snapshot: its end.
      results: `epoch.evaluate` of the final parameters on 'train' and 'test', on the host; each
        array (seeds,).
      seconds: of the process that finished the run, 'startup' (from its start to its first step)
        and 'compile' (of which much goes on side by side; summed over the programs).
    """
    config = task.config
    epoch_seconds = [row['seconds'] for row in snapshot.speed]
    of_seeds = [_seed_results(task, results, k) for k in range(config.num_seeds)]
    covered = pixels_seen(config, task.source.image_shape[:2])
    model_layers = task.layers
    return {
        'config_name': name,
        'dataset': config.dataset.name,
        'train_split': config.dataset.train_split,
        'test_split': config.dataset.test_split,
        'train_examples': task.train_examples,
        'test_examples': task.test_examples,
        'seed': config.seed,
        'num_seeds': config.num_seeds,
        'num_epochs': config.num_epochs,
        'skipped_steps': sum(row['skipped_steps'] for row in snapshot.metrics),
        'image_shape': list(task.source.image_shape),
        'num_tokens': task.num_tokens,
        'num_params': num_params(model_layers),
        'flops_per_image': flops_per_image(model_layers),
        'pixels_seen': int(covered.sum()),
        'pixels': covered.size,
        'train_accuracy': statistics.fmean(each['train_accuracy'] for each in of_seeds),
        'test_accuracy': statistics.fmean(each['test_accuracy'] for each in of_seeds),
        'results': of_seeds,
        'seconds': {
            **seconds,
            'train': sum(epoch_seconds),
            'epoch_median': statistics.median(epoch_seconds),
        },
        **environment(),
    }


def _seed_results(task: Task, results: dict, k: int) -> dict:
    """Results of the k-th seed."""
    found = {'seed': task.config.seed + k}
    for part, examples in (('train', task.train_examples), ('test', task.test_examples)):
        correct = int(results[part]['correct'][k])
        found[f'{part}_accuracy'] = correct / examples
        found[f'{part}_correct'] = correct
        found[f'{part}_loss'] = float(results[part]['loss'][k])
    return found
