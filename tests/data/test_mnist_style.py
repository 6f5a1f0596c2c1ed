"""Images of a digit in the style of MNIST's, whatever they were before."""

import tracemalloc

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from mixer_dilated.data.mnist_style import _bounding_box, to_mnist_style
from tests.tfds_files import open_set

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
STROKES = arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@given(arrays(np.uint8, SIZES), SIZES)
def test_any_image_comes_to_it(grey, size):
    styled = to_mnist_style(grey, size)
    assert styled.shape == size and styled.dtype == np.uint8
    np.testing.assert_array_equal(to_mnist_style(np.full_like(grey, 200), size), 0)


@given(STROKES, st.integers(0, 127), *[st.integers(1, 9)] * 4)
def test_it_does_not_depend_on_place_or_inversion(digit, paper, top, left, bottom, right):
    digit = np.maximum(digit, np.uint8(paper))
    padded = np.pad(digit, ((top, bottom), (left, right)), constant_values=paper)
    expected = to_mnist_style(np.pad(digit, 1, constant_values=paper), (28, 28))
    np.testing.assert_array_equal(to_mnist_style(padded, (28, 28)), expected)
    np.testing.assert_array_equal(to_mnist_style(255 - padded, (28, 28)), expected)


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_digit_fits_20_pixels_and_its_centre_of_mass_is_at_the_centre(height, width):
    """A wedge, whose mass is not in its middle."""
    digit = np.linspace(40, 255, height * width).reshape(height, width).astype(np.uint8)
    styled = to_mnist_style(np.pad(digit, 5), (28, 28))
    rows, columns = np.nonzero(styled)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20 and styled.max() == 255
    centre = np.indices((28, 28)).reshape(2, -1) @ (styled / styled.sum()).ravel()
    assert np.abs(centre - 14).max() <= 0.5 + 1e-9
    filled = to_mnist_style(np.pad(digit, 5), (28, 28), fill=True)
    assert max(np.ptp(axis) for axis in np.nonzero(filled)) + 1 == 28


def test_specks_and_noise_do_not_count_for_the_size():
    rng = np.random.default_rng(0)
    paper = np.zeros((90, 120))
    paper[30:60, 40:60] = 200
    paper[5, 7] = 120  # a speck in the corner
    noisy = np.clip(paper + 30 + rng.normal(0, 5, paper.shape), 0, 255).astype(np.uint8)
    rows, columns = np.nonzero(to_mnist_style(noisy, (28, 28)) > 128)
    assert 19 <= np.ptp(rows) + 1 <= 20 and 12 <= np.ptp(columns) + 1 <= 14  # 30 and 20 pixels


def test_images_of_mnist_pass_nearly_unchanged(mnist):
    images = open_set(mnist, 'mnist').read('test[:300]').images[..., 0]
    styled = np.array([to_mnist_style(image, (28, 28)) for image in images])
    changed = np.abs(styled.astype(int) - images).mean(axis=(1, 2))
    assert changed.mean() < 0.5 and np.median(changed) == 0


def test_millions_of_specks_take_no_more_memory_than_the_image_a_few_times():
    dots = np.zeros((1024, 1024), np.uint8)
    dots[100:900:2, 200:1000:2] = 255
    tracemalloc.start()
    try:
        styled = to_mnist_style(dots, (28, 28))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # None of them counts, so that all do: the field of dots fills the box.
    assert styled[4:24, 4:24].min() > 200 and styled.sum() == styled[4:24, 4:24].sum()
    assert peak < 30 * dots.size


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_the_box_is_that_of_all_parts_with_a_fiftieth_of_the_ink(ink):
    parts, count = ndimage.label(ink > 16, np.ones((3, 3)))
    masses = ndimage.sum(ink, parts, np.arange(1, count + 1))
    counted = 1 + np.flatnonzero(masses >= 0.02 * masses.sum())
    rows, columns = np.nonzero(np.isin(parts, counted))
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in (rows, columns)) if count else None
    assert _bounding_box(ink, 0.0) == box
