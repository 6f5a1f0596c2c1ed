"""Stem kernels on other patches and token mixing on other grids, against NumPy and JAX."""

import math

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_dilated.patches.geometry import Patches
from mixer_dilated.pretrained.adapt import TOKEN_MIXING
from mixer_dilated.pretrained.resampling import (
    interpolate_token_mixing,
    resample_stem_kernel,
    tile_token_mixing,
)
from tests.conftest import refuses
from tests.models.test_mixer import tanh_gelu

GREY = (28, 28, 1)


def random_mixing(rng, tokens, width=5):
    shapes = (tokens, width), (width,), (width, tokens), (tokens,)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    return dict(zip(TOKEN_MIXING, arrays, strict=True))


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
    expected = jax.image.resize(mixed, x.shape, 'linear', antialias=True).reshape(-1, 2)
    np.testing.assert_allclose(mix(resampled, x.reshape(-1, 2)), expected, atol=1e-4)


def test_tiled_mixing_mixes_every_tile_as_before():
    rng = np.random.default_rng(2)
    mixing, x = random_mixing(rng, 6), rng.normal(size=(4, 9, 3))
    tiled = mix(tile_token_mixing(mixing, ((2, 3),), ((4, 9),)), x.reshape(36, 3))

    def tiles(x):
        return x.reshape(2, 2, 3, 3, 3).swapaxes(1, 2).reshape(6, 6, 3)

    expected = [mix(mixing, tile) for tile in tiles(x)]
    np.testing.assert_allclose(tiles(tiled), expected, atol=1e-5)
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


