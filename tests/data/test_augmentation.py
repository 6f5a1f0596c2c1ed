"""Augmentation: what it does to images and labels, what it follows, what evaluation makes of it."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from mixer_dilated.config import num_phases
from mixer_dilated.data.augmentation import (
    Augmentation,
    MixupCutmix,
    augmentation_from_config,
    draw_mixup,
    random_flip,
    random_phase,
    random_translate,
    shift_phase,
)
from mixer_dilated.data.randaugment import MICROBATCH, map_microbatches
from mixer_dilated.random_keys import purpose_key
from mixer_dilated.training.state import create_model
from mixer_dilated.training.step import (
    class_log_probs,
    eval_step,
    normalise,
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
            shown = shift_phase(images, jnp.array([up, left]), (3, 2))
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


def test_random_translate_of_nothing_is_nothing():
    images = random_bytes((2, 4, 4, 1))
    np.testing.assert_array_equal(random_translate(jax.random.key(0), images, 0), images)


def test_random_flip_mirrors_half_of_the_images():
    image = random_bytes((1, 3, 5, 2))
    images = np.repeat(image, 2000, axis=0)
    shown = np.asarray(jax.jit(random_flip)(jax.random.key(0), images))
    flipped = (shown == image[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (flipped | (shown == image).all(axis=(1, 2, 3))).all()
    assert abs(flipped.sum() - 1000) < 5 * np.sqrt(2000 / 4)  # 5 standard deviations


def small_state(**changes):
    """A state of a small network whose leaves are random: a head of zeros would hide the rest."""
    model = create_model(small_config(**changes), num_classes=10)
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
        ({'model.dropout_rate': 0.5}, {}),
        ({'model.stoch_depth': 0.5, 'model.num_blocks': 2}, {}),
        ({}, {'translate': 1}),
    ],
    ids=['dropout', 'stochastic depth', 'translate'],
)
def test_each_random_purpose_follows_seed_and_step(changes, settings):
    state, seed_key = small_state(**changes), jax.random.key(0)
    step = jax.jit(functools.partial(train_step, augmentation=Augmentation(**settings)))
    loss = [
        float(step(state.replace(step=at), IMAGES, LABELS, key)[1]['loss'])
        for at, key in ((0, seed_key), (0, seed_key), (1, seed_key), (0, jax.random.key(9)))
    ]
    assert loss[0] == loss[1] and len(set(loss)) == 3


def test_mixup_trains_on_mixed_images_and_labels_and_counts_by_the_unmixed():
    state, seed_key = small_state(), jax.random.key(0)
    augmentation = Augmentation(mixup=1.0, label_smoothing=0.1)
    step = jax.jit(functools.partial(train_step, augmentation=augmentation))
    _, metrics = step(state, IMAGES, LABELS, seed_key)
    share = float(draw_mixup(purpose_key(seed_key, 'mixup', 0), 1.0).target_weight)
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
    classify = jax.jit(functools.partial(class_log_probs, num_phases=(2, 3)))
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


@pytest.mark.parametrize('num_phases', [(1, 1), (2, 2)])
def test_evaluation_sums_over_the_counted_examples_alone(num_phases):
    state = small_state()
    found = np.asarray(class_log_probs(state, IMAGES, num_phases=num_phases))
    counted = np.arange(16) < 11
    sums, log_probs = eval_step(state, IMAGES, LABELS, counted, num_phases=num_phases)
    np.testing.assert_array_equal(log_probs, found)
    np.testing.assert_allclose(sums['loss'], -found[np.arange(11), LABELS[:11]].sum(), rtol=1e-5)
    assert sums['correct'] == (found.argmax(axis=1) == LABELS)[:11].sum()


def test_without_random_phase_probabilities_are_the_softmax_of_the_logits():
    state = small_state()
    logits = state.apply_fn({'params': state.params}, normalise(jnp.asarray(IMAGES)), train=False)
    chex.assert_trees_all_close(
        class_log_probs(state, IMAGES), jax.nn.log_softmax(logits), atol=1e-6
    )


def test_what_the_steps_do_is_what_the_config_says():
    plain = small_config()
    assert num_phases(plain) == (1, 1)
    assert augmentation_from_config(plain) == Augmentation()
    config = small_config(
        **{
            'label_smoothing': 0.1,
            'augment.min_crop_area': 0.3,
            'augment.flip': True,
            'augment.translate': 1,
            'augment.randaugment.num_layers': 2,
            'augment.randaugment.magnitude': 15,
            'augment.randaugment.fill': 128,
            'augment.mixup': 0.2,
            'augment.cutmix': 1,
            'augment.random_phase': True,
            'model.patches.dilation': (2, 3),
        }
    )
    assert num_phases(config) == (2, 3)
    assert augmentation_from_config(config) == WHOLE


WHOLE = Augmentation(
    label_smoothing=0.1,
    min_crop_area=0.3,
    flip=True,
    translate=1,
    num_layers=2,
    magnitude=15.0,
    fill=128,
    mixup=0.2,
    cutmix=1.0,
    num_phases=(2, 3),
)


def test_each_change_alone_is_a_part_of_the_whole():
    alone = WHOLE.separate_changes()
    assert list(alone) == [
        'min_crop_area', 'flip', 'translate', 'randaugment', 'random_phase', 'mixup', 'cutmix',
    ]  # fmt: skip
    assert alone['randaugment'] == Augmentation(num_layers=2, magnitude=15.0, fill=128)
    assert alone['random_phase'] == Augmentation(num_phases=(2, 3))
    assert Augmentation(label_smoothing=0.1).separate_changes() == {}


def test_without_augmentation_a_batch_stays_what_it_is():
    seed_key, nothing = jax.random.key(0), Augmentation()
    assert nothing.apply(seed_key, 0, IMAGES) is IMAGES
    assert nothing.draw_mixing(seed_key, 0, (8, 8)) == MixupCutmix()
    assert nothing.draw_mixing(seed_key, 0, (8, 8)).mix_images(IMAGES) is IMAGES


def test_the_phase_is_the_last_of_the_moves():
    """What moves in for a phase is neither upsample nor filled anew."""
    images = np.full((200, 8, 8, 1), 255, np.uint8)
    augmentation = Augmentation(min_crop_area=0.3, flip=True, translate=1, num_phases=(3, 1))
    shown = np.asarray(jax.jit(augmentation.apply)(jax.random.key(0), 0, images))
    below = 8 - np.array([np.flatnonzero(image.any(axis=(1, 2))).max() + 1 for image in shown])
    assert set(below) == {0, 1, 2, 3}  # a shift of one at most, a phase of two at most
    assert set(np.unique(shown)) == {0, 255}  # an upsample edge would have values in between


def test_seeds_at_once_are_augmented_as_each_alone():
    seed_keys = jax.random.split(jax.random.key(0), 2)
    # RandAugment and mixing have tests of their own.
    augmentation = dataclasses.replace(WHOLE, num_layers=0)

    def shown(seed_key, step):
        return augmentation.apply(seed_key, step, IMAGES).astype(int)

    at_once, alone = jax.jit(jax.vmap(shown, (0, None)))(seed_keys, 3), jax.jit(shown)
    for found, seed_key in zip(at_once, seed_keys, strict=True):
        # A value may be rounded up in one program and down in the other.
        np.testing.assert_allclose(found, alone(seed_key, 3), atol=1)
    assert not np.array_equal(*at_once)
    assert not np.array_equal(at_once[0], alone(seed_keys[0], 4))


def test_every_change_has_a_key_of_its_own_from_seed_and_step(monkeypatch):
    keys = []

    def noted(seed_key, purpose, index):
        keys.append((seed_key, purpose, index))
        return purpose_key(seed_key, purpose, index)

    monkeypatch.setattr('mixer_dilated.data.augmentation.purpose_key', noted)
    seed_key = jax.random.key(0)
    jax.eval_shape(
        lambda: (WHOLE.apply(seed_key, 5, IMAGES), WHOLE.draw_mixing(seed_key, 5, (8, 8)))[0]
    )
    purposes = ['crop', 'flip', 'shift', 'randaugment', 'phase', 'mixup', 'cutmix', 'mixing']
    assert keys == [(seed_key, purpose, 5) for purpose in purposes]


@pytest.mark.parametrize(
    ('count', 'piece'),
    [
        (MICROBATCH, MICROBATCH),
        (3 * MICROBATCH, MICROBATCH),
        (2 * MICROBATCH + 4, 12),
        (37, 1),
        (0, 0),
    ],
)
def test_a_batch_in_pieces_is_what_it_is_at_once(count, piece):
    sizes = []

    def function(images, numbers):
        sizes.append(len(images))
        return images + numbers[:, None, None]

    images, numbers = random_bytes((count, 2, 3)), jnp.arange(count, dtype=jnp.uint8)
    found = jax.jit(functools.partial(map_microbatches, function))(images, numbers)
    np.testing.assert_array_equal(found, images + numbers[:, None, None])
    assert {*sizes} == {piece}
