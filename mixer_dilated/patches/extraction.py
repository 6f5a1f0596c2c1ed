"""From images to patches: one call of `jax.lax.conv_general_dilated_patches`."""

import jax
from jaxtyping import Array, Float

from mixer_dilated.patches.geometry import Patches


def extract_patches(
    images: Float[Array, 'batch height width channels'], patches: Patches
) -> Float[Array, 'batch tokens features']:
    """Cuts images into patches, each pixel sampled as `patches` says.

    Args:
      images: floats (B, H, W, C_in).
      patches: the geometry.

    Returns:
      (B, S, C_in·P_h·P_w): tokens in row-major order of the grid, the features of a token
      channel-major: feature (c·P_h + i)·P_w + j is channel c of sample (i, j). Values are exact
      copies of finite pixels, or 0 in the padding.

    Raises:
      InputError: the geometry is impossible on images of this size.
    """
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
