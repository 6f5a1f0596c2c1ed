"""Random flips and moves of training images by whole pixels, on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt8

from mixer_dilated.patches.geometry import Pads, Pair


def random_shift(
    key: jax.Array, images: UInt8[Array, 'batch height width channels'], max_shift: int
) -> UInt8[Array, 'batch height width channels']:
    """Moves each image by its own whole number of pixels along each axis; zeros move in.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      max_shift: shifts are uniform over -max_shift … max_shift.
    """
    starts = jax.random.randint(key, (len(images), 2), 0, 2 * max_shift + 1)
    return _cut_out(images, starts, ((max_shift, max_shift),) * 2)


def random_phase(
    key: jax.Array, images: UInt8[Array, 'batch height width channels'], phase_range: Pair
) -> UInt8[Array, 'batch height width channels']:
    """Shows each image at a phase of its own, as `at_phase` does.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      phase_range: phases along (height, width); uniform over 0 … phase_range - 1.
    """
    phases = jax.random.randint(key, (len(images), 2), 0, jnp.array(phase_range))
    return _cut_out(images, phases, _room(phase_range))


def at_phase(
    images: UInt8[Array, 'batch height width channels'],
    phase: Int32[Array, '2'],
    phase_range: Pair,
) -> UInt8[Array, 'batch height width channels']:
    """Moves all images up and left, so that patches sample what is further down and right.

    Args:
      images: uint8 (B, H, W, C).
      phase: pixels (up, left), 0 … phase_range - 1; zeros move in.
      phase_range: phases along (height, width).
    """
    return _cut_out(images, jnp.broadcast_to(phase, (images.shape[0], 2)), _room(phase_range))


def random_flip(
    key: jax.Array, images: UInt8[Array, 'batch height width channels']
) -> UInt8[Array, 'batch height width channels']:
    """Mirrors each image left to right with probability 1/2.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
    """
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def _room(phase_range: Pair) -> Pads:
    return tuple((0, number - 1) for number in phase_range)


def _cut_out(images: jax.Array, starts: jax.Array, room: Pads) -> jax.Array:
    """From each image with `room` of zeros around it, its own size from its own start."""
    padded = jnp.pad(images, ((0, 0), *room, (0, 0)))

    def crop(image, start):
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, starts)
