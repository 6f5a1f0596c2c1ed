"""Random crops: where the boxes are, and what of the image they show."""

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

draw = jax.jit(draw_boxes, static_argnums=1)


@pytest.mark.parametrize('smallest', [0.08, 0.6])
def test_boxes_have_uniform_areas_aspects_and_places(smallest):
    count = 4000
    boxes = np.asarray(draw(jax.random.key(0), count, smallest))
    starts, lengths = boxes[..., 0], boxes[..., 1]
    assert starts.min() >= 0 and (starts + lengths).max() <= 1 + 1e-6
    area, aspect = lengths.prod(axis=1), lengths[:, 1] / lengths[:, 0]
    assert area.min() >= smallest - 1e-6
    assert aspect.min() >= 3 / 4 - 1e-6 and aspect.max() <= 4 / 3 + 1e-6
    rng = np.random.default_rng(0)
    drawn_area = rng.uniform(smallest, 1, 200_000)
    drawn_aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 200_000))
    fits = (drawn_area * drawn_aspect <= 1) & (drawn_area / drawn_aspect <= 1)
    at = (np.arange(count) + 0.5) / count
    for values, expected in ((area, drawn_area[fits]), (aspect, drawn_aspect[fits])):
        np.testing.assert_allclose(np.sort(values), np.quantile(expected, at), atol=0.04)
    places = starts / (1 - lengths + 1e-9)
    np.testing.assert_allclose(np.sort(places, axis=0), np.stack([at, at], axis=1), atol=0.04)


def test_a_box_that_never_fits_is_the_whole_image():
    boxes = np.asarray(draw(jax.random.key(0), 4000, 0.99999))
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
compiled = jax.jit(crop_and_resize)


@settings(max_examples=40)
@given(boxes=st.lists(st.tuples(sides, sides), min_size=4, max_size=4), seed=st.integers(0, 2**32))
def test_a_crop_shows_its_box_bilinearly(boxes, seed):
    images = random_bytes((4, 9, 7, 2), seed)
    crops = compiled(images, jnp.array(boxes, jnp.float32))
    assert crops.dtype == np.uint8
    for image, box, pixels in zip(images, boxes, crops, strict=True):
        np.testing.assert_allclose(pixels, crop(image.astype(np.float64), box), atol=0.52)


def test_each_image_of_a_batch_has_a_box_of_its_own():
    image = random_bytes((1, 9, 7, 1))
    crops = jax.jit(random_resized_crop)(jax.random.key(0), np.repeat(image, 16, axis=0), 0.2)
    assert len(np.unique(np.asarray(crops).reshape(16, -1), axis=0)) == 16
