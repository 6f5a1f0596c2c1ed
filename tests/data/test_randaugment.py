"""RandAugment: which operations an image gets, in which order, alone and in a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.data.randaugment import (
    MICROBATCH,
    Draws,
    apply_operations,
    draw_operations,
    map_microbatches,
    randaugment,
)
from tests.conftest import random_bytes
from tests.data.test_image_operations import FILL, compiled, operate
from tests.data.test_image_operations import NAMES as NAMES_OF_SETS

NAMES = NAMES_OF_SETS['paper']
IMAGES = random_bytes((42, 20, 18, 3), low=20, high=200)


def test_every_operation_and_sign_is_drawn_equally_often_in_every_layer():
    chosen, signs, points = map(np.asarray, draw_operations(jax.random.key(0), 7000, 2, 10.0))
    assert chosen.shape == signs.shape == (7000, 2) and set(np.unique(signs)) == {-1, 1}
    assert points.shape == (7000, 2, 2) and np.abs(points.mean((0, 1)) - 0.5).max() < 0.02
    for layer in range(2):
        counts = np.bincount(chosen[:, layer], minlength=14)
        assert len(counts) == 14 and np.abs(counts - 500).max() < 5 * np.sqrt(500)
        assert abs(signs[:, layer].sum()) < 5 * np.sqrt(7000)
    pairs = np.histogram2d(*chosen.T, bins=14)[0]
    assert np.abs(pairs - 7000 / 14**2).max() < 6 * np.sqrt(7000 / 14**2)


def apply_in_turn(images, indices, levels):
    """Operation after operation, image after image, each compiled by itself."""
    augmented = images.copy()
    for number, layer in np.ndindex(indices.shape):
        name, level = NAMES[indices[number, layer]], levels[number, layer]
        augmented[number] = operate(name, augmented[number], level)
    return augmented


def sequential(*batch):
    return jax.lax.map(lambda args: compiled('paper')(*args), batch)


vectorized = jax.vmap(lambda image, draws: apply_operations(image, draws, FILL))


@pytest.mark.parametrize('form', [sequential, vectorized])
def test_operations_are_applied_in_order_one_image_at_a_time_or_together(form):
    # Every operation follows three others; a value may be rounded differently in each.
    indices = np.stack([np.arange(42) % 14, (np.arange(42) * 5 + 3) % 14], axis=1)
    levels = np.where(indices % 2, 0.5, -0.5).astype(np.float32)
    augmented = jax.jit(form)(IMAGES, Draws(indices, levels, np.zeros((42, 2, 2))))
    differences = np.abs(np.asarray(augmented).astype(int) - apply_in_turn(IMAGES, indices, levels))
    assert differences.max() <= 6 and (differences > 0).mean() < 0.01


def test_images_of_each_seed_get_what_its_key_draws_at_the_magnitude():
    keys = jax.random.split(jax.random.key(4), 2)
    seeds_at_once = jax.jit(
        jax.vmap(lambda key, magnitude: randaugment(key, IMAGES, 1, magnitude, FILL), (0, None))
    )
    for magnitude in (0.0, 7.0):
        for key, images in zip(keys, seeds_at_once(keys, magnitude), strict=True):
            chosen, levels, _ = map(np.asarray, draw_operations(key, len(IMAGES), 1, magnitude))
            expected = apply_in_turn(IMAGES, chosen, levels)
            assert np.abs(np.asarray(images).astype(int) - expected).max() <= 1
            changed = {
                NAMES[number]
                for number, one, other in zip(chosen[:, 0], images, IMAGES, strict=True)
                if (one != other).any()
            }
            drawn = {NAMES[number] for number in chosen[:, 0]}
            without_level = drawn & {'auto_contrast', 'equalize'}
            assert changed == (drawn - {'identity'} if magnitude else without_level)


@pytest.mark.parametrize(
    ('count', 'size'),
    [(MICROBATCH, MICROBATCH), (3 * MICROBATCH, MICROBATCH), (36, 12), (37, 1), (0, 0)],
)
def test_a_batch_in_microbatches_is_what_it_is_at_once(count, size):
    sizes = []

    def function(images, numbers):
        sizes.append(len(images))
        return images + numbers[:, None, None]

    images, numbers = random_bytes((count, 2, 3)), jnp.arange(count, dtype=jnp.uint8)
    mapped = jax.jit(functools.partial(map_microbatches, function))(images, numbers)
    np.testing.assert_array_equal(mapped, images + numbers[:, None, None])
    assert {*sizes} == {size}
