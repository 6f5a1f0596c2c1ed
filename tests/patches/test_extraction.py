"""Extraction and the low-pass against NumPy."""

import chex
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

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
    if patches.padding == 'VALID':
        pads = ((0, 0), (0, 0))
    elif patches.padding == 'SAME':
        pads = []
        for axis in (0, 1):
            length, stride = images.shape[1 + axis], patches.stride[axis]
            window = (patches.size[axis] - 1) * patches.dilation[axis] + 1
            total = max((int(np.ceil(length / stride)) - 1) * stride + window - length, 0)
            pads.append((total // 2, total - total // 2))
    else:
        pads = patches.padding
    for axis, (low, high) in enumerate(pads, start=1):
        offset = patches.offset[axis - 1]  # patches move down where their image is moved up
        low, high = low - offset, high + offset
        widths = [(0, 0)] * 4
        widths[axis] = (max(low, 0), max(high, 0))
        images = np.pad(images, widths)
        kept = slice(max(-low, 0), max(images.shape[axis] - max(-high, 0), 0))
        images = images[(slice(None),) * axis + (kept,)]
    height, width = images.shape[1:3]
    (size_h, size_w), (dilation_h, dilation_w) = patches.size, patches.dilation
    tokens = []
    for top in range(0, height - (size_h - 1) * dilation_h, patches.stride[0]):
        for left in range(0, width - (size_w - 1) * dilation_w, patches.stride[1]):
            rows = top + np.arange(size_h) * dilation_h
            columns = left + np.arange(size_w) * dilation_w
            patch = images[:, rows[:, None], columns[None, :], :]
            tokens.append(patch.transpose(0, 3, 1, 2).reshape(len(images), -1))
    return np.stack(tokens, axis=1)


@settings(max_examples=15)
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
        widths = [(0, 0)] * 4
        widths[axis] = (d - 1, d - 1)
        padded = np.pad(smooth, widths, mode='edge')
        smooth = np.apply_along_axis(np.convolve, axis, padded, triangle, mode='valid')
    np.testing.assert_allclose(antialias(images, dilation), smooth, atol=1e-6)
    if dilation == (1, 1):
        np.testing.assert_array_equal(antialias(images, dilation), images)


def test_low_pass_keeps_a_constant_and_removes_what_would_alias():
    constant = np.full((1, 6, 7, 1), -0.7, np.float32)
    np.testing.assert_allclose(antialias(constant, (4, 5)), constant, rtol=1e-6)
    stripes = np.tile([1.0, -1.0], 4).reshape(1, 1, 8, 1)  # sampled 2 apart it is constant
    interior = np.asarray(antialias(stripes.astype(np.float32), (1, 2)))[0, 0, 1:-1, 0]
    np.testing.assert_allclose(interior, 0, atol=1e-7)
