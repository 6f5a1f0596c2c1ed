"""Augmentation: what it does to images and labels, what it follows, what evaluation makes of it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from mixer_dilated.data.augmentation import at_phase, draw_mixup, random_phase, random_shift
from mixer_dilated.models.mixer import mixer_from_config
from mixer_dilated.training.randomness import purpose_key
from mixer_dilated.training.step import (
    class_log_probabilities,
    eval_settings,
    eval_step,
    normalise,
    step_settings,
    train_step,
)
from tests.conftest import small_config


def random_bytes(shape, seed=0):
    return np.random.default_rng(seed).integers(1, 256, shape, dtype=np.uint8)


def moved_up_left(images, up, left):
    """By the definition: rows and columns leave at the top and left, zeros follow."""
    moved = np.zeros_like(images)
    height, width = images.shape[1:3]
    moved[:, : height - up, : width - left] = images[:, up:, left:]
    return moved


def test_each_phase_moves_the_images_up_and_left():
    images = random_bytes((3, 5, 4, 2))
    for up in range(3):
        for left in range(2):
            shown = at_phase(images, jnp.array([up, left]), (3, 2))
            assert shown.dtype == np.uint8
            np.testing.assert_array_equal(shown, moved_up_left(images, up, left))


def test_random_phase_shows_every_phase_equally_often():
    image = random_bytes((1, 5, 4, 1))
    images = np.repeat(image, 600, axis=0)
    shown = np.asarray(jax.jit(random_phase, static_argnums=2)(jax.random.key(0), images, (3, 2)))
    phases = [(up, left) for up in range(3) for left in range(2)]
    candidates = np.stack([moved_up_left(image, *phase)[0] for phase in phases])
    matches = (shown[:, None] == candidates).all(axis=(2, 3, 4))
    np.testing.assert_array_equal(matches.sum(axis=1), 1)
    counts = matches.sum(axis=0)
    assert counts.min() > 70 and counts.max() < 130  # 100 each, 9 standard deviations of slack


def test_random_shift_of_nothing_is_nothing():
    images = random_bytes((2, 4, 4, 1))
    np.testing.assert_array_equal(random_shift(jax.random.key(0), images, 0), images)


@pytest.mark.parametrize('alpha', [0.001, 0.2, 1.0, 1000.0])
def test_mixup_mixes_each_example_with_its_neighbour_by_one_share(alpha):
    mixed = draw_mixup(jax.random.key(3), alpha)
    share = float(mixed(jnp.array([1.0, 0.0]))[0])
    assert 0.5 <= share <= 1
    images = np.random.default_rng(0).normal(size=(5, 3, 2, 1)).astype(np.float32)
    for array in (images, np.eye(5, 7, dtype=np.float32)):
        expected = np.stack([share * array[i] + (1 - share) * array[i - 1] for i in range(5)])
        np.testing.assert_allclose(mixed(array), expected, atol=1e-6)


def test_shares_of_mixup_are_the_larger_of_a_beta_draw_and_its_rest():
    def share(key):
        return draw_mixup(key, 0.4)(jnp.array([1.0, 0.0]))[0]

    found = np.sort(jax.vmap(share)(jax.random.split(jax.random.key(0), 2000)))
    drawn = np.random.default_rng(0).beta(0.4, 0.4, 200_000)
    expected = np.quantile(np.maximum(drawn, 1 - drawn), (np.arange(2000) + 0.5) / 2000)
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_mixup_of_0_hands_back_what_it_is_given():
    array = np.ones(3)
    assert draw_mixup(jax.random.key(0), 0.0)(array) is array


def small_state(**changes):
    """A state of a small network whose leaves are random: a head of zeros would hide the rest."""
    model = mixer_from_config(small_config(**changes).model, num_classes=10)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)['params']
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = jax.tree.unflatten(
        tree,
        [0.5 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)],
    )
    return TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(0.1))


IMAGES = random_bytes((16, 8, 8, 1))
LABELS = np.arange(16, dtype=np.int32) % 10


@pytest.mark.parametrize(
    ('changes', 'settings'),
    [
        ({}, {'mixup': 1.0}),
        ({}, {'phase_range': (2, 2)}),
        ({'model.stoch_depth': 0.5, 'model.num_blocks': 2}, {}),
    ],
    ids=['mixup', 'random phase', 'stochastic depth'],
)
def test_each_random_purpose_follows_seed_and_step(changes, settings):
    state, seed_key = small_state(**changes), jax.random.key(0)
    step = jax.jit(functools.partial(train_step, **settings))
    loss = [
        float(step(state.replace(step=at), IMAGES, LABELS, key)[1]['loss'])
        for at, key in ((0, seed_key), (0, seed_key), (1, seed_key), (0, jax.random.key(9)))
    ]
    assert loss[0] == loss[1] and len(set(loss)) == 3


def test_mixup_trains_on_mixed_images_and_labels_and_counts_by_the_unmixed():
    state, seed_key = small_state(), jax.random.key(0)
    step = functools.partial(train_step, mixup=1.0, label_smoothing=0.1)
    _, metrics = step(state, IMAGES, LABELS, seed_key)
    share = float(draw_mixup(purpose_key(seed_key, 'mixup', 0), 1.0)(jnp.array([1.0, 0.0]))[0])
    assert 0.5 < share < 0.99

    def mixed(array):
        return share * array + (1 - share) * np.roll(array, 1, axis=0)

    images, targets = mixed(IMAGES / 127.5 - 1.0), 0.9 * mixed(np.eye(10)[LABELS]) + 0.01
    logits = np.asarray(state.apply_fn({'params': state.params}, images, train=False))
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(targets * log_probabilities).sum(axis=1).mean()
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)
    assert metrics['correct'] == (logits.argmax(axis=1) == LABELS).sum()


def test_probabilities_are_means_over_all_phases():
    state = small_state()
    classify = jax.jit(functools.partial(class_log_probabilities, phase_range=(2, 3)))
    found = classify(state, IMAGES)
    chex.assert_shape(found, (16, 10))
    chex.assert_type(found, jnp.float32)
    probabilities = []
    for up in range(2):
        for left in range(3):
            shown = moved_up_left(IMAGES, up, left) / 127.5 - 1.0
            logits = np.asarray(state.apply_fn({'params': state.params}, shown, train=False))
            exponents = np.exp(logits.astype(np.float64))
            probabilities.append(exponents / exponents.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.exp(found), np.mean(probabilities, axis=0), atol=1e-6)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize('phase_range', [(1, 1), (2, 2)])
def test_evaluation_sums_over_the_counted_examples_alone(phase_range):
    state = small_state()
    found = np.asarray(class_log_probabilities(state, IMAGES, phase_range=phase_range))
    counted = np.arange(16) < 11
    sums = eval_step(state, IMAGES, LABELS, counted, phase_range=phase_range)
    np.testing.assert_allclose(sums['loss'], -found[np.arange(11), LABELS[:11]].sum(), rtol=1e-5)
    assert sums['correct'] == (found.argmax(axis=1) == LABELS)[:11].sum()


def test_without_random_phase_probabilities_are_the_softmax_of_the_logits():
    state = small_state()
    logits = state.apply_fn({'params': state.params}, normalise(jnp.asarray(IMAGES)), train=False)
    chex.assert_trees_all_close(
        class_log_probabilities(state, IMAGES), jax.nn.log_softmax(logits), atol=1e-6
    )


def test_settings_of_the_steps_are_those_of_the_config():
    plain = small_config()
    assert eval_settings(plain) == {'phase_range': (1, 1)}
    config = small_config(
        **{
            'label_smoothing': 0.1,
            'augment.shift': 1,
            'augment.mixup': 0.2,
            'augment.random_phase': True,
            'model.patches.dilation': (2, 3),
        }
    )
    assert eval_settings(config) == {'phase_range': (2, 3)}
    assert step_settings(config) == {
        'label_smoothing': 0.1,
        'max_shift': 1,
        'mixup': 0.2,
        'phase_range': (2, 3),
    }
