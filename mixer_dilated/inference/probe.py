"""Linear probe: how well a linear classifier tells the classes by frozen features."""

import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Float, Int

from mixer_dilated.config import num_phases
from mixer_dilated.data.datasets import load_examples
from mixer_dilated.data.examples import (
    InMemoryDataSource,
    RandomAccessDataSource,
    check_disjoint,
    num_examples,
)
from mixer_dilated.data.input_pipeline import streams
from mixer_dilated.data.preprocessing import upsample
from mixer_dilated.errors import UserError
from mixer_dilated.training.run_folder import read_config
from mixer_dilated.training.setup import Setup, create_setup
from mixer_dilated.training.state import create_model, load_initial_params
from mixer_dilated.training.step import at_every_phase, normalise

STRENGTHS = tuple(10.0**power for power in range(-6, 3))


def linear_probe(config: ml_collections.ConfigDict, validation: str) -> dict:
    """Fits ridge regression of one-hot labels to the features before the head.

        W = (XᵀX / n + λ I)⁻¹ XᵀY / n

    with X the features and Y the labels of n training examples, both centred. λ, in units of the
    features' mean variance, is the one of `STRENGTHS` with the highest accuracy on the validation
    examples; the test examples are looked at once, with it. With `augment.random_phase` features
    are means over all phases. Of a run of several seeds the first is probed.

    Args:
      config: a resolved config with `init_from`.
      validation: split in TFDS syntax, none of whose examples is trained or tested on.

    Returns:
      'validation' ({strength: accuracy}), 'strength', 'test_accuracy', 'test_correct',
      'test_examples' and 'adapted' as of `InitialParams`.

    Raises:
      UserError: no `init_from`, or weights or splits that cannot be used.
    """
    if not config.init_from:
        raise UserError(
            "config.init_from = '': a probe is of weights; for example "
            '--config.init_from=Mixer-B_16.npz'
        )
    setup = create_setup(config)
    check_disjoint('--split', validation, _splits_of_others(config), setup.dataset.split_sizes)
    initial = load_initial_params(setup.changed({'num_seeds': 1}))
    params = jax.tree.map(lambda leaf: leaf[0], initial.params)
    (train, train_labels), (chosen_on, labels), (test, test_labels) = (
        features(setup, params, _open_data_source(setup, split))
        for split in (config.dataset.train_split, validation, config.dataset.test_split)
    )
    fits = ridge(train, train_labels, setup.dataset.num_classes, STRENGTHS)
    accuracies = {
        strength: float(np.mean(classify(chosen_on) == labels))
        for strength, classify in fits.items()
    }
    best = max(accuracies, key=accuracies.get)
    correct = int(np.sum(fits[best](test) == test_labels))
    return {
        'validation': accuracies,
        'strength': best,
        'test_correct': correct,
        'test_examples': len(test_labels),
        'test_accuracy': correct / len(test_labels),
        'adapted': initial.adapted,
    }


def _open_data_source(setup: Setup, split: str) -> RandomAccessDataSource:
    config, dataset = setup.config, setup.dataset
    if streams(config.input, dataset, num_examples('split', split, dataset.split_sizes)):
        return dataset.data_source(split)
    return InMemoryDataSource(load_examples(dataset, split, config.dataset.cache_dir))


def _splits_of_others(config: ml_collections.ConfigDict) -> dict[str, str]:
    """What no strength may be chosen on, by the key that says it."""
    splits = {f'config.dataset.{key}': config.dataset[key] for key in ('train_split', 'test_split')}
    run = pathlib.Path(config.init_from).expanduser()
    if (run / 'config.json').is_file():
        dataset = read_config(run).dataset
        if dataset.name == config.dataset.name:
            splits[f'dataset.train_split of {run}'] = dataset.train_split
    return splits


def features(
    setup: Setup, params: dict, data_source: RandomAccessDataSource
) -> tuple[Float[np.ndarray, 'examples channels'], Int[np.ndarray, ' examples']]:
    """The inputs of the head for every example, and its label.

    Args:
      setup: whose network and data.
      params: of one seed; a head is not needed.
      data_source: the examples.
    """
    config, num_classes = setup.config, setup.dataset.num_classes
    network = create_model(config, num_classes, jax.default_backend())
    head = {
        'kernel': jnp.zeros((config.model.hidden_dim, num_classes)),
        'bias': jnp.zeros(num_classes),
    }

    def at(images, params):
        _, intermediates = network.apply(
            {'params': {'head': head, **params}},
            normalise(images),
            train=False,
            return_intermediates=True,
        )
        return intermediates['pre_logits']

    @jax.jit
    def of_batch(params, images):
        images = upsample(images, setup.image_size)
        return at_every_phase(
            functools.partial(at, params=params), images, num_phases(config)
        ).mean(0)

    size = min(config.batch_eval, len(data_source))
    batches, labels = [], []
    for start in range(0, len(data_source), size):
        rows = np.arange(start, start + size).clip(max=len(data_source) - 1)
        examples = data_source.read(rows)
        batches.append(np.asarray(of_batch(params, examples.images)))
        labels.append(examples.labels)
    count = len(data_source)
    return np.concatenate(batches)[:count], np.concatenate(labels)[:count]


def ridge(
    features: Float[np.ndarray, 'examples channels'],
    labels: Int[np.ndarray, ' examples'],
    num_classes: int,
    strengths: Sequence[float],
) -> dict[float, Callable]:
    """Classifiers, features to labels, by ridge regression in float64 (see `linear_probe`).

    Args:
      features: (n, C).
      labels: (n,).
      num_classes: of the data.
      strengths: λ; of each there is one.

    Raises:
      UserError: features that are alike for all examples.
    """
    x, y = features.astype(np.float64), np.eye(num_classes)[labels]
    mean, prior = x.mean(axis=0), y.mean(axis=0)
    x, y = x - mean, y - prior
    scale = np.mean(x * x)
    if not scale > 0:
        raise UserError(
            'the features of all training examples are alike (or no numbers); these weights tell '
            'no classes apart'
        )
    # XᵀX / n = V D Vᵀ, of which every strength has its inverse.
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    products = vectors.T @ (x.T @ y / len(x))
    return {
        strength: functools.partial(
            _nearest,
            mean=mean,
            prior=prior,
            weights=vectors @ (products / (values + strength * scale)[:, None]),
        )
        for strength in strengths
    }


def _nearest(features, *, mean, prior, weights):
    return np.argmax((features - mean) @ weights + prior, axis=1)
