"""Stem kernels on other patches and token mixing on other grids, against NumPy and JAX."""

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_dilated.patches.geometry import Patches
from mixer_dilated.pretrained.resampling import (
    interpolate_token_mixing,
    resample_stem_kernel,
    tile_token_mixing,
)
from tests.conftest import refuses
from tests.models.test_mixer import tanh_gelu

GREY = (28, 28, 1)


# Token mixing on another grid


def random_mixing(rng, tokens, width=5):
    shapes = {
        'Dense_0/kernel': (tokens, width),
        'Dense_0/bias': (width,),
        'Dense_1/kernel': (width, tokens),
        'Dense_1/bias': (tokens,),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def mix(mixing, x):
    """The token mixing MLP, x (tokens, channels), in float64 NumPy."""
    mixing = {name: array.astype(np.float64) for name, array in mixing.items()}
    hidden = tanh_gelu(mixing['Dense_0/kernel'].T @ x + mixing['Dense_0/bias'][:, None])
    return mixing['Dense_1/kernel'].T @ hidden + mixing['Dense_1/bias'][:, None]


@pytest.mark.parametrize('resample', [interpolate_token_mixing, tile_token_mixing])
def test_the_same_grid_is_the_same_mixing(resample):
    mixing = random_mixing(np.random.default_rng(0), 12)
    chex.assert_trees_all_equal(resample(mixing, ((3, 4),), ((3, 4),)), mixing)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=10)
def test_mixing_on_another_grid_is_resize_mix_resize(rows, columns, seed):
    """By JAX's own resizing of the features, with the mixing in between."""
    rng = np.random.default_rng(seed)
    mixing, x = random_mixing(rng, 12), rng.normal(size=(rows, columns, 2))
    resampled = interpolate_token_mixing(mixing, ((3, 4),), ((rows, columns),))
    small = jax.image.resize(x, (3, 4, 2), 'linear', antialias=True)
    mixed = mix(mixing, np.asarray(small, np.float64).reshape(12, 2)).reshape(3, 4, 2)
    expected = np.asarray(jax.image.resize(mixed, x.shape, 'linear', antialias=True))
    tokens = rows * columns
    np.testing.assert_allclose(
        mix(resampled, x.reshape(tokens, 2)), expected.reshape(tokens, 2), atol=1e-4
    )


def test_tiled_mixing_mixes_every_tile_as_before():
    rng = np.random.default_rng(2)
    mixing, x = random_mixing(rng, 6), rng.normal(size=(4, 9, 3))
    tiled = mix(tile_token_mixing(mixing, ((2, 3),), ((4, 9),)), x.reshape(36, 3))
    tiled = tiled.reshape(4, 9, 3)
    for row in (0, 2):
        for column in (0, 3, 6):
            tile = np.s_[row : row + 2, column : column + 3]
            expected = mix(mixing, x[tile].reshape(6, 3))
            np.testing.assert_allclose(tiled[tile].reshape(6, 3), expected, atol=1e-5)
    with refuses('3×3', '2×3'):
        tile_token_mixing(mixing, ((2, 3),), ((3, 3),))


def test_each_grid_of_branches_that_add_tokens_is_interpolated_from_its_own():
    rng = np.random.default_rng(1)
    mixing = random_mixing(rng, 4 * 4 + 3 * 3)
    resampled = interpolate_token_mixing(mixing, ((4, 4), (3, 3)), ((6, 6), (3, 3)))
    even = np.concatenate([np.full((36, 1), 2.0), rng.normal(size=(9, 1))])
    before = np.concatenate([np.full((16, 1), 2.0), even[36:]])
    after, expected = mix(resampled, even), mix(mixing, before)
    np.testing.assert_allclose(after[36:], expected[16:], atol=1e-4)
    # Linear interpolation keeps the corners' cells nearest to the old corners'.
    large, small = after[:36].reshape(6, 6), expected[:16].reshape(4, 4)
    np.testing.assert_allclose(large[0, 0], small[0, 0], atol=1e-4)
    with refuses('3', '2'):  # branches
        interpolate_token_mixing(mixing, ((4, 4), (3, 3)), ((2, 2),) * 3)


# Stem kernels of other patches


