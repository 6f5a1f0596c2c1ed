"""Augmentation: what it does to images and labels, how often, and which keys it follows."""

import dataclasses
import functools

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
    draw_cutmix,
    draw_mixup,
    random_flip,
    random_phase,
    random_translate,
)
from mixer_dilated.random_keys import purpose_key
from mixer_dilated.training.state import create_model
from mixer_dilated.training.step import train_step
from tests.conftest import random_bytes, small_config
from tests.models.test_mixer import random_variables

KEY = jax.random.key(0)
IMAGES = random_bytes((16, 8, 8, 1), low=1)
LABELS = np.arange(16, dtype=np.int32) % 10


def check_distribution(values, expected, atol=0.04):
    """Quantiles of what was drawn, along the first axis, against those of NumPy's draws."""
    at = (np.arange(len(values)) + 0.5) / len(values)
    np.testing.assert_allclose(np.sort(values, axis=0), np.quantile(expected, at), atol=atol)


def move(image, up, left):
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return padded[:, 2 + up : 7 + up, 2 + left : 6 + left]


MOVES = [(up, left) for up in (-1, 0, 1) for left in (-1, 0, 1)]


@pytest.mark.parametrize(
    ('augment', 'argument', 'outcomes'),
    [
        (random_phase, ((3, 2),), lambda image: [move(image, *at) for at in np.ndindex(3, 2)]),
        (random_flip, (), lambda image: [image, image[:, :, ::-1]]),
        (random_translate, (1,), lambda image: [move(image, *at) for at in MOVES]),
    ],
)
def test_every_outcome_is_drawn_equally_often(augment, argument, outcomes):
    image, count = random_bytes((1, 5, 4, 1), low=1), 1800
    augmented = np.asarray(augment(KEY, np.repeat(image, count, axis=0), *argument))
    assert augmented.dtype == np.uint8
    outcomes = np.concatenate(outcomes(image))
    matches = (augmented[:, None] == outcomes).all(axis=(2, 3, 4))
    np.testing.assert_array_equal(matches.sum(axis=1), 1)
    expected = count / len(outcomes)
    assert (np.abs(matches.sum(axis=0) - expected) < 5 * np.sqrt(expected)).all()


# In training


def small_state(**changes):
    """A state of a small network whose leaves are random: a head of zeros would hide the rest."""
    model = create_model(small_config(**changes), num_classes=10)
    params = random_variables(model, jnp.zeros((1, 8, 8, 1)), train=False)['params']
    return TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(0.1))


@pytest.mark.parametrize(
    ('changes', 'augment'),
    [
        ({'model.dropout_rate': 0.5}, {}),
        ({'model.stoch_depth': 0.5, 'model.num_blocks': 2}, {}),
        ({}, {'translate': 1}),
    ],
    ids=['dropout', 'stochastic depth', 'translate'],
)
def test_each_random_purpose_follows_seed_and_step(changes, augment):
    state = small_state(**changes)
    step = jax.jit(functools.partial(train_step, augmentation=Augmentation(**augment)))
    loss = [
        float(step(state.replace(step=number), IMAGES, LABELS, key)[1]['loss'])
        for number, key in ((0, KEY), (0, KEY), (1, KEY), (0, jax.random.key(9)))
    ]
    assert loss[0] == loss[1] and len(set(loss)) == 3


def test_mixup_trains_on_mixed_images_and_labels_and_counts_by_the_unmixed():
    state = small_state()
    augmentation = Augmentation(mixup=1.0, label_smoothing=0.1)
    step = jax.jit(functools.partial(train_step, augmentation=augmentation))
    _, metrics = step(state, IMAGES, LABELS, KEY)
    share = float(draw_mixup(purpose_key(KEY, 'mixup', 0), 1.0).target_weight)

    def mix(array):
        return share * array + (1 - share) * np.roll(array, 1, axis=0)

    images, targets = mix(IMAGES / 127.5 - 1.0), 0.9 * mix(np.eye(10)[LABELS]) + 0.01
    logits = np.asarray(state.apply_fn({'params': state.params}, images, train=False))
    expected = optax.softmax_cross_entropy(logits, targets).mean()
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)
    assert metrics['correct'] == (logits.argmax(axis=1) == LABELS).sum()


