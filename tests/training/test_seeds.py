"""Seeds as an axis: seed k of many is seed k alone."""

import json

import jax
import numpy as np
import pytest

from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.parallel import mesh
from mixer_dilated.random_keys import seed_keys
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import small_config

# Plain AdamW makes steps of the rounding of gradients that are zero (see test_devices.py).
RANDOM = {
    'optimizer.name': 'sgd',
    'optimizer.base_lr': 0.1,
    'model.dropout_rate': 0.1,
    'augment.translate': 1,
    'augment.mixup': 0.2,
    'augment.min_crop_area': 0.5,
    'augment.flip': True,
    'augment.cutmix': 1.0,
}


def parameters(**changes):
    """Parameters and metrics after an epoch: every leaf (seeds, …)."""
    programs = CompiledFunctions(create_setup(small_config(**RANDOM, **changes)))
    from mixer_dilated.data.datasets import Digits

    train = programs.in_memory(Digits().read('train[:300]'))
    state = programs.init_state()
    state, metrics = programs.train_epoch(state, train)
    return jax.device_get((state.params, metrics, programs.evaluate(state, train)))


@pytest.fixture(scope='module')
def many():
    """`parameters` of seeds 5 and 6 in one program, in turn."""
    return parameters(seed=5, num_seeds=2)


def test_seed_k_of_many_equals_seed_k_alone(many):
    for k in range(2):
        alone = parameters(seed=5 + k)
        jax.tree.map(
            lambda of_many, of_one, k=k: np.testing.assert_allclose(
                of_many[k], of_one[0], rtol=1e-5, atol=1e-6
            ),
            many,
            alone,
        )
    kernels = many[0]['stem']['kernel']
    assert not np.array_equal(kernels[0], kernels[1])


def test_keys_of_seeds_are_those_of_jax():
    for k, key in enumerate(seed_keys(2**31 - 2, 3)):
        assert np.array_equal(jax.random.key_data(key), [0, 2**31 - 2 + k])


def test_an_epoch_of_seeds_at_once_is_that_of_seeds_in_turn(many, monkeypatch):
    monkeypatch.setattr(mesh, 'on_cpu', lambda mesh: False)
    jax.tree.map(
        lambda at_once, expected: np.testing.assert_allclose(
            at_once, expected, rtol=1e-4, atol=1e-5
        ),
        parameters(seed=5, num_seeds=2),
        many,
    )


def test_one_seed_of_an_accelerator_has_its_numbers_without_vmap(many, monkeypatch):
    monkeypatch.setattr(mesh, 'on_cpu', lambda mesh: False)
    jax.tree.map(
        lambda alone, expected: np.testing.assert_allclose(
            alone, expected[:1], rtol=1e-4, atol=1e-5
        ),
        parameters(seed=5, num_seeds=1),
        many,
    )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A finished run of two seeds: its folder and summary."""
    workdir = tmp_path_factory.mktemp('seeds') / 'run'
    config = small_config(seed=3, num_seeds=2, num_epochs=2)
    return workdir, train_and_evaluate(config, workdir)


def test_a_run_of_several_seeds_reports_each_and_their_mean(run):
    workdir, summary = run
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert [(row['epoch'], row['seed']) for row in rows] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    accuracies = [each['test_correct'] / 100 for each in summary['results']]
    assert [row['test_accuracy'] for row in rows[2:]] == accuracies
    assert summary['test_accuracy'] == pytest.approx(np.mean(accuracies))
    found = evaluate_checkpoint(workdir)['results']
    assert [each['accuracy'] for each in found] == accuracies


def test_predictions_are_those_that_the_summary_counts(run):
    workdir, summary = run
    with np.load(workdir / 'predictions.npz', allow_pickle=False) as arrays:
        found = dict(arrays)
    chosen = found['probabilities'].argmax(-1)
    assert found['probabilities'].shape == (2, 100, 10)
    np.testing.assert_allclose(found['probabilities'].sum(-1), 1, atol=1e-5)
    for k, each in enumerate(summary['results']):
        assert (chosen[k] == found['labels']).sum() == each['test_correct']
    shown = found['shown_index']
    confidence = found['probabilities'][0, shown].max(-1)
    assert (chosen[0, shown] != found['labels'][shown]).all()
    assert (np.diff(confidence.astype(float)) <= 0).all()
    from mixer_dilated.data.datasets import Digits

    test = Digits().read('test[:100]')
    assert np.array_equal(found['shown_images'], test.images[shown])
    for label in range(10):
        assert np.array_equal(
            found['class_images'][label], test.images[list(test.labels).index(label)]
        )


def test_weights_to_draw_are_the_first_seeds(run):
    workdir, _ = run
    with np.load(workdir / 'weights.npz', allow_pickle=False) as arrays:
        shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {
        'stem/kernel': (2, 2, 1, 8),
        'MixerBlock_0/token_mixing/Dense_0/kernel': (9, 8),
        'MixerBlock_0/token_mixing/Dense_1/kernel': (8, 9),
    }
