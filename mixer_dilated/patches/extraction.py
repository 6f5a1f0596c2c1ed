"""From images to patches: `jax.lax.conv_general_dilated_patches`, on CPUs a gather."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mixer_dilated.patches.geometry import Pair, Patches


def extract_patches(
    images: Float[Array, 'batch height width channels'], patches: Patches
) -> Float[Array, 'batch tokens features']:
    """Cuts images into patches, each pixel sampled as `patches` says.

    The definition is `convolved_patches`. Programs for CPUs compute `gathered_patches`, which has
    the same bits: a convolution with a kernel of ones and zeros costs more there than copying.

    Args:
      images: floats (B, H, W, C_in).
      patches: the geometry.

    Returns:
      (B, S, C_in·P_h·P_w): tokens in row-major order of the grid, the features of a token
      channel-major: feature (c·P_h + i)·P_w + j is channel c of sample (i, j). Values are exact
      copies of finite pixels, or 0 in the padding.

    Raises:
      UserError: the geometry is impossible on images of this size.
    """
    return jax.lax.platform_dependent(
        images,
        cpu=functools.partial(gathered_patches, patches=patches),
        default=functools.partial(convolved_patches, patches=patches),
    )


def convolved_patches(
    images: Float[Array, 'batch height width channels'], patches: Patches
) -> Float[Array, 'batch tokens features']:
    """`extract_patches` by one call of `jax.lax.conv_general_dilated_patches`."""
    batch, height, width, channels = images.shape
    grid_h, grid_w = patches.grid((height, width))
    size_h, size_w = patches.size
    pads = patches.pads((height, width))
    # XLA's convolution on CPUs reads past the image where padding is negative: crop it first.
    crops = [(min(low, 0), min(high, 0), 0) for low, high in pads]
    cropped = jax.lax.pad(images, images.dtype.type(0), [(0, 0, 0), *crops, (0, 0, 0)])
    features = jax.lax.conv_general_dilated_patches(
        cropped,
        filter_shape=patches.size,
        window_strides=patches.stride,
        padding=[(max(low, 0), max(high, 0)) for low, high in pads],
        rhs_dilation=patches.dilation,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        # On accelerators the default precision rounds the products, and so the copied pixels.
        precision=jax.lax.Precision.HIGHEST,
    )
    return features.reshape(batch, grid_h * grid_w, channels * size_h * size_w)


def gathered_patches(
    images: Float[Array, 'batch height width channels'], patches: Patches
) -> Float[Array, 'batch tokens features']:
    """`extract_patches` by one gather, at indices that are constants of the program."""
    batch, height, width, channels = images.shape
    row, column = np.moveaxis(patches.pixel_indices((height, width)), -1, 0)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixel = (row * width + column)[:, None, :] * channels + np.arange(channels)[:, None]
    # An index past the end stands for padding.
    index = np.where(inside[:, None, :], pixel, height * width * channels).reshape(len(row), -1)
    return jnp.take(images.reshape(batch, -1), index, axis=1, mode='fill', fill_value=0)


def antialias(
    images: Float[Array, 'batch height width channels'], dilation: Pair
) -> Float[Array, 'batch height width channels']:
    """Smooths images for being sampled `dilation` apart.

    Along each axis every channel is convolved with the triangle (1, 2, … d … 2, 1) / d² of 2·d - 1
    pixels, d the dilation: binomial for 2, and nothing for 1. Its response is zero at the
    frequency 1 / d and at its multiples, which sampling would fold into the mean. The image's
    border pixels go on outside of it, so a constant image stays constant.

    Args:
      images: floats (B, H, W, C).
      dilation: d along (height, width).
    """
    if dilation == (1, 1):
        return images
    reach = [(d - 1, d - 1) for d in dilation]
    smooth = jnp.pad(images, ((0, 0), *reach, (0, 0)), mode='edge')
    # The triangle is the mean over d neighbours, twice.
    for window in ((dilation[0], 1), (1, dilation[1])) * 2:
        smooth = nn.avg_pool(smooth, window)
    return smooth
