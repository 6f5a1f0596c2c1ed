"""Corruptions of test images at several severities, as in ImageNet-C (arXiv:1903.12261).

Each is a pure function of a key, uint8 images (B, H, W, C) and a severity, which jit may trace;
severity 0 returns the images unchanged. The random draw depends only on the key and the images'
shape, so that with the same key every network sees the same corrupted images.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

Images = UInt8[Array, 'batch height width channels']
DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def shift(key: jax.Array, images: Images, severity: int | jax.Array) -> Images:
    """Moves each image in one of 8 directions; zeros move in.

    The severity is in pixels, an integer, along both axes in a diagonal direction.
    """
    batch, height, width, _ = images.shape
    direction = jax.random.randint(key, (batch,), 0, len(DIRECTIONS))
    offsets = jnp.asarray(DIRECTIONS)[direction] * jnp.asarray(severity, jnp.int32)

    def move(image, offset):
        rows, columns = jnp.arange(height) - offset[0], jnp.arange(width) - offset[1]
        return image.at[rows[:, None], columns].get(
            mode='fill', fill_value=0, wrap_negative_indices=False
        )

    return jax.vmap(move)(images, offsets)


def noise(key: jax.Array, images: Images, severity: float | jax.Array) -> Images:
    """Adds normal noise, its standard deviation 255 · severity, and clips to 0 … 255."""
    return _to_uint8(images + 255 * severity * jax.random.normal(key, images.shape, jnp.float32))


def occlusion(key: jax.Array, images: Images, severity: int | jax.Array) -> Images:
    """Sets to zero a square at a random place inside each image.

    The severity is its side in pixels; more than an image's side covers it.
    """
    batch, height, width, _ = images.shape
    sides = jnp.minimum(jnp.asarray(severity, jnp.int32), jnp.asarray([height, width]))
    corners = jax.random.randint(key, (batch, 2), 0, jnp.asarray([height, width]) - sides + 1)

    def occlude(image, corner):
        rows, columns = jnp.arange(height) - corner[0], jnp.arange(width) - corner[1]
        inside_rows = (rows >= 0) & (rows < sides[0])
        inside_columns = (columns >= 0) & (columns < sides[1])
        return jnp.where((inside_rows[:, None] & inside_columns)[..., None], 0, image)

    return jax.vmap(occlude)(images, corners)


def contrast(key: jax.Array, images: Images, severity: float | jax.Array) -> Images:
    """Reduces contrast: x + severity · (mean - x), severity 0 … 1.

    The mean of each image and channel, as in ImageNet-C, and not mid grey: brightness stays what it
    was, and the dark background of a digit stays dark.
    """
    del key
    values = images.astype(jnp.float32)
    mean = values.mean(axis=(1, 2), keepdims=True)
    return _to_uint8(values + severity * (mean - values))


def _to_uint8(values: Float[Array, 'batch height width channels']) -> Images:
    return jnp.round(values).clip(0, 255).astype(jnp.uint8)


class Corruption(NamedTuple):
    """A function of (key, images, severity), and the severities, ascending from 0, which changes
    nothing, that networks are tested with.
    """

    name: str
    apply: Callable[[jax.Array, Images, float], Images]
    severities: tuple[float, ...]
    unit: str


CORRUPTIONS = (
    Corruption('shift', shift, (0, 1, 2, 3, 4), 'pixels'),
    Corruption('noise', noise, (0.0, 0.1, 0.2, 0.3, 0.4), 'standard deviation, range = 1'),
    Corruption('occlusion', occlusion, (0, 4, 8, 12), 'side of the square in pixels'),
    Corruption('contrast', contrast, (0.0, 0.25, 0.5, 0.75, 0.9), 'part taken away'),
)