# All of them together

WHOLE = Augmentation(
    label_smoothing=0.1, min_crop_area=0.3, flip=True, translate=1, num_layers=2, magnitude=15.0,
    fill=128, mixup=0.2, cutmix=1.0, num_phases=(2, 3),
)  # fmt: skip


def test_what_the_steps_do_is_what_the_config_says():
    plain = small_config()
    assert num_phases(plain) == (1, 1) and augmentation_from_config(plain) == Augmentation()
    randaugment = {'num_layers': 2, 'magnitude': 15, 'fill': 128}
    augment = {'min_crop_area': 0.3, 'flip': True, 'translate': 1, 'mixup': 0.2, 'cutmix': 1}
    augment |= {'random_phase': True}
    augment |= {f'randaugment.{name}': value for name, value in randaugment.items()}
    changes = {f'augment.{name}': value for name, value in augment.items()}
    changes |= {'label_smoothing': 0.1, 'model.patches.dilation': (2, 3)}
    assert augmentation_from_config(small_config(**changes)) == WHOLE


def test_each_change_alone_is_a_part_of_the_whole():
    alone = WHOLE.separate_changes()
    assert list(alone) == [
        'min_crop_area', 'flip', 'translate', 'randaugment', 'random_phase', 'mixup', 'cutmix',
    ]  # fmt: skip
    assert alone['randaugment'] == Augmentation(num_layers=2, magnitude=15.0, fill=128)
    assert alone['random_phase'] == Augmentation(num_phases=(2, 3))
    assert Augmentation(label_smoothing=0.1).separate_changes() == {}


def test_without_augmentation_a_batch_stays_what_it_is():
    assert Augmentation().apply(KEY, 0, IMAGES) is IMAGES
    mixing = Augmentation().draw_mixing(KEY, 0, (8, 8))
    assert mixing == MixupCutmix()
    assert mixing.mix_images(IMAGES) is IMAGES and mixing.mix_targets(LABELS) is LABELS


def test_seeds_at_once_are_augmented_as_each_alone():
    seed_keys = jax.random.split(KEY, 2)
    # RandAugment and mixing have tests of their own.
    augmentation = dataclasses.replace(WHOLE, num_layers=0)

    def augment(seed_key, step):
        return augmentation.apply(seed_key, step, IMAGES).astype(int)

    at_once, alone = jax.jit(jax.vmap(augment, (0, None)))(seed_keys, 3), jax.jit(augment)
    for key, images in zip(seed_keys, at_once, strict=True):
        # A value may be rounded up in one program and down in the other.
        np.testing.assert_allclose(images, alone(key, 3), atol=1)
    assert not np.array_equal(*at_once)
    assert not np.array_equal(at_once[0], alone(seed_keys[0], 4))


def test_every_change_has_a_key_of_its_own_from_seed_and_step_and_the_phase_is_last(monkeypatch):
    """Whatever followed it would move an image against the grid of patches."""
    keys = []

    def record(seed_key, purpose, index):
        keys.append((seed_key, purpose, index))
        return purpose_key(seed_key, purpose, index)

    monkeypatch.setattr('mixer_dilated.data.augmentation.purpose_key', record)
    jax.eval_shape(lambda: (WHOLE.apply(KEY, 5, IMAGES), WHOLE.draw_mixing(KEY, 5, (8, 8)))[0])
    purposes = ['crop', 'flip', 'shift', 'randaugment', 'phase', 'mixup', 'cutmix', 'mixing']
    assert keys == [(KEY, purpose, 5) for purpose in purposes]


# Mixup and CutMix


