"""Patches: geometry against what it says of itself, extraction against a NumPy gather."""

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mixer_dilated.errors import InputError
from mixer_dilated.patches.extraction import extract_patches
from mixer_dilated.patches.geometry import Patches, num_tokens

pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
pad = st.tuples(st.integers(-2, 4), st.integers(-2, 4))
geometries = st.builds(
    Patches,
    size=pair,
    dilation=pair,
    stride=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    padding=st.one_of(st.sampled_from(['VALID', 'SAME']), st.tuples(pad, pad)),
)
image_sizes = st.tuples(st.integers(1, 13), st.integers(1, 13))


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
        widths = [(0, 0)] * 4
        widths[axis] = (max(low, 0), max(high, 0))
        images = np.pad(images, widths)
        kept = slice(max(-low, 0), images.shape[axis] - max(-high, 0))
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


@settings(max_examples=60, deadline=None)
@given(patches=geometries, size=image_sizes, channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_extraction_equals_a_numpy_gather(patches, size, channels, seed):
    try:
        tokens = patches.num_tokens(size)
    except InputError:
        assume(False)
    images = np.random.default_rng(seed).normal(size=(2, *size, channels)).astype(np.float32)
    extracted = extract_patches(images, patches)
    chex.assert_shape(extracted, (2, tokens, channels * np.prod(patches.size)))
    np.testing.assert_array_equal(extracted, gather(images, patches))


@settings(max_examples=200, deadline=None)
@given(patches=geometries, size=image_sizes)
def test_pixel_indices_and_coverage_say_what_is_gathered(patches, size):
    try:
        indices = patches.pixel_indices(size)
    except InputError:
        assume(False)
    height, width = size
    numbered = 1 + np.arange(height * width).reshape(1, height, width, 1)
    gathered = gather(numbered, patches)[0]
    rows, columns = indices[..., 0], indices[..., 1]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    np.testing.assert_array_equal(np.where(inside, 1 + rows * width + columns, 0), gathered)
    counts = np.bincount(gathered.ravel(), minlength=height * width + 1)[1:]
    np.testing.assert_array_equal(patches.coverage(size), counts.reshape(size))
    assert patches.num_tokens(size) == len(gathered) == np.prod(patches.grid(size))


@settings(max_examples=200, deadline=None)
@given(patches=geometries, size=image_sizes)
def test_geometry_is_refused_only_if_a_token_would_see_no_pixel(patches, size):
    try:
        patches.grid(size)
        refused = False
    except InputError:
        refused = True
    try:
        seen = gather(np.ones((1, *size, 1)), patches)
    except ValueError:  # nothing to stack: not one window fits
        assert refused
        return
    assert refused == bool((seen.sum(axis=2) == 0).any())


def test_features_are_channel_major_then_rows_then_columns():
    images = np.arange(2 * 5 * 5).reshape(1, 5, 5, 2).astype(np.float32)
    patches = Patches(size=(2, 3), dilation=(3, 2), stride=1)
    token = np.asarray(extract_patches(images, patches))[0, 1]  # the window one row down
    expected = [images[0, 1 + 3 * i, 2 * j, c] for c in (0, 1) for i in (0, 1) for j in (0, 1, 2)]
    np.testing.assert_array_equal(token, expected)


@pytest.mark.parametrize(
    ('patches', 'window', 'grid', 'seen'),
    [
        (Patches(size=4, stride=4), (4, 4), (7, 7), 784),
        (Patches(size=4, dilation=2, stride=7), (7, 7), (4, 4), 256),
        (Patches(size=7, stride=7), (7, 7), (4, 4), 784),
        (Patches(size=8, stride=7, padding='SAME'), (8, 8), (4, 4), 784),
    ],
)
def test_geometry_of_the_papers_experiment(patches, window, grid, seen):
    assert patches.window == window
    assert patches.grid((28, 28)) == grid
    assert (patches.coverage((28, 28)) > 0).sum() == seen


def test_four_phases_of_a_dilated_patch_are_the_pixels_of_a_solid_one():
    phases = [
        Patches(size=4, dilation=2, stride=7, padding=((-i, 1 + i), (-j, 1 + j)))
        for i in (0, 1)
        for j in (0, 1)
    ]
    solid = Patches(size=8, stride=7, padding=((0, 1), (0, 1)))
    assert num_tokens(tuple(phases), 'channels', (28, 28)) == solid.num_tokens((28, 28)) == 16
    pixels = np.concatenate([phase.pixel_indices((28, 28)) for phase in phases], axis=1)
    for token, solid_token in zip(pixels, solid.pixel_indices((28, 28)), strict=True):
        assert sorted(map(tuple, token)) == sorted(map(tuple, solid_token))


@settings(max_examples=15, deadline=None)
@given(patches=geometries, channels=st.integers(1, 2))
def test_dense_of_extracted_patches_equals_a_dilated_convolution(patches, channels):
    size = (11, 12)
    try:
        tokens = patches.num_tokens(size)
    except InputError:
        assume(False)
    key = jax.random.key(0)
    images = jax.random.normal(key, (2, *size, channels))
    conv = nn.Conv(
        5, patches.size, strides=patches.stride, padding=patches.pads(size),
        kernel_dilation=patches.dilation, precision='highest',
    )  # fmt: skip
    expected, variables = conv.init_with_output(key, images)
    matrix = variables['params']['kernel'].transpose(2, 0, 1, 3).reshape(-1, 5)
    chex.assert_trees_all_close(
        extract_patches(images, patches) @ matrix, expected.reshape(2, tokens, 5), atol=1e-5
    )


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'size': 0}, 'patches.size = 0'),
        ({'size': (4, -1)}, 'patches.size = (4, -1)'),
        ({'size': 2.5}, 'patches.size = 2.5'),
        ({'size': True}, 'patches.size = True'),
        ({'size': (1, 2, 3)}, 'patches.size = (1, 2, 3)'),
        ({'size': 4, 'dilation': 0}, 'patches.dilation = 0'),
        ({'size': 4, 'stride': 'x'}, "patches.stride = 'x'"),
        ({'size': 4, 'padding': 'FULL'}, "patches.padding = 'FULL'"),
        ({'size': 4, 'padding': (1, 1)}, 'patches.padding = (1, 1)'),
        ({'size': 4, 'padding': ((0, 1), (0, 0.5))}, 'patches.padding = ((0, 1), (0, 0.5))'),
    ],
)
def test_impossible_geometry_is_refused_by_name_and_value(arguments, words):
    with pytest.raises(InputError) as refusal:
        Patches(**arguments)
    assert words in str(refusal.value)
    assert 'allowed is' in str(refusal.value)


def test_a_window_larger_than_the_image_is_refused_with_both_lengths():
    with pytest.raises(InputError, match=r'window of 31 pixels does not fit .* width 28'):
        Patches(size=(1, 4), dilation=10, stride=1).grid((28, 28))


def test_branches_of_different_grids_cannot_share_tokens():
    branches = (Patches(size=4, stride=4), Patches(size=4, dilation=2, stride=7))
    assert num_tokens(branches, 'tokens', (28, 28)) == 49 + 16
    with pytest.raises(InputError, match=r'7×7 .*4×4 .*one grid'):
        num_tokens(branches, 'channels', (28, 28))
