"""The operations of RandAugment against Pillow, SciPy and big_vision's definitions in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from mixer_dilated.data.randaugment import OPERATION_SETS, TRANSFORMS, Draws, apply_operations
from tests.conftest import random_bytes

FILL = 37
SETS = [*OPERATION_SETS]
NAMES = {operations: [*OPERATION_SETS[operations].operations] for operations in SETS}
COLOURS = {s: [name for name in NAMES[s] if name not in (*TRANSFORMS, 'cutout')] for s in SETS}
EXACT = 'identity', 'equalize', 'invert', 'solarize', 'posterize', 'solarize_add'


@functools.cache
def compiled(operations):
    return jax.jit(functools.partial(apply_operations, fill=FILL, operations=operations))


def operate(name, image, level, point=(0.5, 0.5), operations='paper'):
    index = np.array([NAMES[operations].index(name)])
    draws = Draws(index, np.float32([level]), np.float32([point]))
    changed = np.asarray(compiled(operations)(image, draws))
    assert changed.shape == image.shape and changed.dtype == np.uint8
    return changed


def test_the_operations_are_those_of_the_paper_and_of_big_vision_in_their_order():
    assert NAMES['paper'] == [
        'identity', 'auto_contrast', 'equalize', 'rotate', 'solarize', 'color', 'posterize',
        'contrast', 'brightness', 'sharpness', 'shear_x', 'shear_y', 'translate_x', 'translate_y',
    ]  # fmt: skip
    assert NAMES['big_vision'] == [  # its `available_ops`
        'auto_contrast', 'equalize', 'invert', 'rotate', 'posterize', 'solarize', 'color',
        'contrast', 'brightness', 'sharpness', 'shear_x', 'shear_y', 'translate_x', 'translate_y',
        'cutout', 'solarize_add',
    ]  # fmt: skip


@st.composite
def images(draw):
    """Bright, dark and dull ones, down to a single value; of hundreds of pixels, as `equalize`
    leaves smaller ones alone."""
    shape, seed = (32, 30, draw(st.sampled_from([1, 3]))), draw(st.integers(0, 2**32 - 1))
    low, high = sorted((draw(st.integers(0, 255)), draw(st.integers(0, 255))))
    even = np.random.default_rng(seed).random(shape)
    return (low + (high - low) * even ** draw(st.sampled_from((0.2, 1, 5)))).astype(np.uint8)


def pillow(name, image, level):
    """What Pillow makes of an image by the operation at a level."""
    size, factor = abs(level), max(1 + 0.9 * level, 0.1)
    changes = {
        'identity': lambda image: image,
        'auto_contrast': ImageOps.autocontrast,
        'equalize': ImageOps.equalize,
        'solarize': lambda image: ImageOps.solarize(image, 256 * (1 - size)),
        'posterize': lambda image: ImageOps.posterize(image, max(8 - round(4 * size), 1)),
    }
    if name not in changes:
        enhancement = getattr(ImageEnhance, name.capitalize())
        changes[name] = lambda image: enhancement(image).enhance(factor)
    return np.asarray(changes[name](Image.fromarray(image.squeeze()))).reshape(image.shape)


def big_vision(name, image, level):
    """After `level_to_arg` and `NAME_TO_FUNC` of its autoaugment.py."""
    if name in ('auto_contrast', 'equalize'):
        return pillow(name, image, level)
    share, wide = abs(level), image.astype(np.float32)

    def floor(number):
        return int(round(number, 6))  # 2.3 · 110 is 252.99999999999997 in float64

    def blend(degenerate):
        factor = np.float32(share * 1.8 + 0.1)
        return np.clip(degenerate + factor * (wide - degenerate), 0, 255).astype(np.uint8)

    grey, smooth, dropped = wide, image.copy(), max(8 - floor(share * 4), 0)
    if image.shape[-1] == 3:
        grey = np.floor(255.5 * (wide / 255) @ np.float32([0.2989, 0.587, 0.114]))[..., None]
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (0, 1))
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]])
    smooth[1:-1, 1:-1] = np.einsum('hwcij,ij->hwc', windows, kernel) // 13
    added = np.minimum(image.astype(int) + floor(share * 110), 255)
    return {
        'invert': 255 - image,
        'posterize': image >> dropped << dropped,
        'solarize': np.where(image < floor(share * 256), image, 255 - image),
        'solarize_add': np.where(image < 128, added, image),
        'color': blend(grey),
        'contrast': blend(np.float32(min(image[..., 0].size // 256, 255))),
        'brightness': blend(np.float32(0)),
        'sharpness': blend(smooth.astype(np.float32)),
    }[name]


@pytest.mark.parametrize(
    ('operations', 'name', 'reference'),
    [('paper', name, pillow) for name in COLOURS['paper']]
    + [('big_vision', name, big_vision) for name in COLOURS['big_vision']],
)
@settings(max_examples=30)
@given(image=images(), tenths=st.integers(2, 28), sign=st.sampled_from((-1, 1)))
def test_colour_operations_are_those_of_their_reference(
    operations, name, reference, image, tenths, sign
):
    level = sign * tenths / 10
    if operations == 'paper':
        level = sign * (tenths - 2) / 16  # Pillow's posterize takes no more; 0 is no change
    changed = operate(name, image, level, operations=operations).astype(int)
    # Where Pillow cuts fractions off, the paper's are rounded; big_vision's are cut off, of a float
    # that may lie on either side of an integer, as may the grey of a pixel.
    wrong = np.abs(changed - reference(name, image, level)) > (0 if name in EXACT else 1)
    assert wrong.mean() <= (0.01 if name == 'color' else 0)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('operations', SETS)
@pytest.mark.parametrize('name', TRANSFORMS)
@pytest.mark.parametrize('level', [-2.61, -0.21, 0.0, 0.37, 1.49])
def test_transforms_sample_the_image_and_fill_what_is_outside(operations, name, level, channels):
    image = random_bytes((120, 90, channels), low=38)
    y, x = np.indices((120, 90)).astype(np.float64)
    turned = np.exp(1j * np.deg2rad(30 * level)) * (x - 44.5 - 1j * (y - 59.5))
    translations = [np.round(np.clip(0.45 * level, -0.9, 0.9) * side) for side in (120, 90)]
    down, right = translations if operations == 'paper' else [100 * level] * 2
    places = {
        'rotate': (59.5 - turned.imag, 44.5 + turned.real),
        'shear_x': (y, x + 0.3 * level * y),
        'shear_y': (y + 0.3 * level * x, x),
        'translate_x': (y, x + right),
        'translate_y': (y + down, x),
    }[name]
    order = 1 if operations == 'paper' else 0  # bilinear, or the nearest pixel
    expected = np.zeros(image.shape)
    for channel in range(channels):
        scipy.ndimage.map_coordinates(
            image[..., channel].astype(np.float64), places, expected[..., channel], order,
            mode='grid-constant', cval=FILL,
        )  # fmt: skip
    wrong = np.abs(operate(name, image, level, operations=operations) - expected) > 0.51
    assert wrong.mean() < (0.002 if order == 0 else 1e-9)  # a place between two is rounded


@pytest.mark.parametrize('point', [(0.5, 0.25), (0.0, 0.0), (0.99, 0.6)])
@pytest.mark.parametrize('level', [-0.53, 0.0, 1.5])
def test_cutout_fills_a_square_around_a_point(point, level):
    image = random_bytes((150, 120, 3), low=38)
    half, row, column = int(40 * abs(level)), int(point[0] * 150), int(point[1] * 120)
    cut = image.copy()
    cut[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = FILL
    changed = operate('cutout', image, level, point, operations='big_vision')
    np.testing.assert_array_equal(changed, cut)


def test_equalizing_leaves_a_small_image_alone():
    image = random_bytes((8, 8, 1), low=90, high=110)
    np.testing.assert_array_equal(operate('equalize', image, 1.0), image)


@pytest.mark.parametrize('operations', SETS)
@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 5, 3), (5, 2, 4), (3, 3, 2)])
def test_images_of_every_shape_are_taken(shape, operations):
    draws = Draws(jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.ones((1, 2)))
    changed = jax.eval_shape(compiled(operations), random_bytes(shape), draws)
    assert (changed.shape, changed.dtype) == (shape, np.uint8)
