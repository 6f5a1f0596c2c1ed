"""A low-pass before sub-sampling, so that fine detail does not alias into dilated patches."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mixer_dilated.patches.geometry import Pair


def low_pass(
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
