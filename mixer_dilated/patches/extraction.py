"""From images to patches: `jax.lax.conv_general_dilated_patches`, on CPUs a gather."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mixer_dilated.patches.geometry import Pads, Pair, Patches

Images = Float[Array, 'batch height width channels']
PatchFeatures = Float[Array, 'batch tokens features']


def extract_patches(images: Images, patches: Patches) -> PatchFeatures:
    """Extracts a token from each patch (paper, section 3).

    `jax.lax.conv_general_dilated_patches` is the definition, a convolution with a kernel of ones
    and zeros. CPUs gather the same bits in a tenth of the time: 0.02 ms instead of 0.25 ms for a
    batch of `mnist_dilated`, 2 % of its training step, and 0.7 ms instead of 9 ms for 8 images of
    224×224×3 in patches of 16×16.

    Args:
      images: floats (B, H, W, C_in).
      patches: the geometry.

    Returns:
      (B, S, C_in·P_h·P_w): tokens in row-major order of the grid; feature (c·P_h + i)·P_w + j is
      channel c of sample (i, j). Values are exact copies of finite pixels, or 0 in the padding.

    Raises:
      UserError: the geometry does not fit images of this size.
    """
    return jax.lax.platform_dependent(
        images,
        cpu=functools.partial(gather_patches, patches=patches),
        default=functools.partial(convolve_patches, patches=patches),
    )


def convolve_patches(images: Images, patches: Patches) -> PatchFeatures:
    """`extract_patches` by `jax.lax.conv_general_dilated_patches`."""
    batch, *image_size, channels = images.shape
    tokens = patches.num_tokens(image_size)
    cropped, padding = crop(images, patches)
    features = jax.lax.conv_general_dilated_patches(
        cropped,
        filter_shape=patches.size,
        window_strides=patches.stride,
        padding=padding,
        rhs_dilation=patches.dilation,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        # On accelerators the default precision rounds the products, and so the copied pixels.
        precision=jax.lax.Precision.HIGHEST,
    )
    return features.reshape(batch, tokens, channels * math.prod(patches.size))


def crop(images: Images, patches: Patches) -> tuple[Images, Pads]:
    """Cuts off what negative padding crops; returns the images, and the padding that is left.

    XLA's convolution on CPUs reads past the image where padding is negative, and ONNX has none.
    """
    height, width = images.shape[1:3]
    pads = patches.pads((height, width))
    (top, bottom), (left, right) = ((min(low, 0), min(high, 0)) for low, high in pads)
    padding = tuple((max(low, 0), max(high, 0)) for low, high in pads)
    return images[:, -top : height + bottom, -left : width + right], padding


def gather_patches(images: Images, patches: Patches) -> PatchFeatures:
    """`extract_patches` by one gather, with constant indices."""
    batch, height, width, channels = images.shape
    row, column = np.moveaxis(patches.pixel_indices((height, width)), -1, 0)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixel = (row * width + column)[:, None, :] * channels + np.arange(channels)[:, None]
    # Indices past the end are filled with the padding's zeros.
    index = np.where(inside[:, None, :], pixel, height * width * channels).reshape(len(row), -1)
    return jnp.take(images.reshape(batch, -1), index, axis=1, mode='fill', fill_value=0)


def antialias(images: Images, dilation: Pair) -> Images:
    """Low-pass filters images (B, H, W, C) before they are sampled `dilation` pixels apart.

    Along each axis every channel is convolved with the triangle (1, 2, … d … 2, 1) / d², d the
    dilation: binomial for 2, the identity for 1. Its response is zero at the frequency 1 / d and
    its multiples, which sampling would alias to the mean. Edge pixels are repeated outside the
    image, so a constant image stays constant.
    """
    if dilation == (1, 1):
        return images
    pads = [(d - 1, d - 1) for d in dilation]
    return smooth(jnp.pad(images, ((0, 0), *pads, (0, 0)), mode='edge'), dilation)


def smooth(images: Images, dilation: Pair) -> Images:
    """The convolution of `antialias`, whose result is 2 (d - 1) pixels smaller along an axis."""
    # The triangle is the mean over d neighbours, twice.
    for window in ((dilation[0], 1), (1, dilation[1])) * 2:
        images = nn.avg_pool(images, window_shape=window)
    return images
