"""Patches: geometry against what it says of itself; extraction and low-pass against NumPy."""

import dataclasses

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from mixer_dilated.errors import UserError
from mixer_dilated.patches.extraction import (
    antialias,
    convolve_patches,
    extract_patches,
    gather_patches,
)
from mixer_dilated.patches.geometry import Patches, num_tokens

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
image_sizes = st.tuples(st.integers(1, 13), st.integers(1, 13))
# Half of the geometries that are drawn do not fit; those tests that need one that does filter them.
filtering = settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
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


@settings(filtering, max_examples=60)
@given(patches=geometries, size=roomy_sizes, channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_way_of_extraction_equals_a_numpy_gather(patches, size, channels, seed):
    try:
        tokens = patches.num_tokens(size)
    except UserError:
        assume(False)
    images = np.random.default_rng(seed).normal(size=(2, *size, channels)).astype(np.float32)
    expected = gather(images, patches)
    chex.assert_shape(expected, (2, tokens, channels * np.prod(patches.size)))
    for way in (extract_patches, convolve_patches, gather_patches):
        np.testing.assert_array_equal(way(images, patches), expected)


@settings(filtering, max_examples=200)
@given(patches=geometries, size=roomy_sizes)
def test_pixel_indices_and_coverage_say_what_is_gathered(patches, size):
    try:
        indices = patches.pixel_indices(size)
    except UserError:
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
    except UserError:
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


@settings(filtering, max_examples=200)
@given(patches=geometries, size=roomy_sizes, down=st.integers(-3, 3), right=st.integers(-3, 3))
def test_offset_moves_every_sample_and_leaves_the_grid(patches, size, down, right):
    offset = (patches.offset[0] + down, patches.offset[1] + right)
    moved = dataclasses.replace(patches, offset=offset)
    try:
        indices, moved_indices = patches.pixel_indices(size), moved.pixel_indices(size)
    except UserError:
        assume(False)
    np.testing.assert_array_equal(moved_indices, indices + (down, right))
    assert moved.grid(size) == patches.grid(size) and moved.window == patches.window


def test_an_offset_is_told_only_where_there_is_one():
    assert 'offset' not in str(Patches(size=4))
    assert 'offset (0, 1)' in str(Patches(size=4, offset=(0, 1)))


@settings(max_examples=100, deadline=None)
@given(patches=geometries, data=st.data())
def test_phases_are_spread_evenly_over_the_dilation(patches, data):
    number = tuple(data.draw(st.integers(1, dilation)) for dilation in patches.dilation)
    phases = patches.phases(number)
    expected = [
        (patches.offset[0] + int(np.floor(i * patches.dilation[0] / number[0])),
         patches.offset[1] + int(np.floor(j * patches.dilation[1] / number[1])))
        for i in range(number[0])
        for j in range(number[1])
    ]  # fmt: skip
    assert [phase.offset for phase in phases] == expected
    assert len(set(expected)) == len(expected) and phases[0] == patches
    for phase in phases:
        assert dataclasses.replace(phase, offset=patches.offset) == patches


@pytest.mark.parametrize('dilation', [2, 3])
def test_as_many_phases_as_the_dilation_see_every_pixel_of_a_window(dilation):
    patches = Patches(size=4, dilation=dilation, stride=7)
    phases = patches.phases(dilation)
    room = dilation - 1  # the last phase reaches so far beyond the last window
    solid = Patches(size=4 * dilation, stride=7, padding=((0, room), (0, room)))
    size = (28, 28)
    assert num_tokens(phases, 'channels', size) == solid.num_tokens(size)
    assert num_tokens(phases, 'tokens', size) == dilation**2 * solid.num_tokens(size)
    pixels = np.concatenate([phase.pixel_indices(size) for phase in phases], axis=1)
    for token, solid_token in zip(pixels, solid.pixel_indices(size), strict=True):
        assert sorted(map(tuple, token)) == sorted(map(tuple, solid_token))


@pytest.mark.parametrize('number', [0, 3, (2, 3), (1, 0), 1.5, 'all', True])
def test_more_phases_than_the_dilation_are_refused(number):
    with pytest.raises(UserError) as refusal:
        Patches(size=4, dilation=2).phases(number)
    message = str(refusal.value)
    assert f'phases = {number!r}' in message and 'allowed is' in message and '\n' not in message


def test_phases_without_end_are_refused():
    with pytest.raises(UserError, match=r'phases = 1000000: .* at most 1024'):
        Patches(size=4, dilation=10**6).phases(10**6)
    assert len(Patches(size=4, dilation=32).phases(32)) == 1024


def triangle(dilation):
    """1, 2, … d … 2, 1 over d², written out."""
    return np.array([*range(1, dilation + 1), *range(dilation - 1, 0, -1)]) / dilation**2


@pytest.mark.parametrize('dilation', [(1, 1), (2, 2), (3, 1), (4, 5)])
def test_low_pass_is_a_convolution_with_a_triangle_along_each_axis(dilation):
    images = np.random.default_rng(0).normal(size=(2, 6, 7, 3)).astype(np.float32)
    smooth = images.astype(np.float64)
    for axis, d in enumerate(dilation, start=1):
        widths = [(0, 0)] * 4
        widths[axis] = (d - 1, d - 1)
        smooth = np.apply_along_axis(
            np.convolve, axis, np.pad(smooth, widths, mode='edge'), triangle(d), mode='valid'
        )
    chex.assert_shape(antialias(images, dilation), images.shape)
    np.testing.assert_allclose(antialias(images, dilation), smooth, atol=1e-6)
    constant = np.full((1, 6, 7, 1), -0.7, np.float32)
    np.testing.assert_allclose(antialias(constant, dilation), constant, rtol=1e-6)


def test_low_pass_of_dilation_2_is_binomial_and_removes_what_would_alias():
    np.testing.assert_allclose(triangle(2), [1 / 4, 2 / 4, 1 / 4])
    stripes = np.tile([1.0, -1.0], 4).reshape(1, 1, 8, 1)  # sampled 2 apart it is constant
    interior = np.asarray(antialias(stripes.astype(np.float32), (1, 2)))[0, 0, 1:-1, 0]
    np.testing.assert_allclose(interior, 0, atol=1e-7)


def test_low_pass_of_dilation_1_changes_no_bit():
    images = np.random.default_rng(1).normal(size=(1, 5, 5, 1)).astype(np.float32)
    np.testing.assert_array_equal(antialias(images, (1, 1)), images)


@settings(filtering, max_examples=15)
@example(patches=Patches(2, offset=(0, 1)), channels=2)
@example(patches=Patches(2, offset=(1, 0)), channels=2)
@given(patches=geometries, channels=st.integers(1, 2))
def test_dense_of_extracted_patches_equals_a_dilated_convolution(patches, channels):
    size = (11, 12)
    try:
        tokens = patches.num_tokens(size)
    except UserError:
        assume(False)
    key = jax.random.key(0)
    images = jax.random.normal(key, (2, *size, channels))
    conv = nn.Conv(
        5, patches.size, strides=patches.stride, padding='VALID',
        kernel_dilation=patches.dilation, precision='highest',
    )  # fmt: skip
    pads = [(low, high, 0) for low, high in patches.pads(size)]
    padded = jax.lax.pad(images, 0.0, [(0, 0, 0), *pads, (0, 0, 0)])
    expected, variables = conv.init_with_output(key, padded)
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
        ({'size': 4, 'offset': 0.5}, 'patches.offset = 0.5'),
        ({'size': 4, 'offset': (1, 2, 3)}, 'patches.offset = (1, 2, 3)'),
        ({'size': 4, 'offset': 2**31}, 'patches.offset = 2147483648'),
        ({'size': 4, 'padding': 'FULL'}, "patches.padding = 'FULL'"),
        ({'size': 4, 'padding': (1, 1)}, 'patches.padding = (1, 1)'),
        ({'size': 4, 'padding': ((0, 1), (0, 0.5))}, 'patches.padding = ((0, 1), (0, 0.5))'),
    ],
)
def test_impossible_geometry_is_refused_by_name_and_value(arguments, words):
    with pytest.raises(UserError) as refusal:
        Patches(**arguments)
    assert words in str(refusal.value)
    assert 'allowed is' in str(refusal.value)


def test_a_window_larger_than_the_image_is_refused_with_both_lengths():
    with pytest.raises(UserError, match=r'window of 31 pixels does not fit .* width 28'):
        Patches(size=(1, 4), dilation=10, stride=1).grid((28, 28))


def test_branches_of_different_grids_cannot_share_tokens():
    branches = (Patches(size=4, stride=4), Patches(size=4, dilation=2, stride=7))
    assert num_tokens(branches, 'tokens', (28, 28)) == 49 + 16
    with pytest.raises(UserError, match=r'7×7 .*4×4 .*one grid'):
        num_tokens(branches, 'channels', (28, 28))