def random_kernel(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def embed(image, kernels, branches):
    """Σ of kernel · samples at the pixels of the geometry, NumPy."""
    total = 0
    for kernel, patches in zip(kernels, branches, strict=True):
        index = patches.pixel_indices(image.shape[:2])
        inside = ((index >= 0) & (index < len(image))).all(axis=-1, keepdims=True)
        rows, columns = np.moveaxis(index.clip(0, len(image) - 1), -1, 0)
        samples = np.where(inside, image[rows, columns], 0)
        total = total + np.einsum('tpc,pcd->td', samples, kernel.reshape(-1, *kernel.shape[2:]))
    return total


def resample(kernel, old, new, method='resize', *, add_up=True, shape=GREY):
    new = new if isinstance(new, tuple) else (new,)
    return resample_stem_kernel(kernel, old, new, shape, method, add_up=add_up)


@pytest.mark.parametrize('method', ['sample', 'resize'])
@pytest.mark.parametrize('dilation', [1, 3])
def test_a_kernel_of_as_many_pixels_stays_as_it_is(method, dilation):
    kernel = random_kernel(4, 5, 3, 2)
    old, new = Patches((4, 5), stride=9), Patches((4, 5), dilation, 9)
    (resampled,) = resample(kernel, old, new, method, shape=(28, 28, 3))
    np.testing.assert_array_equal(resampled, kernel)
    # Branches that sample the same pixels share them; grey images take the sum of colours.
    halves = resample(kernel, new, (new, new), method, shape=(28, 28, 3))
    np.testing.assert_allclose(halves, np.stack([kernel / 2] * 2), atol=1e-6)
    (grey,) = resample(kernel, old, new, method)
    np.testing.assert_allclose(grey, kernel.sum(axis=2, keepdims=True), rtol=1e-6)


def test_sampling_takes_the_values_at_the_dilated_pixels():
    """7×7 to 4×4 pixels 2 apart: every second value, 49/16 times."""
    kernel = random_kernel(7, 7, 1, 2)
    (resampled,) = resample(kernel, Patches(7, stride=7), Patches(4, 2, 7), 'sample')
    np.testing.assert_allclose(resampled, kernel[::2, ::2] * 49 / 16, rtol=1e-6)


@pytest.mark.parametrize('method', ['sample', 'resize'])
def test_all_phases_together_have_the_kernel_they_came_from(method):
    """Side by side they see every pixel of the window once."""
    kernel, branches = random_kernel(8, 8, 1, 2), Patches(4, 2, 8).phases(2)
    resampled = resample(kernel, Patches(8, stride=8), branches, method)
    image = random_kernel(16, 16, 1)
    expected = embed(image, [kernel], [Patches(8, stride=8)])
    np.testing.assert_allclose(embed(image, resampled, branches), expected, atol=1e-5)


def resize_matrix(old, new):
    """B (new pixels, old pixels), of the resize of JAX."""
    each_pixel = np.eye(math.prod(old)).reshape(-1, *old)
    shape = (len(each_pixel), *new)
    resized = jax.image.resize(each_pixel, shape, 'linear', antialias=False)
    return np.asarray(resized, np.float64).reshape(len(each_pixel), -1).T


@pytest.mark.parametrize(
    ('old', 'new'), [((4, 4), (7, 7)), ((16, 16), (32, 32)), ((16, 16), (8, 8)), ((7, 5), (4, 6))]
)
def test_plain_patches_are_resized_as_flexivit_does(old, new):
    """pinv(Bᵀ) · kernel; where patches grow, resized patches have the tokens that they had."""
    kernel = random_kernel(*old, 3, 2)
    patches = Patches(old, stride=old), Patches(new, stride=new)
    (resampled,) = resample(kernel, *patches, shape=(64, 64, 3))
    matrix = resize_matrix(old, new)
    inverse = np.linalg.pinv(matrix.T, rcond=1e-4)
    expected = inverse @ kernel.astype(np.float64).reshape(-1, 6)
    np.testing.assert_allclose(resampled, expected.reshape(*new, 3, 2), atol=1e-5)
    if new > old:
        after = matrix.T @ resampled.reshape(len(matrix), -1)  # of each pixel
        np.testing.assert_allclose(after.reshape(kernel.shape), kernel, atol=1e-4)


PLAIN7, PLAIN10 = Patches(7, stride=7), Patches(10, stride=4, padding=((3, 3), (3, 3)))
SAME_WINDOW = {
    'plain to dilated': (PLAIN7, (Patches(4, 2, 7),)),
    'dilated to plain': (Patches(4, 2, 7), (PLAIN7,)),
    'dilated to dilated': (Patches(3, 3, 7), (Patches(4, 2, 7),)),
    'one axis': (PLAIN7, (Patches((7, 3), (1, 3), 7),)),
    'three dilations': (PLAIN10, tuple(Patches(4, k, 4, 'SAME') for k in (1, 2, 3))),
    'two from one corner': (PLAIN7, (Patches(3, 1, 7), Patches(3, 3, 7))),
    'two of one middle': (PLAIN7, (Patches(3, 1, 7, ((-2, -2), (-2, -2))), Patches(3, 3, 7))),
}


@pytest.mark.parametrize('case', SAME_WINDOW)
def test_a_linear_image_has_the_same_tokens_by_resize(case):
    """Exactly, for any kernel; the old window is the one that the new branches span together."""
    old, branches = SAME_WINDOW[case]
    kernel = random_kernel(*old.size, 1, 3)
    resampled = resample(kernel, old, branches)
    index = np.concatenate([patches.pixel_indices((28, 28)) for patches in (*branches, old)], 1)
    inner = ((index >= 0) & (index < 28)).all(axis=(1, 2))  # tokens that see no padding
    rows, columns = np.mgrid[:28, :28] / 28
    image = (1 + 2 * rows - 3 * columns)[..., None]
    before, after = embed(image, [kernel], [old]), embed(image, resampled, branches)
    assert inner.sum() >= 9
    np.testing.assert_allclose(after[inner], before[inner], atol=1e-4)


@pytest.mark.parametrize('old', [Patches(4, 2, 7), Patches(3, (3, 2), 7)], ids=str)
def test_a_plain_patch_of_the_same_window_has_the_tokens_of_the_dilated_one(old):
    """Of any image: it sees the same pixels and more."""
    kernel, plain = random_kernel(*old.size, 1, 3), Patches(old.window, stride=7)
    image = random_kernel(*GREY)
    after = embed(image, resample(kernel, old, plain), [plain])
    np.testing.assert_allclose(after, embed(image, [kernel], [old]), atol=1e-5)


def test_a_window_of_another_size_shows_the_same():
    """16×16 to 4×4 pixels 2 apart: an image of which 7 pixels are what 16 were."""
    old, new = Patches(16, stride=16), Patches(4, 2, 7)
    kernel = random_kernel(16, 16, 1, 2)
    (resampled,) = resample(kernel, old, new)
    small, large = ((np.arange(n) + 0.5) / n for n in (7, 16))
    (after,), (before,) = (
        embed(np.add.outer(axis, 2 * axis)[..., None], [array], [patches])
        for axis, array, patches in ((small, resampled, new), (large, kernel, old))
    )
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_branches_of_other_strides_that_add_up_have_no_kernel():
    branches = (Patches(4, 1, 4), Patches(4, 2, 3, ((0, 2), (0, 2))))
    assert branches[0].grid((28, 28)) == (7, 7)
    kernel, old = np.ones((4, 4, 1, 1), np.float32), Patches(4, stride=4)
    with refuses('strides 3, 4', "branch_merge = 'tokens'"):
        resample(kernel, old, branches, 'sample')
    assert len(resample(kernel, old, branches, 'sample', add_up=False)) == 2
