"""RandAugment: operations against Pillow, SciPy or NumPy; which an image gets, in which order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from mixer_dilated.data.randaugment import (
    COLOUR_OPERATIONS,
    MICROBATCH,
    NAMES,
    TRANSFORMS,
    apply_operations,
    apply_transform,
    draw_operations,
    map_microbatches,
    randaugment,
)
from tests.conftest import random_bytes

FILL = 37
IMAGES = random_bytes((42, 20, 18, 3), low=20, high=200)
SHAPES = ((32, 30, 3), (32, 30, 1))
WITHOUT_LEVEL = ('auto_contrast', 'equalize')


def operation(name):
    def move(image, level):
        return apply_transform(image, TRANSFORMS[name](level, image.shape[:2]), FILL)

    return COLOUR_OPERATIONS.get(name, move)


@functools.cache
def compiled(name):
    return jax.jit(operation(name))


def operate(name, image, level):
    changed = np.asarray(compiled(name)(image, jnp.float32(level)))
    assert changed.shape == image.shape and changed.dtype == np.uint8
    return changed


def apply_pillow(image, change):
    grey = image.shape[-1] == 1
    changed = np.asarray(change(Image.fromarray(image[..., 0] if grey else image)))
    return changed[..., None] if grey else changed


def pillow_change(name, level):
    """What Pillow calls the operation at a level of at least -1."""
    size, factor = abs(level), max(1 + 0.9 * level, 0.1)
    if hasattr(ImageEnhance, name.capitalize()):
        return lambda image: getattr(ImageEnhance, name.capitalize())(image).enhance(factor)
    return {
        'identity': lambda image: image,
        'auto_contrast': ImageOps.autocontrast,
        'equalize': ImageOps.equalize,
        'solarize': lambda image: ImageOps.solarize(image, 256 * (1 - size)),
        'posterize': lambda image: ImageOps.posterize(image, max(8 - round(4 * size), 1)),
    }[name]


@st.composite
def images(draw):
    """Bright, dark and dull ones, down to a single value; of hundreds of pixels, as `equalize`
    leaves smaller ones alone."""
    shape, seed = draw(st.sampled_from(SHAPES)), draw(st.integers(0, 2**32 - 1))
    low, high = sorted((draw(st.integers(0, 255)), draw(st.integers(0, 255))))
    even = np.random.default_rng(seed).random(shape)
    return (low + (high - low) * even ** draw(st.sampled_from((0.2, 1, 5)))).astype(np.uint8)


@pytest.mark.parametrize('name', COLOUR_OPERATIONS)
@settings(max_examples=30)
@given(image=images(), eighths=st.integers(-12, 12))
def test_colour_operations_are_those_of_pillow(name, image, eighths):
    expected = apply_pillow(image, pillow_change(name, eighths / 8))
    exact = name in ('identity', 'equalize', 'solarize', 'posterize')
    # Pillow cuts fractions off, here they are rounded.
    changed = operate(name, image, eighths / 8).astype(int)
    assert np.abs(changed - expected).max() <= (0 if exact else 1)


def moved_to(name, rows, columns, level):
    """Where in the image each pixel of the moved one comes from."""
    height, width = rows.shape
    if name == 'rotate':
        angle, y, x = np.deg2rad(30 * level), rows - (height - 1) / 2, columns - (width - 1) / 2
        return (
            (height - 1) / 2 + np.cos(angle) * y - np.sin(angle) * x,
            (width - 1) / 2 + np.sin(angle) * y + np.cos(angle) * x,
        )
    across = np.clip(0.45 * level, -0.9, 0.9)
    return {
        'shear_x': (rows, columns + 0.3 * level * rows),
        'shear_y': (rows + 0.3 * level * columns, columns),
        'translate_x': (rows, columns + np.round(across * width)),
        'translate_y': (rows + np.round(across * height), columns),
    }[name]


@pytest.mark.parametrize('name', TRANSFORMS)
@settings(max_examples=20)
@given(image=images(), eighths=st.integers(-24, 24))
def test_moves_sample_the_image_bilinearly_and_fill_what_is_outside(name, image, eighths):
    places = moved_to(name, *np.indices(image.shape[:2]).astype(np.float64), eighths / 8)
    channels = [
        scipy.ndimage.map_coordinates(
            channel.astype(np.float64), places, order=1, mode='grid-constant', cval=FILL
        )
        for channel in np.moveaxis(image, -1, 0)
    ]
    expected = np.stack(channels, axis=-1)
    np.testing.assert_allclose(operate(name, image, eighths / 8), expected, atol=0.51)


def test_equalizing_leaves_a_small_image_alone():
    image = random_bytes((8, 8, 1), low=90, high=110)
    np.testing.assert_array_equal(operate('equalize', image, 1.0), image)


@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 5, 3), (5, 2, 4), (3, 3, 2)])
def test_images_of_every_shape_are_taken(shape):
    image = random_bytes(shape)
    for name in NAMES:
        changed = jax.eval_shape(operation(name), image, jnp.float32(1.0))
        assert (changed.shape, changed.dtype) == (shape, np.uint8), name


def test_the_operations_are_those_of_the_paper():
    assert NAMES == (
        'identity', 'auto_contrast', 'equalize', 'rotate', 'solarize', 'color', 'posterize',
        'contrast', 'brightness', 'sharpness', 'shear_x', 'shear_y', 'translate_x', 'translate_y',
    )  # fmt: skip
    assert {*NAMES} == {*COLOUR_OPERATIONS, *TRANSFORMS}


def test_every_operation_and_sign_is_drawn_equally_often_in_every_layer():
    chosen, signs = map(np.asarray, draw_operations(jax.random.key(0), 7000, 2))
    assert chosen.shape == signs.shape == (7000, 2) and set(np.unique(signs)) == {-1, 1}
    for layer in range(2):
        counts = np.bincount(chosen[:, layer], minlength=14)
        assert len(counts) == 14 and np.abs(counts - 500).max() < 5 * np.sqrt(500)
        assert abs(signs[:, layer].sum()) < 5 * np.sqrt(7000)
    pairs = np.histogram2d(*chosen.T, bins=14)[0]
    assert np.abs(pairs - 7000 / 14**2).max() < 6 * np.sqrt(7000 / 14**2)


def apply_in_turn(images, indices, levels):
    """Operation after operation, image after image, each compiled by itself."""
    augmented = []
    for image, image_indices, image_levels in zip(images, indices, levels, strict=True):
        for index, level in zip(image_indices, image_levels, strict=True):
            image = compiled(NAMES[index])(image, jnp.float32(level))
        augmented.append(np.asarray(image))
    return np.stack(augmented)


def sequential(*batch):
    return jax.lax.map(lambda args: apply_operations(*args, FILL), batch)


vectorized = jax.vmap(functools.partial(apply_operations, fill=FILL))


@pytest.mark.parametrize('form', [sequential, vectorized])
def test_operations_are_applied_in_order_one_image_at_a_time_or_together(form):
    # Every operation follows three others; a value may be rounded differently in each.
    indices = np.stack([np.arange(42) % 14, (np.arange(42) * 5 + 3) % 14], axis=1)
    levels = np.where(indices % 2, 0.5, -0.5).astype(np.float32)
    augmented = jax.jit(form)(IMAGES, indices, levels)
    differences = np.abs(np.asarray(augmented).astype(int) - apply_in_turn(IMAGES, indices, levels))
    assert differences.max() <= 6 and (differences > 0).mean() < 0.01


def test_images_of_each_seed_get_what_its_key_draws_at_the_magnitude():
    keys = jax.random.split(jax.random.key(4), 2)
    seeds_at_once = jax.jit(
        jax.vmap(lambda key, magnitude: randaugment(key, IMAGES, 1, magnitude, FILL), (0, None))
    )
    for magnitude in (0.0, 7.0):
        for key, images in zip(keys, seeds_at_once(keys, magnitude), strict=True):
            chosen, signs = map(np.asarray, draw_operations(key, len(IMAGES), 1))
            expected = apply_in_turn(IMAGES, chosen, magnitude / 10 * signs)
            assert np.abs(np.asarray(images).astype(int) - expected).max() <= 1
            changed = {
                NAMES[number]
                for number, one, other in zip(chosen[:, 0], images, IMAGES, strict=True)
                if (one != other).any()
            }
            drawn = {NAMES[number] for number in chosen[:, 0]}
            assert changed == (drawn - {'identity'} if magnitude else drawn & {*WITHOUT_LEVEL})


@pytest.mark.parametrize(
    ('count', 'size'),
    [
        (MICROBATCH, MICROBATCH),
        (3 * MICROBATCH, MICROBATCH),
        (2 * MICROBATCH + 4, 12),
        (37, 1),
        (0, 0),
    ],
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
