"""RandAugment (arXiv:1909.13719, section 3) on the device.

An operation takes a uint8 image (H, W, C) and a level in units of AutoAugment's largest magnitude
(arXiv:1805.09501, table 6): |level| = 1 is the strongest change, 0 is none where an operation has a
level at all, and the sign is a direction where there are two. Colour operations are those of
Pillow's `ImageOps` and `ImageEnhance`; unless an image has three channels, each is its own grey.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int32, UInt8

from mixer_dilated.parallel.mesh import shard_batch, split_microbatches

Image = UInt8[Array, 'height width channels']
Images = UInt8[Array, 'batch height width channels']
Level = Float[Array, '']
Operation = Callable[[Image, Level], Image]

MAX_MAGNITUDE = 10  # the paper's M at which |level| is 1
MAX_DEGREES, MAX_SHEAR, MAX_TRANSLATE, MAX_ENHANCE, MAX_BITS = 30.0, 0.3, 0.45, 0.9, 4
TRANSLATE_LIMIT = 0.9  # of the side: some of an image stays visible at every magnitude
LUMA = (19595, 38470, 7471)  # of 2**16: red, green and blue in ITU-R BT.601, as Pillow's 'L'
MICROBATCH = 16  # images of a device and seed that are computed together, at most


def operations(fill: int = 0) -> dict[str, Operation]:
    """The paper's fourteen operations by name, in its order.

    Args:
      fill: 0 … 255, the value that moves in where an image is rotated, sheared or translated.
    """
    return {
        'identity': lambda image, level: image,
        'auto_contrast': lambda image, level: auto_contrast(image),
        'equalize': lambda image, level: equalize(image),
        'rotate': functools.partial(rotate, fill=fill),
        'solarize': solarize,
        'color': color,
        'posterize': posterize,
        'contrast': contrast,
        'brightness': brightness,
        'sharpness': sharpness,
        'shear_x': functools.partial(shear_x, fill=fill),
        'shear_y': functools.partial(shear_y, fill=fill),
        'translate_x': functools.partial(translate_x, fill=fill),
        'translate_y': functools.partial(translate_y, fill=fill),
    }


def auto_contrast(image: Image) -> Image:
    """Stretches each channel so that its darkest pixel is 0 and its brightest 255."""
    low = image.min(axis=(0, 1)).astype(jnp.int32)
    high = image.max(axis=(0, 1)).astype(jnp.int32)
    stretched = (image - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, image).astype(jnp.uint8)


@functools.partial(jax.vmap, in_axes=-1, out_axes=-1)
def equalize(channel: UInt8[Array, 'height width']) -> UInt8[Array, 'height width']:
    """Equalizes the histogram of each channel of an image (H, W, C)."""
    counts = jnp.zeros(256, jnp.int32).at[channel].add(1)
    step = (channel.size - counts[jnp.max(channel)]) // 255
    below = jnp.cumsum(counts) - counts
    table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table.astype(jnp.uint8)[channel], channel)


def solarize(image: Image, level: Level) -> Image:
    """Inverts the values from 256 · (1 - |level|) on; all of them from |level| = 1 on."""
    return jnp.where(image < 256 * (1 - jnp.abs(level)), image, 255 - image)


def posterize(image: Image, level: Level) -> Image:
    """Keeps the highest 8 - 4 · |level| bits of each value, rounded, and at least one."""
    dropped = jnp.clip(jnp.round(MAX_BITS * jnp.abs(level)), 0, 7).astype(jnp.uint8)
    return image >> dropped << dropped


def color(image: Image, level: Level) -> Image:
    """Increases the colour, or reduces it towards the grey of each pixel."""
    return _blend(_to_grey(image), image, level)


def contrast(image: Image, level: Level) -> Image:
    """Increases the contrast, or reduces it towards the mean grey of the image."""
    return _blend(jnp.floor(_to_grey(image).mean(axis=(0, 1)) + 0.5), image, level)


def brightness(image: Image, level: Level) -> Image:
    """Brightens the image, or darkens it to a tenth at least."""
    return _blend(jnp.float32(0), image, level)


def sharpness(image: Image, level: Level) -> Image:
    """Sharpens, or blends with means of 3×3 pixels whose middle weighs 5; border pixels stay."""
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    shifted = [
        image[top : height - 2 + top, left : width - 2 + left].astype(jnp.float32)
        for top in range(3)
        for left in range(3)
    ]
    smooth = jnp.round((sum(shifted) + 4 * shifted[4]) / 13)
    return image.at[1:-1, 1:-1].set(_blend(smooth, image[1:-1, 1:-1], level))


def rotate(image: Image, level: Level, fill: int) -> Image:
    """Rotates by 30 · level degrees around the middle."""
    angle = jnp.deg2rad(MAX_DEGREES * level)
    middle = (jnp.array(image.shape[:2], jnp.float32)[:, None, None] - 1) / 2
    rows, columns = _pixel_grid(image) - middle
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    source_rows = middle[0] + cosine * rows - sine * columns
    return _sample(image, source_rows, middle[1] + sine * rows + cosine * columns, fill)


def shear_x(image: Image, level: Level, fill: int) -> Image:
    """Moves each row 0.3 · level pixels farther than the one above; the top one stays."""
    rows, columns = _pixel_grid(image)
    return _sample(image, rows, columns + MAX_SHEAR * level * rows, fill)


def shear_y(image: Image, level: Level, fill: int) -> Image:
    """Moves each column 0.3 · level pixels farther than the one before; the left one stays."""
    rows, columns = _pixel_grid(image)
    return _sample(image, rows + MAX_SHEAR * level * columns, columns, fill)


def translate_x(image: Image, level: Level, fill: int) -> Image:
    """Translates by 0.45 · level of the width, rounded to pixels."""
    rows, columns = _pixel_grid(image)
    return _sample(image, rows, columns + _translation(level, image.shape[1]), fill)


def translate_y(image: Image, level: Level, fill: int) -> Image:
    """Translates by 0.45 · level of the height, rounded to pixels."""
    rows, columns = _pixel_grid(image)
    return _sample(image, rows + _translation(level, image.shape[0]), columns, fill)


def _to_grey(image: Image) -> Float[Array, 'height width channels_or_1']:
    if image.shape[-1] != 3:
        return image.astype(jnp.float32)
    weighted = (image.astype(jnp.int32) * jnp.array(LUMA)).sum(axis=-1, keepdims=True)
    return ((weighted + 2**15) >> 16).astype(jnp.float32)


def _blend(degenerate: Float[Array, '...'], image: Image, level: Level) -> Image:
    """degenerate + f · (image - degenerate) with f = 1 + 0.9 · level, at least 0.1."""
    factor = jnp.maximum(1 + MAX_ENHANCE * level, 1 - MAX_ENHANCE)
    blended = degenerate + factor * (image.astype(jnp.float32) - degenerate)
    return jnp.round(jnp.clip(blended, 0, 255)).astype(jnp.uint8)


def _pixel_grid(image: Image) -> Float[Array, '2 height width']:
    return jnp.indices(image.shape[:2], dtype=jnp.float32)


def _translation(level: Level, side: int) -> Float[Array, '']:
    return jnp.round(side * jnp.clip(MAX_TRANSLATE * level, -TRANSLATE_LIMIT, TRANSLATE_LIMIT))


def _sample(image: Image, rows: jax.Array, columns: jax.Array, fill: int) -> Image:
    """Samples an image bilinearly at rows and columns (H, W); `fill` outside of it."""

    def sample(channel):
        return map_coordinates(channel, (rows, columns), order=1, mode='constant', cval=fill)

    sampled = jax.vmap(sample, in_axes=-1, out_axes=-1)(image.astype(jnp.float32))
    return jnp.round(sampled).astype(jnp.uint8)


def randaugment(
    key: jax.Array, images: Images, num_layers: int, magnitude: float, fill: int = 0
) -> Images:
    """Applies `num_layers` random operations to each image, one after the other.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      num_layers: N of the paper.
      magnitude: M of the paper, of all operations, each with a random sign; 10 is AutoAugment's
        largest, 0 leaves only the operations without a level.
      fill: 0 … 255, the value that moves in; the original has 128.
    """
    indices, signs = draw_operations(key, len(images), num_layers)
    apply = functools.partial(apply_operations, fill=fill)
    # `switch` computes one operation where it is mapped over images, and every one under `vmap`;
    # accelerators are slow at loops over small arrays all the same.
    apply_batch = functools.partial(
        jax.lax.platform_dependent,
        cpu=lambda *batch: jax.lax.map(lambda args: apply(*args), batch),
        default=jax.vmap(apply),
    )
    return map_microbatches(apply_batch, images, indices, magnitude / MAX_MAGNITUDE * signs)


def draw_operations(
    key: jax.Array, count: int, num_layers: int
) -> tuple[Int32[Array, 'count layers'], Float[Array, 'count layers']]:
    """Draws indices into `operations()`, uniformly, and signs, -1 or 1."""
    operation_key, sign_key = jax.random.split(key)
    shape = (count, num_layers)
    indices = jax.random.randint(operation_key, shape, 0, len(operations()))
    return indices, jax.random.rademacher(sign_key, shape, jnp.float32)


def apply_operations(
    image: Image, indices: Int32[Array, ' layers'], levels: Float[Array, ' layers'], fill: int = 0
) -> Image:
    """Applies operations, given as indices into `operations()`, one after the other."""
    branches = list(operations(fill).values())

    def apply_layer(image, layer):
        return jax.lax.switch(layer[0], branches, image, layer[1]), None

    return jax.lax.scan(apply_layer, image, (indices, levels))[0]


def map_microbatches(function: Callable, *batch: jax.Array) -> jax.Array:
    """Applies a function of a batch's examples to at most `MICROBATCH` of each device at a time.

    Where all are computed together, RandAugment takes some thirty float32 copies of each image.
    """
    mesh = jax.sharding.get_abstract_mesh()
    per_device = max(len(batch[0]) // (1 if mesh.empty else mesh.shape['data']), 1)
    count = -(-per_device // MICROBATCH)
    while per_device % count:
        count += 1
    if count == 1:
        return function(*batch)
    mapped = jax.lax.map(lambda part: function(*part), split_microbatches(batch, count))
    return shard_batch(mapped.swapaxes(0, 1).reshape(-1, *mapped.shape[2:]))
