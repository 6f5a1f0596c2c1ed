"""The sixteen operations with which big_vision, the original's code for ImageNet, augments.

Its RandAugment (`pp/autoaugment.py`) differs from the paper's: `invert`, `solarize_add` and
`cutout` instead of `identity`, colours always stronger, `posterize` that keeps more bits the higher
the level, `solarize` that does nothing from |level| = 1 on, `contrast` towards a value that depends
on the size of the image alone. Places show their nearest pixel, and fractions are cut off. Images
and levels are those of `image_operations`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mixer_dilated.data import image_operations
from mixer_dilated.data.image_operations import (
    Image,
    Level,
    Transform,
    auto_contrast,
    equalize,
    means_of_3x3,
)
from mixer_dilated.patches.geometry import Pair

MAX_PIXELS, MAX_CUTOUT, MAX_ADDITION = 100, 40, 110
LUMA = (0.2989, 0.587, 0.114)  # of TensorFlow's rgb_to_grayscale


def invert(image: Image) -> Image:
    """255 - image."""
    return 255 - image


def posterize(image: Image, level: Level) -> Image:
    """Keeps the highest 4 · |level| bits of each value."""
    bits = _floor(4 * jnp.abs(level)).astype(jnp.int32)
    mask = 256 - (1 << jnp.clip(8 - bits, 0, 8))
    return (image & mask).astype(jnp.uint8)


def solarize(image: Image, level: Level) -> Image:
    """Inverts the values from 256 · |level| on."""
    return jnp.where(image < _floor(256 * jnp.abs(level)), image, 255 - image)


def solarize_add(image: Image, level: Level) -> Image:
    """Adds 110 · |level| to the values below 128."""
    addition = _floor(MAX_ADDITION * jnp.abs(level)).astype(jnp.int32)
    added = jnp.minimum(image.astype(jnp.int32) + addition, 255).astype(jnp.uint8)
    return jnp.where(image < 128, added, image)


def color(image: Image, level: Level) -> Image:
    """Blends with the grey of each pixel."""
    return _blend(_to_grey(image), image, level)


def contrast(image: Image, level: Level) -> Image:
    """Blends with H · W / 256, at most 255: the mean of the counts of its histogram."""
    height, width, _ = image.shape
    return _blend(jnp.float32(min(height * width // 256, 255)), image, level)


def brightness(image: Image, level: Level) -> Image:
    """Blends with black."""
    return _blend(jnp.float32(0), image, level)


def sharpness(image: Image, level: Level) -> Image:
    """Blends with means of 3×3 pixels whose middle weighs 5; border pixels stay."""
    if min(image.shape[:2]) < 3:
        return image
    smooth = jnp.floor(means_of_3x3(image))
    return _blend(image.astype(jnp.float32).at[1:-1, 1:-1].set(smooth), image, level)


def translate_x(level: Level, size: Pair) -> Transform:
    """Translates by 100 · level pixels."""
    return jnp.array([[1, 0, 0], [0, 1, MAX_PIXELS * level]])


def translate_y(level: Level, size: Pair) -> Transform:
    """Translates by 100 · level pixels."""
    return jnp.array([[1, 0, MAX_PIXELS * level], [0, 1, 0]])


def cutout(image: Image, level: Level, point: Float[Array, '2'], fill: int) -> Image:
    """Fills a square of 80 · |level| pixels, of which the borders of the image cut some off.

    Args:
      image: uint8 (H, W, C).
      level: of the size.
      point: the middle of the square, (row, column) as shares of the sides.
      fill: 0 … 255.
    """
    half = _floor(MAX_CUTOUT * jnp.abs(level))
    rows, columns = (
        (jnp.arange(side) >= jnp.floor(share * side) - half)
        & (jnp.arange(side) < jnp.floor(share * side) + half)
        for side, share in zip(image.shape[:2], point, strict=True)
    )
    inside = rows[:, None, None] & columns[None, :, None]
    return jnp.where(inside, fill, image).astype(jnp.uint8)


def _floor(number: Float[Array, '']) -> Float[Array, '']:
    """Without its fraction; a float32 product may lie a little below an integer."""
    return jnp.floor(number + 1e-3)


def _to_grey(image: Image) -> Float[Array, 'height width channels_or_1']:
    if image.shape[-1] != 3:
        return image.astype(jnp.float32)
    grey = (image.astype(jnp.float32) / 255 * jnp.array(LUMA)).sum(axis=-1, keepdims=True)
    return jnp.floor(255.5 * grey)


def _blend(degenerate: Float[Array, '...'], image: Image, level: Level) -> Image:
    """degenerate + f · (image - degenerate) with f = 0.1 + 1.8 · |level|."""
    factor = 0.1 + 1.8 * jnp.abs(level)
    blended = degenerate + factor * (image.astype(jnp.float32) - degenerate)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)


COLOUR_OPERATIONS = {
    'auto_contrast': lambda image, level: auto_contrast(image),
    'equalize': lambda image, level: equalize(image),
    'invert': lambda image, level: invert(image),
    'posterize': posterize,
    'solarize': solarize,
    'color': color,
    'contrast': contrast,
    'brightness': brightness,
    'sharpness': sharpness,
    'solarize_add': solarize_add,
}
TRANSFORMS = image_operations.TRANSFORMS | {
    'translate_x': translate_x,
    'translate_y': translate_y,
}