def random_kernel(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def embed(images, kernels, branches):
    """Σ of kernel · samples at the pixels of the geometry, NumPy."""
    total = 0
    for kernel, patches in zip(kernels, branches, strict=True):
        index = patches.pixel_indices(images.shape[:2])
        inside = ((index >= 0) & (index < images.shape[0])).all(axis=-1, keepdims=True)
        rows, columns = np.moveaxis(index.clip(0, images.shape[0] - 1), -1, 0)
        samples = np.where(inside, images[rows, columns], 0)
        total = total + np.einsum('tpc,pcd->td', samples, kernel.reshape(-1, *kernel.shape[2:]))
    return total


@pytest.mark.parametrize('method', ['sample', 'resize'])
@pytest.mark.parametrize('dilation', [1, 3])
def test_a_kernel_of_as_many_pixels_stays_as_it_is(method, dilation):
    kernel = random_kernel(4, 5, 3, 2)
    branches = (Patches(size=(4, 5), dilation=dilation, stride=9),)
    (resampled,) = resample_stem_kernel(kernel, branches, (28, 28, 3), method, add_up=True)
    np.testing.assert_array_equal(resampled, kernel)
    # A pixel that several branches sample counts once; grey images take the sum of colours.
    halves = resample_stem_kernel(kernel, branches * 2, (28, 28, 3), method, add_up=True)
    np.testing.assert_allclose(halves, np.stack([kernel / 2] * 2), atol=1e-6)
    (grey,) = resample_stem_kernel(kernel, branches, GREY, method, add_up=True)
    np.testing.assert_allclose(grey, kernel.sum(axis=2, keepdims=True), rtol=1e-6)


def test_sampling_takes_the_values_at_the_dilated_pixels():
    """7×7 to 4×4 pixels 2 apart: every second value, for the part of 7 that is nearest to it."""
    kernel = random_kernel(7, 7, 1, 2)
    (resampled,) = resample_stem_kernel(kernel, (Patches(4, 2, 7),), GREY, 'sample', add_up=True)
    parts = np.array([1.5, 2, 2, 1.5])
    expected = kernel[::2, ::2] * np.outer(parts, parts)[..., None, None]
    np.testing.assert_allclose(resampled, expected, rtol=1e-6)


def test_all_phases_together_have_the_kernel_they_came_from():
    """Side by side they see every pixel of the window once."""
    kernel, branches = random_kernel(8, 8, 1, 2), Patches(4, 2, 8).phases(2)
    resampled = resample_stem_kernel(kernel, branches, (16, 16, 1), 'sample', add_up=True)
    images = np.random.default_rng(1).normal(size=(16, 16, 1))
    expected = embed(images, [kernel], [Patches(8, stride=8)])
    np.testing.assert_allclose(embed(images, resampled, branches), expected, atol=1e-5)


def test_resizing_is_the_pseudo_inverse_of_the_resized_patch():
    kernel = random_kernel(7, 7, 1, 1)
    (resampled,) = resample_stem_kernel(kernel, (Patches(4, 2, 7),), GREY, 'resize', add_up=True)
    narrow, wide = np.linspace(0, 1, 4), np.linspace(0, 1, 7)
    matrix = np.maximum(0, 1 - np.abs(narrow[:, None] - wide) * 3)
    matrix /= matrix.sum(axis=1, keepdims=True)
    expected = np.linalg.lstsq(np.kron(matrix, matrix).T, kernel.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(resampled.reshape(-1), expected, atol=1e-5)


NEW_AND_OLD = {
    'dilated': ((Patches(4, 2, 7),), Patches(7, stride=7)),
    'all phases': (Patches(4, 2, 8).phases(2), Patches(8, stride=8)),
    'three dilations, SAME': (
        tuple(Patches(4, dilation, 4, 'SAME') for dilation in (1, 2, 3)),
        Patches(10, stride=4, padding=((3, 3), (3, 3))),
    ),
    'two from one corner': ((Patches(3, 1, 7), Patches(3, 3, 7)), Patches(7, stride=7)),
    'two of one middle': (
        (Patches(3, 1, 7, ((-2, -2), (-2, -2))), Patches(3, 3, 7)),
        Patches(7, stride=7),
    ),
}


@pytest.mark.parametrize(('method', 'tolerance'), [('sample', 0.2), ('resize', 0.005)])
@pytest.mark.parametrize('case', NEW_AND_OLD)
def test_constant_and_smooth_images_give_nearly_the_same_features(case, method, tolerance):
    """Branches of other windows see other pixels; together they give what the old patch gave.

    Sampling is as far off as a sum over few samples is of a kernel with a peak; at a kernel that
    is straight, next to nothing.
    """
    branches, plain = NEW_AND_OLD[case]
    axis = np.linspace(-1, 1, plain.size[0])
    peak = np.exp(-2 * (axis[:, None] ** 2 + axis**2))
    straight = 1.5 + axis[:, None] + 0 * axis
    kernel = np.stack([peak, straight], axis=-1)[:, :, None].astype(np.float32)
    resampled = resample_stem_kernel(kernel, branches, GREY, method, add_up=True)
    # Tokens of which no branch sees padding.
    index = np.concatenate([patches.pixel_indices((28, 28)) for patches in (*branches, plain)], 1)
    inner = ((index >= 0) & (index < 28)).all(axis=(1, 2))
    rows, columns = np.mgrid[:28, :28] / 28
    for image in (np.ones((28, 28)), np.sin(2 * rows) + np.cos(3 * columns) + 1.5):
        after = embed(image[..., None], resampled, branches)
        before = embed(image[..., None], [kernel], [plain])
        error = np.abs(after - before)[inner].max(axis=0) / np.abs(before)[inner].max(axis=0)
        assert inner.sum() >= 9 and error[0] < tolerance and error[1] < 0.01


def test_branches_of_other_strides_that_add_up_have_no_kernel():
    branches = (Patches(4, 1, 4), Patches(4, 2, 3, ((0, 2), (0, 2))))
    assert branches[0].grid((28, 28)) == (7, 7)
    kernel = np.ones((4, 4, 1, 1), np.float32)
    with refuses('strides 3, 4'):
        resample_stem_kernel(kernel, branches, GREY, 'sample', add_up=True)
    assert len(resample_stem_kernel(kernel, branches, GREY, 'sample', add_up=False)) == 2
