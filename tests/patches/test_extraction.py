"""Extraction and the low-pass against NumPy."""

import chex
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import convolve1d

from mixer_dilated.errors import UserError
from mixer_dilated.patches.extraction import (
    antialias,
    convolve_patches,
    extract_patches,
    gather_patches,
)
from mixer_dilated.patches.geometry import Patches

pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
pad = st.tuples(st.integers(-2, 4), st.integers(-2, 4))
geometries = st.builds(
    Patches,
    size=pair,
    dilation=pair,
    stride=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    padding=st.one_of(st.sampled_from(['VALID', 'SAME']), st.tuples(pad, pad)),
    offset=st.one_of(st.just(0), st.tuples(st.integers(-3, 3), st.integers(-3, 3))),
)
roomy_sizes = st.tuples(st.integers(10, 18), st.integers(10, 18))  # for most geometries


def gather(images: np.ndarray, patches: Patches) -> np.ndarray:
    """Patches by the definition: pad or crop, slide a window, take every dilation-th pixel."""
    for axis in (1, 2):
        length, i = images.shape[axis], axis - 1
        window = (patches.size[i] - 1) * patches.dilation[i] + 1
        low = high = 0
        if patches.padding == 'SAME':
            total = (int(np.ceil(length / patches.stride[i])) - 1) * patches.stride[i]
            total = max(total + window - length, 0)
            low, high = total // 2, total - total // 2
        elif patches.padding != 'VALID':
            low, high = patches.padding[i]
        # Patches move down where their image is moved up.
        low, high = low - patches.offset[i], high + patches.offset[i]
        widths = [(0, 0)] * images.ndim
        widths[axis] = (max(low, 0), max(high, 0))
        images = np.pad(images, widths)
        end = max(images.shape[axis] - max(-high, 0), 0)
        images = images.take(np.arange(min(max(-low, 0), end), end), axis)
        images = sliding_window_view(images, window, axis)
        images = images.take(np.arange(0, images.shape[axis], patches.stride[i]), axis)
        images = images[..., :: patches.dilation[i]]
    # batch, rows, columns of tokens, channels, rows, columns of pixels
    return images.reshape(len(images), images.shape[1] * images.shape[2], -1)


@settings(max_examples=8)
@given(patches=geometries, size=roomy_sizes, channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_way_of_extraction_equals_a_numpy_gather(patches, size, channels, seed):
    """Features are channel-major, then rows, then columns."""
    try:
        tokens = patches.num_tokens(size)
    except UserError:
        assume(False)
    images = np.random.default_rng(seed).normal(size=(2, *size, channels)).astype(np.float32)
    expected = gather(images, patches)
    chex.assert_shape(expected, (2, tokens, channels * np.prod(patches.size)))
    for extract in (extract_patches, convolve_patches, gather_patches):
        np.testing.assert_array_equal(extract(images, patches), expected)


@pytest.mark.parametrize('dilation', [(1, 1), (2, 2), (3, 1), (4, 5)])
def test_low_pass_is_a_convolution_with_a_triangle_along_each_axis(dilation):
    images = np.random.default_rng(0).normal(size=(2, 6, 7, 3)).astype(np.float32)
    smooth = images.astype(np.float64)
    for axis, d in enumerate(dilation, start=1):
        triangle = np.array([*range(1, d + 1), *range(d - 1, 0, -1)]) / d**2  # 1, 2, … d … 2, 1
        smooth = convolve1d(smooth, triangle, axis, mode='nearest')
    np.testing.assert_allclose(antialias(images, dilation), smooth, atol=1e-6)
    if dilation == (1, 1):
        np.testing.assert_array_equal(antialias(images, dilation), images)


def test_low_pass_keeps_a_constant_and_removes_what_would_alias():
    constant = np.full((1, 6, 7, 1), -0.7, np.float32)
    np.testing.assert_allclose(antialias(constant, (4, 5)), constant, rtol=1e-6)
    stripes = np.tile([1.0, -1.0], 4).reshape(1, 1, 8, 1)  # sampled 2 apart it is constant
    interior = np.asarray(antialias(stripes.astype(np.float32), (1, 2)))[0, 0, 1:-1, 0]
    np.testing.assert_allclose(interior, 0, atol=1e-7)
