"""The operations of big_vision's RandAugment, against its definitions in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_dilated.data.randaugment import OPERATION_SETS
from tests.conftest import random_bytes
from tests.data.test_randaugment import FILL, images, operate

NAMES = OPERATION_SETS['big_vision'].names


def test_the_operations_are_those_of_big_vision():
    """In the order of its `available_ops`."""
    assert NAMES == (
        'auto_contrast', 'equalize', 'invert', 'rotate', 'posterize', 'solarize', 'color',
        'contrast', 'brightness', 'sharpness', 'shear_x', 'shear_y', 'translate_x', 'translate_y',
        'cutout', 'solarize_add',
    )  # fmt: skip


def blend(one, two, factor):
    return np.clip(one + np.float32(factor) * (two - one), 0, 255).astype(np.uint8)


def equalize(channel):
    counts = np.bincount(channel.ravel(), minlength=256)
    step = (counts.sum() - counts[counts != 0][-1]) // 255
    if step == 0:
        return channel
    table = np.concatenate([[0], (np.cumsum(counts) + step // 2)[:-1] // step])
    return np.clip(table, 0, 255).astype(np.uint8)[channel]


def stretch(channel):
    low, high = float(channel.min()), float(channel.max())
    if high == low:
        return channel
    return np.clip((channel - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def smoothed(image):
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]])
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (0, 1))
    result = image.copy()
    result[1:-1, 1:-1] = np.einsum('hwcij,ij->hwc', windows, kernel) // 13
    return result


def by_channel(function, image):
    return np.stack([function(channel) for channel in np.moveaxis(image, -1, 0)], -1)


def floored(number):
    """2.3 · 110 is 252.99999999999997 in float64."""
    return int(round(number, 6))


def expected(name, image, magnitude):
    """After `level_to_arg` and `NAME_TO_FUNC` of its autoaugment.py; magnitude 10 is level 1."""
    share, wide = magnitude / 10, image.astype(np.float32)
    enhance = share * 1.8 + 0.1
    grey = wide
    if image.shape[-1] == 3:
        grey = np.floor(255.5 * (wide / 255) @ np.float32([0.2989, 0.587, 0.114]))[..., None]
    return {
        'auto_contrast': lambda: by_channel(stretch, image),
        'equalize': lambda: by_channel(equalize, image),
        'invert': lambda: 255 - image,
        'posterize': lambda: (
            (image >> max(8 - floored(share * 4), 0)) << max(8 - floored(share * 4), 0)
        ),
        'solarize': lambda: np.where(image < floored(share * 256), image, 255 - image),
        'color': lambda: blend(grey, wide, enhance),
        'contrast': lambda: blend(np.float32(min(image[..., 0].size // 256, 255)), wide, enhance),
        'brightness': lambda: blend(np.float32(0), wide, enhance),
        'sharpness': lambda: blend(smoothed(image).astype(np.float32), wide, enhance),
        'solarize_add': lambda: np.where(
            image < 128, np.minimum(image.astype(int) + floored(share * 110), 255), image
        ),
    }[name]()


@pytest.mark.parametrize('name', sorted(OPERATION_SETS['big_vision'].colours))
@settings(max_examples=30)
@given(image=images(), magnitude=st.integers(2, 28), sign=st.sampled_from((-1, 1)))
def test_colour_operations_are_those_of_big_vision(name, image, magnitude, sign):
    exact = name in ('equalize', 'invert', 'posterize', 'solarize', 'solarize_add')
    changed = operate(name, image, sign * magnitude / 10, operations='big_vision').astype(int)
    difference = np.abs(changed - expected(name, image, magnitude))
    # Fractions are cut off, of a float that may lie on either side of an integer.
    assert difference.max() <= (0 if exact else 1)


@pytest.mark.parametrize('name', OPERATION_SETS['big_vision'].transforms)
@pytest.mark.parametrize('level', [-1.53, -0.21, 0.37, 1.49])
def test_transforms_show_the_nearest_pixel(name, level):
    """Its projective transforms map (x, y) of the result to the image."""
    image = random_bytes((120, 90, 3), low=38)
    y, x = np.indices(image.shape[:2]).astype(np.float64)
    middle_y, middle_x, angle = 59.5, 44.5, np.deg2rad(30 * level)
    cosine, sine = np.cos(angle), np.sin(angle)
    rows, columns = {
        'rotate': (
            middle_y + cosine * (y - middle_y) - sine * (x - middle_x),
            middle_x + sine * (y - middle_y) + cosine * (x - middle_x),
        ),
        'shear_x': (y, x + 0.3 * level * y),
        'shear_y': (0.3 * level * x + y, x),
        'translate_x': (y, x + 100 * level),
        'translate_y': (y + 100 * level, x),
    }[name]
    rows, columns = np.floor(rows + 0.5).astype(int), np.floor(columns + 0.5).astype(int)
    inside = (rows >= 0) & (rows < 120) & (columns >= 0) & (columns < 90)
    shown = np.where(inside[..., None], image[rows.clip(0, 119), columns.clip(0, 89)], FILL)
    changed = operate(name, image, level, operations='big_vision')
    assert (changed != shown).any(axis=-1).mean() < 0.002  # rounding of a place between two


@pytest.mark.parametrize('point', [(0.5, 0.25), (0.0, 0.0), (0.99, 0.6)])
@pytest.mark.parametrize('level', [-0.53, 0.0, 1.5])
def test_cutout_fills_a_square_around_a_point(point, level):
    image = random_bytes((150, 120, 3), low=38)
    half, row, column = int(40 * abs(level)), int(point[0] * 150), int(point[1] * 120)
    cut = image.copy()
    cut[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = FILL
    np.testing.assert_array_equal(
        operate('cutout', image, level, point, operations='big_vision'), cut
    )
