"""Augmentation: what it does to images and labels, and what it follows."""

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


def move_up_left(images, up, left):
    """By the definition: rows and columns leave at the top and left, zeros follow."""
    moved = np.zeros_like(images)
    height, width = images.shape[1:3]
    moved[:, : height - up, : width - left] = images[:, up:, left:]
    return moved


PHASES = [(up, left) for up in range(3) for left in range(2)]
MOVES = [(down, right) for down in range(-1, 2) for right in range(-1, 2)]


def translate(image, down, right):
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return padded[:, 1 - down : 6 - down, 1 - right : 5 - right]


@pytest.mark.parametrize(
    ('augment', 'outcomes'),
    [
        (random_phase, lambda image: [move_up_left(image, *phase) for phase in PHASES]),
        (random_flip, lambda image: [image, image[:, :, ::-1]]),
        (random_translate, lambda image: [translate(image, *move) for move in MOVES]),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_every_outcome_is_drawn_equally_often(augment, outcomes):
    image, count = random_bytes((1, 5, 4, 1), low=1), 1800
    argument = {random_phase: ((3, 2),), random_translate: (1,)}.get(augment, ())
    static = (2,) if argument else ()
    augment = jax.jit(augment, static_argnums=static)
    augmented = np.asarray(augment(KEY, np.repeat(image, count, axis=0), *argument))
    assert augmented.dtype == np.uint8
    outcomes = np.concatenate(outcomes(image))
    matches = (augmented[:, None] == outcomes).all(axis=(2, 3, 4))
    np.testing.assert_array_equal(matches.sum(axis=1), 1)
    expected = count / len(outcomes)
    assert (np.abs(matches.sum(axis=0) - expected) < 5 * np.sqrt(expected)).all()


def small_state(**changes):
    """A state of a small network whose leaves are random: a head of zeros would hide the rest."""
    model = create_model(small_config(**changes), num_classes=10)
    params = random_variables(model, jnp.zeros((1, 8, 8, 1)), train=False)['params']
    return TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(0.1))


IMAGES = random_bytes((16, 8, 8, 1), low=1)
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
    state = small_state(**changes)
    step = jax.jit(functools.partial(train_step, augmentation=Augmentation(**settings)))
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
    assert 0.5 < share < 0.99

    def mix(array):
        return share * array + (1 - share) * np.roll(array, 1, axis=0)

    images, targets = mix(IMAGES / 127.5 - 1.0), 0.9 * mix(np.eye(10)[LABELS]) + 0.01
    logits = np.asarray(state.apply_fn({'params': state.params}, images, train=False))
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(targets * log_probs).sum(axis=1).mean()
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)
    assert metrics['correct'] == (logits.argmax(axis=1) == LABELS).sum()


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


def test_what_the_steps_do_is_what_the_config_says():
    plain = small_config()
    assert num_phases(plain) == (1, 1)
    assert augmentation_from_config(plain) == Augmentation()
    randaugment = {'num_layers': 2, 'magnitude': 15, 'fill': 128}
    augment = {'min_crop_area': 0.3, 'flip': True, 'translate': 1, 'mixup': 0.2, 'cutmix': 1}
    config = small_config(
        label_smoothing=0.1,
        **{f'augment.{name}': value for name, value in augment.items()},
        **{f'augment.randaugment.{name}': value for name, value in randaugment.items()},
        **{'augment.random_phase': True, 'model.patches.dilation': (2, 3)},
    )
    assert num_phases(config) == (2, 3)
    assert augmentation_from_config(config) == WHOLE


def test_each_change_alone_is_a_part_of_the_whole():
    alone = WHOLE.separate_changes()
    assert list(alone) == [
        'min_crop_area', 'flip', 'translate', 'randaugment', 'random_phase', 'mixup', 'cutmix',
    ]  # fmt: skip
    assert alone['randaugment'] == Augmentation(num_layers=2, magnitude=15.0, fill=128)
    assert alone['random_phase'] == Augmentation(num_phases=(2, 3))
    assert Augmentation(label_smoothing=0.1).separate_changes() == {}


def test_without_augmentation_a_batch_stays_what_it_is():
    nothing = Augmentation()
    assert nothing.apply(KEY, 0, IMAGES) is IMAGES
    mixing = nothing.draw_mixing(KEY, 0, (8, 8))
    assert mixing == MixupCutmix()
    assert mixing.mix_images(IMAGES) is IMAGES and mixing.mix_targets(LABELS) is LABELS
    np.testing.assert_array_equal(random_translate(KEY, IMAGES, 0), IMAGES)


def test_the_phase_is_the_last_of_the_moves():
    """What moves in for a phase is neither upsampled nor filled anew."""
    images = np.full((200, 8, 8, 1), 255, np.uint8)
    augmentation = Augmentation(min_crop_area=0.3, flip=True, translate=1, num_phases=(3, 1))
    augmented = np.asarray(jax.jit(augmentation.apply)(KEY, 0, images))
    below = 8 - np.array([np.flatnonzero(image.any(axis=(1, 2))).max() + 1 for image in augmented])
    assert set(below) == {0, 1, 2, 3}  # a shift of one at most, a phase of two at most
    assert set(np.unique(augmented)) == {0, 255}  # an upsampled edge would have values in between


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


def test_every_change_has_a_key_of_its_own_from_seed_and_step(monkeypatch):
    keys = []

    def record(seed_key, purpose, index):
        keys.append((seed_key, purpose, index))
        return purpose_key(seed_key, purpose, index)

    monkeypatch.setattr('mixer_dilated.data.augmentation.purpose_key', record)
    jax.eval_shape(lambda: (WHOLE.apply(KEY, 5, IMAGES), WHOLE.draw_mixing(KEY, 5, (8, 8)))[0])
    purposes = ['crop', 'flip', 'shift', 'randaugment', 'phase', 'mixup', 'cutmix', 'mixing']
    assert keys == [(KEY, purpose, 5) for purpose in purposes]
