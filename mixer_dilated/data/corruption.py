"""Corruptions of test images, to see what a trained network withstands.

Each is a pure function of a key, uint8 images (B, H, W, C) and a strength, which jit may trace;
strength 0 returns the images unchanged. What is drawn depends on the key and the images' shape
alone, so that with the same key every network sees the same corrupted images.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

Images = UInt8[Array, 'batch height width channels']
_DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def shift(key: jax.Array, images: Images, strength: int | jax.Array) -> Images:
    """Moves each image `strength` pixels in one of 8 directions of its own; zeros move in.

    A diagonal moves as many pixels along both axes.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      strength: integer, pixels, 0 or more.
    """
    batch, height, width, _ = images.shape
    chosen = jax.random.randint(key, (batch,), 0, len(_DIRECTIONS))
    moves = jnp.asarray(_DIRECTIONS)[chosen] * jnp.asarray(strength, jnp.int32)

    def move(image, by):
        rows, columns = jnp.arange(height) - by[0], jnp.arange(width) - by[1]
        inside = _within(rows, 0, height)[:, None] & _within(columns, 0, width)
        moved = image[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
        return jnp.where(inside[..., None], moved, 0)

    return jax.vmap(move)(images, moves)


def noise(key: jax.Array, images: Images, strength: float | jax.Array) -> Images:
    """Adds to every value normal noise of standard deviation 255 · `strength`; clips to 0 … 255.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      strength: standard deviation, where the range of values is 1.
    """
    drawn = jax.random.normal(key, images.shape, jnp.float32)
    return _to_uint8(images + 255 * strength * drawn)


def occlusion(key: jax.Array, images: Images, strength: int | jax.Array) -> Images:
    """Sets to zero a square at a random place of its own, wholly within each image.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      strength: side of the square in pixels; more than an image's side covers it.
    """
    batch, height, width, _ = images.shape
    sides = jnp.minimum(jnp.asarray(strength, jnp.int32), jnp.asarray([height, width]))
    corners = jax.random.randint(key, (batch, 2), 0, jnp.asarray([height, width]) - sides + 1)

    def occlude(image, corner):
        rows = _within(jnp.arange(height), corner[0], corner[0] + sides[0])
        columns = _within(jnp.arange(width), corner[1], corner[1] + sides[1])
        return jnp.where((rows[:, None] & columns)[..., None], 0, image)

    return jax.vmap(occlude)(images, corners)


def contrast(key: jax.Array, images: Images, strength: float | jax.Array) -> Images:
    """Draws each value towards the mean of its image and channel: x + strength · (mean − x).

    The mean, as in ImageNet-C, and not mid grey: brightness stays what it was, and the dark ground
    of a digit stays dark.

    Args:
      key: not used; here because every corruption takes one.
      images: uint8 (B, H, W, C).
      strength: part of the contrast that is taken away, 0 to 1.
    """
    del key
    values = images.astype(jnp.float32)
    mean = values.mean(axis=(1, 2), keepdims=True)
    return _to_uint8(values + strength * (mean - values))


def _within(places: jax.Array, start, end) -> jax.Array:
    return (places >= start) & (places < end)


def _to_uint8(values: jax.Array) -> jax.Array:
    return jnp.round(values).clip(0, 255).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Corruption:
    """A corruption and the strengths it is tried at.

    Attributes:
      name: 'shift', 'noise', 'occlusion' or 'contrast'.
      apply: function of (key, images, strength).
      strengths: ascending, from 0, which changes nothing.
      unit: what a strength counts.
    """

    name: str
    apply: Callable[[jax.Array, Images, float], Images]
    strengths: tuple[float, ...]
    unit: str

    @property
    def axis_label(self) -> str:
        """Label for an axis of strengths: 'shift (pixels)'."""
        return f'{self.name} ({self.unit})'


CORRUPTIONS: dict[str, Corruption] = {
    corruption.name: corruption
    for corruption in (
        Corruption('shift', shift, (0, 1, 2, 3, 4), 'pixels'),
        Corruption('noise', noise, (0.0, 0.1, 0.2, 0.3, 0.4), 'standard deviation, range = 1'),
        Corruption('occlusion', occlusion, (0, 4, 8, 12), 'side of the square in pixels'),
        Corruption('contrast', contrast, (0.0, 0.25, 0.5, 0.75, 0.9), 'part taken away'),
    )
}
