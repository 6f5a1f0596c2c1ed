"""RandAugment: which operations an image has, and that they are done one after the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.data.randaugment import (
    draw_operations,
    operations,
    randaugment,
    sequential,
    vectorized,
)

FILL = 9
NAMES = list(operations())
IMAGES = np.random.default_rng(0).integers(20, 200, (42, 20, 18, 3), dtype=np.uint8)


def test_every_operation_and_sign_is_drawn_equally_often_in_every_layer():
    chosen, signs = map(np.asarray, draw_operations(jax.random.key(0), 7000, 2))
    assert chosen.shape == signs.shape == (7000, 2) and set(np.unique(signs)) == {-1, 1}
    for layer in range(2):
        counts = np.bincount(chosen[:, layer], minlength=14)
        assert len(counts) == 14 and np.abs(counts - 500).max() < 5 * np.sqrt(500)
        assert abs(signs[:, layer].sum()) < 5 * np.sqrt(7000)
    pairs = np.histogram2d(*chosen.T, bins=14)[0]
    assert np.abs(pairs - 7000 / 14**2).max() < 6 * np.sqrt(7000 / 14**2)


@functools.cache
def compiled(name):
    return jax.jit(operations(FILL)[name])


def by_hand(images, chosen, strengths):
    """Operation after operation, image by image, each compiled for itself."""
    found = []
    for image, numbers, amounts in zip(images, chosen, strengths, strict=True):
        for number, amount in zip(numbers, amounts, strict=True):
            image = compiled(NAMES[number])(image, jnp.float32(amount))
        found.append(np.asarray(image))
    return np.stack(found)


@pytest.mark.parametrize('form', [sequential, vectorized])
def test_both_forms_do_what_was_drawn_in_its_order(form):
    # Every operation follows three others; one value may be rounded differently in each.
    chosen = np.stack([np.arange(42) % 14, (np.arange(42) * 5 + 3) % 14], axis=1)
    strengths = np.where(chosen % 2, 0.5, -0.5).astype(np.float32)
    found = jax.jit(functools.partial(form, fill=FILL))(IMAGES, chosen, strengths)
    expected = by_hand(IMAGES, chosen, strengths)
    differing = np.abs(np.asarray(found).astype(int) - expected)
    assert differing.max() <= 3 and (differing > 0).mean() < 0.01


def test_images_of_each_seed_get_what_its_key_draws_at_the_magnitude():
    keys = jax.random.split(jax.random.key(4), 2)
    seeds_at_once = jax.jit(
        jax.vmap(lambda key, magnitude: randaugment(key, IMAGES, 1, magnitude, FILL), (0, None))
    )
    for magnitude in (0.0, 7.0):
        for key, found in zip(keys, seeds_at_once(keys, magnitude), strict=True):
            chosen, signs = map(np.asarray, draw_operations(key, len(IMAGES), 1))
            expected = by_hand(IMAGES, chosen, magnitude / 10 * signs)
            assert np.abs(np.asarray(found).astype(int) - expected).max() <= 1
            changed = {
                NAMES[number]
                for number, one, other in zip(chosen[:, 0], found, IMAGES, strict=True)
                if (one != other).any()
            }
            drawn = {NAMES[number] for number in chosen[:, 0]}
            without_strength = {'auto_contrast', 'equalize'}
            assert changed == (drawn - {'identity'} if magnitude else drawn & without_strength)
