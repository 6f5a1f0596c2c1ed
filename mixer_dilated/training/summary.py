"""The result of a finished run: the content of `summary.json`."""

import importlib.metadata
import platform
import statistics

import jax

import mixer_dilated
from mixer_dilated.models.costs import flops_per_image, layers, num_params
from mixer_dilated.models.mixer import mixer_from_config
from mixer_dilated.training.task import Task

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def run_summary(task: Task, name: str, history: list[dict], results: dict, seconds: dict) -> dict:
    """Facts of a finished run.

    Args:
      task: what was trained.
      name: what the run is called.
      history: the rows of `metrics.jsonl`.
      results: `epoch.evaluate` of the final parameters on 'train' and 'test', on the host.
      seconds: 'startup' and 'compile' of the process that finished the run.
    """
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
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        'device': {
            'platform': jax.default_backend(),
            'kind': jax.devices()[0].device_kind,
            'count': jax.device_count(),
        },
    }
