"""Small images that a network sees larger: kept small, enlarged where they are used."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from mixer_dilated.patches.geometry import Pair


def only_enlarges(stored: Pair, size: Pair) -> bool:
    """Whether images of one size become those of another by `enlarged` without loss or distortion.

    Args:
      stored, size: (height, width) in pixels.
    """
    same_proportion = stored[0] * size[1] == stored[1] * size[0]
    return same_proportion and size[0] >= stored[0]


def enlarged(
    images: UInt8[Array, 'batch stored_height stored_width channels'], size: Pair
) -> UInt8[Array, 'batch height width channels']:
    """Images at a size, by linear interpolation rounded to whole values; a jitted function's part.

    Args:
      images: uint8 (B, H, W, C).
      size: (height, width); images of that size stay as they are.
    """
    if images.shape[1:3] == size:
        return images
    shape = (len(images), *size, images.shape[3])
    found = jax.image.resize(images.astype(jnp.float32), shape, 'linear')
    return jnp.round(found).astype(jnp.uint8)
