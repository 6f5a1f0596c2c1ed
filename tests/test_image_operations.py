"""The operations of RandAugment, each against Pillow, SciPy or its definition in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from mixer_dilated.data.randaugment import operations

FILL = 37
SHAPES = ((32, 30, 3), (32, 30, 1))
MOVES = ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y')
WITHOUT_STRENGTH = ('auto_contrast', 'equalize')


@functools.cache
def compiled(name):
    return jax.jit(operations(FILL)[name])


def operated(name, image, strength):
    found = np.asarray(compiled(name)(image, jnp.float32(strength)))
    assert found.shape == image.shape and found.dtype == np.uint8
    return found


def by_pillow(image, change):
    grey = image.shape[-1] == 1
    found = np.asarray(change(Image.fromarray(image[..., 0] if grey else image)))
    return found[..., None] if grey else found


def pillow_change(name, strength):
    """What Pillow calls the operation at a strength of at least -1."""
    size, factor = abs(strength), max(1 + 0.9 * strength, 0.1)
    enhanced = {
        'color': ImageEnhance.Color,
        'contrast': ImageEnhance.Contrast,
        'brightness': ImageEnhance.Brightness,
        'sharpness': ImageEnhance.Sharpness,
    }
    return {
        'identity': lambda image: image,
        'auto_contrast': ImageOps.autocontrast,
        'equalize': ImageOps.equalize,
        'solarize': lambda image: ImageOps.solarize(image, 256 * (1 - size)),
        'posterize': lambda image: ImageOps.posterize(image, max(8 - round(4 * size), 1)),
        **{
            key: lambda image, kind=kind: kind(image).enhance(factor)
            for key, kind in enhanced.items()
        },
    }[name]


@st.composite
def pictures(draw):
    """Bright, dark and dull ones, down to a single value; of hundreds of pixels, as `equalize`
    leaves smaller ones alone."""
    shape, seed = draw(st.sampled_from(SHAPES)), draw(st.integers(0, 2**32 - 1))
    low, high = sorted((draw(st.integers(0, 255)), draw(st.integers(0, 255))))
    even = np.random.default_rng(seed).random(shape)
    return (low + (high - low) * even ** draw(st.sampled_from((0.2, 1, 5)))).astype(np.uint8)


@pytest.mark.parametrize('name', ['color', 'contrast', 'brightness', 'sharpness'])
@pytest.mark.parametrize('strength', [-3, 3])
def test_the_strongest_change_leaves_something_to_be_seen(name, strength):
    image = np.random.default_rng(0).integers(0, 256, SHAPES[0], np.uint8)
    assert len(np.unique(operated(name, image, strength))) > 1


@pytest.mark.parametrize('name', [name for name in operations() if name not in MOVES])
@settings(max_examples=30, deadline=None)
@given(image=pictures(), eighths=st.integers(-12, 12))
def test_colour_operations_are_those_of_pillow(name, image, eighths):
    expected = by_pillow(image, pillow_change(name, eighths / 8))
    exact = name in ('identity', 'equalize', 'solarize', 'posterize')
    # Pillow cuts fractions off, here they are rounded.
    found = operated(name, image, eighths / 8).astype(int)
    assert np.abs(found - expected).max() <= (0 if exact else 1)


def moved_to(name, rows, columns, strength):
    """Where in the image each pixel of the moved one comes from."""
    height, width = rows.shape
    if name == 'rotate':
        angle, y, x = np.deg2rad(30 * strength), rows - (height - 1) / 2, columns - (width - 1) / 2
        return (
            (height - 1) / 2 + np.cos(angle) * y - np.sin(angle) * x,
            (width - 1) / 2 + np.sin(angle) * y + np.cos(angle) * x,
        )
    across = np.clip(0.45 * strength, -0.9, 0.9)
    return {
        'shear_x': (rows, columns + 0.3 * strength * rows),
        'shear_y': (rows + 0.3 * strength * columns, columns),
        'translate_x': (rows, columns + np.round(across * width)),
        'translate_y': (rows + np.round(across * height), columns),
    }[name]


@pytest.mark.parametrize('name', MOVES)
@settings(max_examples=20, deadline=None)
@given(image=pictures(), eighths=st.integers(-24, 24))
def test_moves_sample_the_image_bilinearly_and_fill_what_is_outside(name, image, eighths):
    places = moved_to(name, *np.indices(image.shape[:2]).astype(np.float64), eighths / 8)
    expected = np.stack(
        [
            scipy.ndimage.map_coordinates(
                channel.astype(np.float64), places, order=1, mode='grid-constant', cval=FILL
            )
            for channel in np.moveaxis(image, -1, 0)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(operated(name, image, eighths / 8), expected, atol=0.51)


@pytest.mark.parametrize('name', [name for name in operations() if name not in WITHOUT_STRENGTH])
@pytest.mark.parametrize('shape', SHAPES)
def test_strength_0_changes_nothing(name, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(operated(name, image, 0.0), image)


def test_equalizing_spreads_a_dull_picture():
    image = np.random.default_rng(0).integers(90, 110, SHAPES[1], dtype=np.uint8)
    assert np.ptp(operated('equalize', image, 1.0)) > 230
    small = image[:8, :8]
    np.testing.assert_array_equal(operated('equalize', small, 1.0), small)


def test_three_times_thirty_degrees_turn_a_square():
    image = np.random.default_rng(0).integers(0, 256, (7, 7, 1), dtype=np.uint8)
    for sign in (-1, 1):
        np.testing.assert_array_equal(operated('rotate', image, 3 * sign), np.rot90(image, -sign))


def test_a_translation_is_of_whole_pixels():
    image = np.random.default_rng(0).integers(0, 256, (9, 10, 3), dtype=np.uint8)
    expected = np.full_like(image, FILL)
    expected[:, :6] = image[:, 4:]  # 0.45 · 0.9 of ten pixels
    np.testing.assert_array_equal(operated('translate_x', image, 0.9), expected)


@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 5, 3), (5, 2, 4), (3, 3, 2)])
def test_images_of_every_shape_are_taken(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for name, operation in operations().items():
        found = jax.eval_shape(operation, image, jnp.float32(1.0))
        assert (found.shape, found.dtype) == (shape, np.uint8), name


def test_the_operations_are_those_of_the_paper():
    assert list(operations()) == [
        'identity', 'auto_contrast', 'equalize', 'rotate', 'solarize', 'color', 'posterize',
        'contrast', 'brightness', 'sharpness', 'shear_x', 'shear_y', 'translate_x', 'translate_y',
    ]  # fmt: skip
