"""Corruptions against NumPy; severity 0 changes nothing."""

import jax
import numpy as np
import pytest

from mixer_dilated.data.corruption import CORRUPTIONS, contrast, noise, occlusion, shift
from tests.conftest import random_bytes

KEY = jax.random.key(3)
IMAGES = random_bytes((40, 9, 11, 2), low=1)


@pytest.mark.parametrize('corruption', CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_severity_zero_changes_nothing_and_a_key_gives_the_same_images(corruption):
    severities = [*corruption.severities]
    assert severities[0] == 0 and severities == sorted(severities) and corruption.unit
    apply = jax.jit(corruption.apply)
    assert np.array_equal(apply(KEY, IMAGES, 0), IMAGES)
    most, again = (apply(KEY, IMAGES, severities[-1]) for _ in range(2))
    assert most.dtype == np.uint8 and most.shape == IMAGES.shape
    assert np.array_equal(most, again) and not np.array_equal(most, IMAGES)


def test_a_shift_moves_by_exactly_its_pixels_in_one_of_eight_directions():
    moved, seen = np.asarray(shift(KEY, IMAGES, 2)), []
    places = [(down, right) for down in (0, 2, 4) for right in (0, 2, 4)]
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for image, whole in zip(moved, padded, strict=True):
        seen += [(y, x) for y, x in places if np.array_equal(whole[y : y + 9, x : x + 11], image)]
    assert len(seen) == 40 and {*seen} == {*places} - {(2, 2)}


def test_noise_has_its_standard_deviation():
    grey = np.full((20, 30, 30, 1), 128, np.uint8)
    difference = np.asarray(noise(KEY, grey, 0.1)).astype(float) - 128
    np.testing.assert_allclose([difference.mean(), difference.std()], [0, 25.5], atol=0.5)
    assert np.asarray(noise(KEY, grey, 2.0)).min() == 0


def test_occlusion_is_one_square_of_its_side():
    hidden, places = (np.asarray(occlusion(KEY, IMAGES, 4)) == 0).all(-1), set()
    for mask in hidden:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert len(rows) == len(columns) == 4 and mask.sum() == 16
        places.add((rows[0], columns[0]))
    assert len(places) > 10
    assert (np.asarray(occlusion(KEY, IMAGES, 99)) == 0).all()


def test_contrast_draws_towards_the_mean_of_image_and_channel():
    expected = IMAGES + 0.75 * (IMAGES.mean(axis=(1, 2), keepdims=True) - IMAGES)
    assert np.abs(np.asarray(contrast(KEY, IMAGES, 0.75)) - expected).max() <= 0.51
