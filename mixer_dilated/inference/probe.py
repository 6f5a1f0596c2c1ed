"""Linear probe: the accuracy of a linear classifier on frozen features."""

import contextlib

import jax
import ml_collections
import numpy as np
from jaxtyping import Float, Int

from mixer_dilated.config import num_phases
from mixer_dilated.data.datasets import load_examples
from mixer_dilated.data.examples import (
    InMemoryDataSource,
    RandomAccessDataSource,
    check_disjoint,
    count_examples,
    split_slices,
)
from mixer_dilated.data.input_pipeline import streams
from mixer_dilated.data.stored_images import to_input
from mixer_dilated.errors import UserError
from mixer_dilated.paths import exists
from mixer_dilated.pretrained.weights_path import weights_path
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
    if config.transfer.stem == 'new':
        raise UserError(
            "config.transfer.stem = 'new': a probe is of the stem of the weights too; allowed is "
            "'sample' or 'resize'"
        )
    setup = create_setup(config)
    used, sizes = _used_splits(config), setup.dataset.split_sizes
    try:
        check_disjoint('--split', validation, used, sizes)
    except UserError as error:
        example = _example_splits(used, sizes)
        raise UserError(f'{error}; for example {example}' if example else str(error)) from None
    initial = load_initial_params(setup.changed({'num_seeds': 1}))
    params = jax.tree.map(lambda leaf: leaf[0], initial.params)
    (train, train_labels), (valid, valid_labels), (test, test_labels) = (
        compute_features(setup, params, _open_data_source(setup, split))
        for split in (config.dataset.train_split, validation, config.dataset.test_split)
    )
    classifiers = fit_ridge(train, train_labels)
    accuracies = {s: float(ridge.score(valid, valid_labels)) for s, ridge in classifiers.items()}
    best = max(accuracies, key=accuracies.get)
    correct = int(np.sum(classifiers[best].predict(test) == test_labels))
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
    if streams(config.input, dataset, count_examples('split', split, dataset.split_sizes)):
        return dataset.data_source(split)
    return InMemoryDataSource(load_examples(dataset, split, config.dataset.cache_dir))


def _example_splits(used: dict[str, str], sizes: dict[str, int]) -> str:
    """Flags of splits that share no examples: free ones, else a fifth of a used one; or ''."""
    free, divided = [({}, name) for name in sizes], []
    for key in ('config.dataset.train_split', 'config.dataset.test_split'):
        (name, start, stop), *_ = split_slices(key, used[key], sizes)
        middle = stop - max((stop - start) // 5, 1)
        free.append(({}, f'{name}[{stop}:]'))
        if start < middle:
            divided.append(({key: f'{name}[{start}:{middle}]'}, f'{name}[{middle}:{stop}]'))
    for changes, split in (*free, *divided):
        with contextlib.suppress(UserError):
            check_disjoint('--split', split, used | changes, sizes)
            flags = {**{f'--{key}': value for key, value in changes.items()}, '--split': split}
            return ' '.join(f'{flag}="{value}"' for flag, value in flags.items())
    return ''


def _used_splits(config: ml_collections.ConfigDict) -> dict[str, str]:
    """{key: split} of examples that the validation examples must not share, in training or test."""
    splits = {f'config.dataset.{key}': config.dataset[key] for key in ('train_split', 'test_split')}
    run = weights_path(config.init_from)
    if exists(run / 'checkpoints'):
        dataset = read_config(run).dataset
        if dataset.name == config.dataset.name:
            splits[f'dataset.train_split of {run}'] = dataset.train_split
    return splits


def compute_features(
    setup: Setup, params: dict, data_source: RandomAccessDataSource
) -> tuple[Float[np.ndarray, 'examples channels'], Int[np.ndarray, ' examples']]:
    """The inputs of the head for every example, and the labels; `params` are of one seed."""
    config = setup.config
    network = create_model(config, 0, jax.default_backend())  # without a head

    @jax.jit
    def mean_pre_logits(params, images):
        def pre_logits(images):
            return network.apply({'params': params}, normalise(images), train=False)

        images = to_input(images, setup.image_size)
        return at_every_phase(pre_logits, images, num_phases(config)).mean(0)

    count = len(data_source)
    size = min(config.batch_eval, count)
    features, labels = [], []
    for start in range(0, count, size):
        # The last example fills the last batch, so that all have one shape.
        examples = data_source.read(np.arange(start, start + size).clip(max=count - 1))
        features.append(np.asarray(mean_pre_logits(params, examples.images)))
        labels.append(examples.labels)
    return np.concatenate(features)[:count], np.concatenate(labels)[:count]


def fit_ridge(
    features: Float[np.ndarray, 'examples channels'], labels: Int[np.ndarray, ' examples']
) -> dict:
    """Fits a `sklearn.linear_model.RidgeClassifier` for each of `STRENGTHS` (see `linear_probe`).

    Raises:
      UserError: all examples have the same features.
    """
    from sklearn.linear_model import RidgeClassifier

    features = features.astype(np.float64)
    variance = np.mean(np.var(features, axis=0))
    if not variance > 0:
        raise UserError(
            'the features of all training examples are alike (or no numbers); these weights tell '
            'no classes apart'
        )
    scale = variance * len(features)
    return {s: RidgeClassifier(alpha=s * scale).fit(features, labels) for s in STRENGTHS}