@pytest.mark.parametrize(
    ('draw', 'alpha'),
    [(draw_mixup, 0.001), (draw_mixup, 0.2), (draw_mixup, 1000.0), (draw_cutmix, 1.0)],
)
def test_each_example_is_mixed_with_its_neighbour_and_so_are_the_targets(draw, alpha):
    images = np.random.default_rng(0).normal(size=(5, 7, 6, 2)).astype(np.float32)
    targets = np.eye(5, 7, dtype=np.float32)
    for number in range(8):
        mixing = draw(jax.random.key(number), alpha, *[(7, 6)] * (draw is draw_cutmix))
        weight, share = np.asarray(mixing.pixel_weight), float(mixing.target_weight)
        np.testing.assert_allclose(weight.mean(), share, atol=1e-6)
        assert draw is draw_cutmix or 0.5 <= share <= 1
        for of, array, mixed in (
            (weight, images, mixing.mix_images(images)),
            (share, targets, mixing.mix_targets(targets)),
        ):
            expected = of * array + (1 - of) * np.roll(array, 1, axis=0)
            np.testing.assert_allclose(mixed, expected, atol=1e-6)


def test_shares_of_mixup_are_the_larger_of_a_beta_draw_and_its_rest():
    keys = jax.random.split(KEY, 2000)
    drawn = np.random.default_rng(0).beta(0.4, 0.4, 200_000)
    shares = jax.vmap(lambda key: draw_mixup(key, 0.4).target_weight)(keys)
    check_distribution(shares, np.maximum(drawn, 1 - drawn), 0.03)


@pytest.mark.parametrize('alpha', [0.3, 1.0, 1000.0])
def test_boxes_of_cutmix_are_rectangles_whose_area_the_targets_lose(alpha):
    """The areas are those of a beta draw, cut off at the image."""
    sides, keys = (40, 31), jax.random.split(jax.random.key(1), 3000)
    mixing = jax.vmap(lambda key: dataclasses.astuple(draw_cutmix(key, alpha, sides)))(keys)
    weights, shares = map(np.asarray, mixing)
    assert weights.shape == (3000, *sides, 1) and set(np.unique(weights)) <= {0, 1}
    boxes = weights[..., 0] == 0
    rows, columns = boxes.any(axis=2), boxes.any(axis=1)
    np.testing.assert_array_equal(boxes, rows[:, :, None] & columns[:, None, :])
    for along in (rows, columns):  # in one piece
        assert (np.abs(np.diff(along.astype(int), axis=1, prepend=0, append=0)).sum(1) <= 2).all()
    np.testing.assert_allclose(shares, 1 - boxes.mean(axis=(1, 2)), atol=1e-6)
    draw, area = np.random.default_rng(0), 1
    side = np.sqrt(1 - draw.beta(alpha, alpha, 100_000))
    for size in sides:
        length = np.round(size * side).astype(int)
        start = draw.integers(size, size=len(side)) - length // 2
        area = area * (np.minimum(start + length, size) - np.maximum(start, 0)) / size
    check_distribution(shares, 1 - area)


def test_of_mixup_and_cutmix_each_batch_has_one_with_equal_probability():
    both = {'mixup': 0.4}, {'cutmix': 1.0}, {'mixup': 0.4, 'cutmix': 1.0}

    def draw(step):
        mixings = [Augmentation(**alphas).draw_mixing(KEY, step, (6, 6)) for alphas in both]
        pixels = [jnp.broadcast_to(mixing.pixel_weight, (6, 6, 1)) for mixing in mixings]
        return pixels, mixings[-1].target_weight

    (mixup, cutmix, pixels), shares = jax.jit(jax.vmap(draw))(jnp.arange(1000))
    is_mixup, is_cutmix = (
        np.all(np.asarray(pixels == alone), axis=(1, 2, 3)) for alone in (mixup, cutmix)
    )
    assert (is_mixup | is_cutmix).all() and (is_mixup & is_cutmix).sum() < 50
    assert abs(is_mixup.sum() - 500) < 5 * np.sqrt(1000 / 4) + 50
    np.testing.assert_allclose(shares, np.asarray(pixels).mean(axis=(1, 2, 3)), atol=1e-6)
