"""Random resized crops: their boxes, and what they show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from mixer_dilated.data.augmentation import draw_boxes, random_resized_crop
from mixer_dilated.data.stored_images import crop_and_resize
from tests.conftest import random_bytes
from tests.data.test_augmentation import KEY, check_distribution


@pytest.mark.parametrize(('smallest', 'ratio'), [(0.08, 1), (0.6, 1), (0.05, 0.4), (0.05, 3)])
def test_boxes_have_uniform_areas_and_places_and_their_proportions_on_the_image(smallest, ratio):
    boxes = np.asarray(draw_boxes(KEY, 4000, smallest, np.full((4000, 1), ratio)))
    boxes = boxes[(boxes[..., 1] < 1).any(axis=1)]  # else none of ten fitted
    assert len(boxes) > 3800
    starts, lengths = boxes[..., 0], boxes[..., 1]
    assert starts.min() >= 0 and (starts + lengths).max() <= 1 + 1e-6
    area, aspect = lengths.prod(axis=1), ratio * lengths[:, 1] / lengths[:, 0]
    rng = np.random.default_rng(0)
    drawn_area = rng.uniform(smallest, 1, 400_000)
    drawn_aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 400_000))
    relative = drawn_aspect / ratio
    fits = (drawn_area * relative <= 1) & (drawn_area / relative <= 1)
    for values, drawn in ((area, drawn_area[fits]), (aspect, drawn_aspect[fits])):
        assert drawn.min() - 1e-3 <= values.min() and values.max() <= drawn.max() + 1e-3
        check_distribution(values, drawn)
    for places in (starts / (1 - lengths + 1e-9)).T:
        check_distribution(places, [0, 1])


def test_a_box_that_never_fits_is_the_whole_image():
    boxes = np.asarray(draw_boxes(KEY, 4000, 0.99999))
    assert (boxes == [[0, 1], [0, 1]]).all(axis=(1, 2)).mean() > 0.99


def crop(image, box):
    """By the definition: pixel i of n is at start + (i + 1/2) · length / n of the side."""
    sides = np.array(image.shape[:2])
    (top, height), (left, width) = box
    places = (np.indices(sides) + 0.5) * np.reshape([height, width], (2, 1, 1))
    places += (np.array([top, left]) * sides - 0.5)[:, None, None]
    channels = np.moveaxis(image, -1, 0)
    moved = [map_coordinates(c, places, order=1, mode='nearest') for c in channels]
    return np.stack(moved, axis=-1)


share = st.floats(0.01, 1)
sides = st.tuples(share, st.floats(0, 1)).map(lambda drawn: (drawn[1] * (1 - drawn[0]), drawn[0]))
compiled = jax.jit(crop_and_resize, static_argnames='size')


@settings(max_examples=40)
@given(boxes=st.lists(st.tuples(sides, sides), min_size=4, max_size=4), seed=st.integers(0, 2**32))
def test_a_crop_shows_its_box_bilinearly(boxes, seed):
    images = random_bytes((4, 9, 7, 2), seed)
    crops = compiled(images, jnp.array(boxes, jnp.float32), size=(9, 7))
    assert crops.dtype == np.uint8
    for image, box, pixels in zip(images, boxes, crops, strict=True):
        np.testing.assert_allclose(pixels, crop(image.astype(np.float64), box), atol=0.52)


def test_each_image_of_a_batch_has_a_box_of_its_own():
    image = random_bytes((1, 9, 7, 1))
    crops = random_resized_crop(KEY, np.repeat(image, 16, axis=0), 0.2, (9, 7))
    assert len(np.unique(np.asarray(crops).reshape(16, -1), axis=0)) == 16
