"""Seeds as an axis: seed k of many is seed k alone."""

import functools

import chex
import jax
import numpy as np
import pytest

from mixer_dilated.data.datasets import Digits
from mixer_dilated.files import read_arrays
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.parallel import mesh
from mixer_dilated.random_keys import seed_keys
from tests.conftest import small_config
from tests.training.runs import after_an_epoch, rows_of

# Plain AdamW makes steps of the rounding of gradients that are zero (see parallel/mesh_runs.py).
RANDOM = {
    'optimizer.name': 'sgd',
    'optimizer.base_lr': 0.1,
    'model.dropout_rate': 0.1,
    'augment.translate': 1,
    'augment.mixup': 0.2,
    'augment.flip': True,
}


@functools.cache
def train_on(platform='cpu', **changes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, 'on_cpu', lambda mesh: platform == 'cpu')
        return after_an_epoch(small_config(**RANDOM, **changes))


def test_seed_k_of_many_equals_seed_k_alone():
    many, alone = train_on(seed=5, num_seeds=2), train_on(seed=6)
    second = jax.tree.map(lambda leaf: leaf[1:], many)
    chex.assert_trees_all_close(second, alone, rtol=1e-5, atol=1e-6)
    kernels = many[0]['stem']['kernel']
    assert not np.array_equal(kernels[0], kernels[1])


@pytest.mark.slow
@pytest.mark.parametrize('num_seeds', [2, 1])
def test_seeds_at_once_on_an_accelerator_have_the_numbers_of_seeds_in_turn(num_seeds):
    """One seed is computed without `vmap`."""
    at_once = train_on('gpu', seed=5, num_seeds=num_seeds)
    expected = jax.tree.map(lambda leaf: leaf[:num_seeds], train_on(seed=5, num_seeds=2))
    chex.assert_trees_all_close(at_once, expected, rtol=1e-4, atol=1e-5)


def test_keys_of_seeds_are_those_of_jax():
    for k, key in enumerate(seed_keys(2**31 - 2, 3)):
        assert np.array_equal(jax.random.key_data(key), [0, 2**31 - 2 + k])


def test_a_run_of_several_seeds_reports_each_and_their_mean(run_of_seeds):
    _, workdir, summary = run_of_seeds
    rows = rows_of(workdir)
    assert [(row['epoch'], row['seed']) for row in rows] == [
        (epoch, seed) for epoch in (1, 2, 3) for seed in (3, 4)
    ]
    accuracies = [result['test_correct'] / 100 for result in summary['results']]
    assert [row['test_accuracy'] for row in rows[-2:]] == accuracies
    assert summary['test_accuracy'] == pytest.approx(np.mean(accuracies))
    results = evaluate_checkpoint(workdir)['results']
    assert [result['accuracy'] for result in results] == accuracies


def test_predictions_are_those_that_the_summary_counts(run_of_seeds):
    _, workdir, summary = run_of_seeds
    predictions = read_arrays(workdir / 'predictions.npz')
    probabilities, labels = predictions['probabilities'], predictions['labels']
    chosen = probabilities.argmax(-1)
    assert probabilities.shape == (2, 100, 10)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    for k, result in enumerate(summary['results']):
        assert (chosen[k] == labels).sum() == result['test_correct']
    shown = predictions['shown_index']
    confidence = probabilities[0, shown].max(-1)
    assert (chosen[0, shown] != labels[shown]).all()
    assert (np.diff(confidence.astype(float)) <= 0).all()
    test = Digits().read('test[:100]')
    np.testing.assert_array_equal(predictions['shown_images'], test.images[shown])
    first = [list(test.labels).index(label) for label in range(10)]
    np.testing.assert_array_equal(predictions['class_images'], test.images[first])


def test_weights_to_draw_are_the_first_seeds(run_of_seeds):
    arrays = read_arrays(run_of_seeds[1] / 'weights.npz')
    assert {name: array.shape for name, array in arrays.items()} == {
        'stem/kernel': (2, 2, 1, 8),
        'MixerBlock_0/token_mixing/Dense_0/kernel': (9, 8),
        'MixerBlock_0/token_mixing/Dense_1/kernel': (8, 9),
    }
