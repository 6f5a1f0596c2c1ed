"""Random changes of training images, on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8


def random_shift(
    key: jax.Array, images: UInt8[Array, 'batch height width channels'], max_shift: int
) -> UInt8[Array, 'batch height width channels']:
    """Moves each image by its own whole number of pixels along each axis; zeros move in.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      max_shift: shifts are uniform over -max_shift … max_shift.
    """
    batch, height, width, channels = images.shape
    shifts = jax.random.randint(key, (batch, 2), 0, 2 * max_shift + 1)
    border = (max_shift, max_shift)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))

    def crop(image, shift):
        return jax.lax.dynamic_slice(image, (shift[0], shift[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, shifts)
