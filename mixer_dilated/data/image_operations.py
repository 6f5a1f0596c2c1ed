"""The operations of RandAugment (arXiv:1909.13719), on the device: the paper's and big_vision's.

An operation takes a uint8 image (H, W, C) and a level in units of AutoAugment's largest magnitude
(arXiv:1805.09501, table 6): |level| = 1 is the strongest change, 0 is none where an operation has a
level at all, and the sign is a direction where there are two. Colour operations are those of
Pillow's `ImageOps` and `ImageEnhance`; unless an image has three channels, each is its own grey.

big_vision (`pp/autoaugment.py`), the original's code for ImageNet, differs: `invert`,
`solarize_add` and `cutout` instead of `identity`, colours always stronger, `posterize` that keeps
more bits the higher the level, `solarize` that does nothing from |level| = 1 on, `contrast` towards
a value that depends on the size of the image alone. Places show their nearest pixel, and fractions
are cut off.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mixer_dilated.patches.geometry import Pair

Image = UInt8[Array, 'height width channels']
Grey = Float[Array, 'height width channels_or_1']
Level = Float[Array, '']
# Rows (a, b, c), relative to the middle: pixel (y, x) comes from a · y + b · x + c.
Transform = Float[Array, '2 3']

MAX_DEGREES, MAX_SHEAR, MAX_TRANSLATE, MAX_ENHANCE, MAX_BITS = 30.0, 0.3, 0.45, 0.9, 4
TRANSLATE_LIMIT = 0.9  # of the side: some of an image stays visible at every magnitude
LUMA = (19595, 38470, 7471)  # of 2**16: red, green and blue in ITU-R BT.601, as Pillow's 'L'
MAX_PIXELS, MAX_CUTOUT, MAX_ADDITION = 100, 40, 110  # big_vision's
TENSORFLOW_LUMA = (0.2989, 0.587, 0.114)  # of its rgb_to_grayscale


def auto_contrast(image: Image, _: Level) -> Image:
    """Stretches each channel so that its darkest pixel is 0 and its brightest 255."""
    low = image.min(axis=(0, 1)).astype(jnp.int32)
    high = image.max(axis=(0, 1)).astype(jnp.int32)
    stretched = (image - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, image).astype(jnp.uint8)


@functools.partial(jax.vmap, in_axes=(-1, None), out_axes=-1)
def equalize(channel: UInt8[Array, 'height width'], _: Level) -> UInt8[Array, 'height width']:
    """Equalizes the histogram of each channel of an image (H, W, C)."""
    counts = jnp.zeros(256, jnp.int32).at[channel].add(1)
    step = (channel.size - counts[jnp.max(channel)]) // 255
    below = jnp.cumsum(counts) - counts
    table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table.astype(jnp.uint8)[channel], channel)


def solarize(image: Image, level: Level) -> Image:
    """Inverts the values from 256 · (1 - |level|) on; all of them from |level| = 1 on."""
    return jnp.where(image < 256 * (1 - jnp.abs(level)), image, 255 - image)


def solarize_big_vision(image: Image, level: Level) -> Image:
    """Inverts the values from 256 · |level| on."""
    return jnp.where(image < _floor(256 * jnp.abs(level)), image, 255 - image)


def solarize_add(image: Image, level: Level) -> Image:
    """Adds 110 · |level| to the values below 128."""
    addition = _floor(MAX_ADDITION * jnp.abs(level)).astype(jnp.int32)
    added = jnp.minimum(image.astype(jnp.int32) + addition, 255).astype(jnp.uint8)
    return jnp.where(image < 128, added, image)


def posterize(image: Image, level: Level) -> Image:
    """Keeps the highest 8 - 4 · |level| bits of each value, rounded, and at least one."""
    dropped = jnp.clip(jnp.round(MAX_BITS * jnp.abs(level)), 0, 7).astype(jnp.uint8)
    return image >> dropped << dropped


def posterize_big_vision(image: Image, level: Level) -> Image:
    """Keeps the highest 4 · |level| bits of each value."""
    bits = _floor(4 * jnp.abs(level)).astype(jnp.int32)
    mask = 256 - (1 << jnp.clip(8 - bits, 0, 8))
    return (image & mask).astype(jnp.uint8)


def blend(degenerate: Float[Array, '...'], image: Image, level: Level) -> Image:
    """degenerate + f · (image - degenerate) with f = 1 + 0.9 · level, at least 0.1."""
    factor = jnp.maximum(1 + MAX_ENHANCE * level, 1 - MAX_ENHANCE)
    blended = degenerate + factor * (image.astype(jnp.float32) - degenerate)
    return jnp.round(jnp.clip(blended, 0, 255)).astype(jnp.uint8)


def blend_big_vision(degenerate: Float[Array, '...'], image: Image, level: Level) -> Image:
    """degenerate + f · (image - degenerate) with f = 0.1 + 1.8 · |level|."""
    factor = 0.1 + 1.8 * jnp.abs(level)
    blended = degenerate + factor * (image.astype(jnp.float32) - degenerate)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)


def to_grey(image: Image) -> Grey:
    if image.shape[-1] != 3:
        return image.astype(jnp.float32)
    weighted = (image.astype(jnp.int32) * jnp.array(LUMA)).sum(axis=-1, keepdims=True)
    return ((weighted + 2**15) >> 16).astype(jnp.float32)


def to_grey_big_vision(image: Image) -> Grey:
    if image.shape[-1] != 3:
        return image.astype(jnp.float32)
    weighted = image.astype(jnp.float32) / 255 * jnp.array(TENSORFLOW_LUMA)
    return jnp.floor(255.5 * weighted.sum(axis=-1, keepdims=True))


def color(image: Image, level: Level) -> Image:
    """Increases the colour, or reduces it towards the grey of each pixel."""
    return blend(to_grey(image), image, level)


def color_big_vision(image: Image, level: Level) -> Image:
    return blend_big_vision(to_grey_big_vision(image), image, level)


def contrast(image: Image, level: Level) -> Image:
    """Increases the contrast, or reduces it towards the mean grey of the image."""
    return blend(jnp.floor(to_grey(image).mean(axis=(0, 1)) + 0.5), image, level)


def contrast_big_vision(image: Image, level: Level) -> Image:
    """Blends with H · W / 256, at most 255: the mean of the counts of its histogram."""
    height, width, _ = image.shape
    return blend_big_vision(jnp.float32(min(height * width // 256, 255)), image, level)


def brightness(image: Image, level: Level, blend: Callable = blend) -> Image:
    """Brightens the image, or darkens it to a tenth at least."""
    return blend(jnp.float32(0), image, level)


def sharpness(
    image: Image, level: Level, blend: Callable = blend, to_integer: Callable = jnp.round
) -> Image:
    """Sharpens, or blends with means of 3×3 pixels whose middle weighs 5; border pixels stay."""
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    shifted = [
        image[top : height - 2 + top, left : width - 2 + left].astype(jnp.float32)
        for top in range(3)
        for left in range(3)
    ]
    smooth = to_integer((sum(shifted) + 4 * shifted[4]) / 13)
    return image.at[1:-1, 1:-1].set(blend(smooth, image[1:-1, 1:-1], level))


def cutout(image: Image, level: Level, point: Float[Array, '2'], fill: int) -> Image:
    """Fills a square of 80 · |level| pixels around a point, (row, column) as shares of the sides;
    the borders of the image cut some of it off.
    """
    half = _floor(MAX_CUTOUT * jnp.abs(level))
    rows, columns = (
        (jnp.arange(side) >= jnp.floor(share * side) - half)
        & (jnp.arange(side) < jnp.floor(share * side) + half)
        for side, share in zip(image.shape[:2], point, strict=True)
    )
    return jnp.where(rows[:, None, None] & columns[None, :, None], fill, image).astype(jnp.uint8)


def rotate(level: Level, size: Pair) -> Transform:
    """Rotates by 30 · level degrees around the middle."""
    angle = jnp.deg2rad(MAX_DEGREES * level)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[cosine, -sine, 0], [sine, cosine, 0]])


def shear_x(level: Level, size: Pair) -> Transform:
    """Moves each row 0.3 · level pixels farther than the one above; the top one stays."""
    shear = MAX_SHEAR * level
    return jnp.array([[1, 0, 0], [shear, 1, shear * (size[0] - 1) / 2]])


def shear_y(level: Level, size: Pair) -> Transform:
    """Moves each column 0.3 · level pixels farther than the one before; the left one stays."""
    shear = MAX_SHEAR * level
    return jnp.array([[1, shear, shear * (size[1] - 1) / 2], [0, 1, 0]])


def translation(level: Level, side: int) -> Float[Array, '']:
    """0.45 · level of the side, rounded to pixels."""
    return jnp.round(side * jnp.clip(MAX_TRANSLATE * level, -TRANSLATE_LIMIT, TRANSLATE_LIMIT))


def translate_x(level: Level, size: Pair) -> Transform:
    return jnp.array([[1, 0, 0], [0, 1, translation(level, size[1])]])


def translate_y(level: Level, size: Pair) -> Transform:
    return jnp.array([[1, 0, translation(level, size[0])], [0, 1, 0]])


def translate_x_big_vision(level: Level, size: Pair) -> Transform:
    return jnp.array([[1, 0, 0], [0, 1, MAX_PIXELS * level]])


def translate_y_big_vision(level: Level, size: Pair) -> Transform:
    return jnp.array([[1, 0, MAX_PIXELS * level], [0, 1, 0]])


def apply_transform(image: Image, transform: Transform, fill: int, nearest: bool = False) -> Image:
    """Samples an image where a transform maps each pixel, bilinearly or at the `nearest` one;
    `fill`, 0 … 255, outside of it.
    """
    height, width, channels = image.shape
    middle = (jnp.array([[height], [width]], jnp.float32)[:, :, None] - 1) / 2
    y, x = jnp.indices((height, width), dtype=jnp.float32) - middle
    a, b, c = transform.T[:, :, None, None]
    rows, columns = middle + (a * y + b * x) + c
    # A gather costs by the element: it takes four channels as one integer.
    shifted = [jnp.int32(image[..., i]) << 8 * (i % 4) for i in range(channels)]
    packed = [sum(shifted[i : i + 4]).ravel() for i in range(0, channels, 4)]

    def sample(row, column):
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        row = jnp.clip(row, 0, height - 1).astype(jnp.int32)
        column = jnp.clip(column, 0, width - 1).astype(jnp.int32)
        index = row * width + column
        pixels = [array.at[index].get(mode='promise_in_bounds') for array in packed]
        values = [pixels[i // 4] >> 8 * (i % 4) & 255 for i in range(channels)]
        return jnp.where(inside[..., None], jnp.stack(values, -1).astype(jnp.float32), fill)

    if nearest:
        return sample(jnp.floor(rows + 0.5), jnp.floor(columns + 0.5)).astype(jnp.uint8)
    top, left = jnp.floor(rows), jnp.floor(columns)
    sampled = sum(
        ((1 - jnp.abs(rows - row)) * (1 - jnp.abs(columns - column)))[..., None]
        * sample(row, column)
        for row in (top, top + 1)
        for column in (left, left + 1)
    )
    return jnp.round(sampled).astype(jnp.uint8)


def _floor(number: Float[Array, '']) -> Float[Array, '']:
    """Without its fraction; a float32 product may lie a little below an integer."""
    return jnp.floor(number + 1e-3)
