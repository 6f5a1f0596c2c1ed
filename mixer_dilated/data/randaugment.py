"""The operations of RandAugment (arXiv:1909.13719, section 3), each on one image.

An operation takes a uint8 image (H, W, C) and a strength s, and gives an image like it. |s| = 1 is
AutoAugment's strongest (arXiv:1805.09501, table 6) and 0 changes nothing where an operation has a
strength at all; its sign is a direction where there are two. Colour operations are those of
Pillow's `ImageOps` and `ImageEnhance`; bands of an image with other than three are each their own
grey.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int32, UInt8

Image = UInt8[Array, 'height width channels']
Operation = Callable[[Image, jax.Array], Image]

MAX_DEGREES, MAX_SHEAR, MAX_MOVE, MAX_FACTOR, MAX_BITS = 30.0, 0.3, 0.45, 0.9, 4
FARTHEST = 0.9  # of the side, so that some of an image stays in sight however strong a move is
GREY = (19595, 38470, 7471)  # of 2**16: red, green and blue in ITU-R BT.601, as Pillow's 'L'


def operations(fill: int = 0) -> dict[str, Operation]:
    """The paper's fourteen operations by name, in its order.

    Args:
      fill: 0 … 255, what moves in where an image is rotated, sheared or translated.
    """

    def moving(coordinates: Callable) -> Operation:
        return lambda image, strength: _moved(image, *coordinates(image, strength), fill)

    return {
        'identity': lambda image, strength: image,
        'auto_contrast': lambda image, strength: auto_contrast(image),
        'equalize': lambda image, strength: equalize(image),
        'rotate': moving(_rotated),
        'solarize': solarize,
        'color': color,
        'posterize': posterize,
        'contrast': contrast,
        'brightness': brightness,
        'sharpness': sharpness,
        'shear_x': moving(_sheared_x),
        'shear_y': moving(_sheared_y),
        'translate_x': moving(_translated_x),
        'translate_y': moving(_translated_y),
    }


def auto_contrast(image: Image) -> Image:
    """Stretches each channel so that its darkest pixel is 0 and its brightest 255."""
    low = image.min(axis=(0, 1)).astype(jnp.int32)
    high = image.max(axis=(0, 1)).astype(jnp.int32)
    stretched = (image - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, image).astype(jnp.uint8)


def equalize(image: Image) -> Image:
    """Spreads the values of each channel so that all are about as frequent."""

    def of_channel(channel):
        counts = jnp.zeros(256, jnp.int32).at[channel].add(1)
        most = counts[jnp.max(channel)]
        step = (channel.size - most) // 255
        below = jnp.cumsum(counts) - counts
        table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, table.astype(jnp.uint8)[channel], channel)

    return jax.vmap(of_channel, in_axes=-1, out_axes=-1)(image)


def solarize(image: Image, strength: jax.Array) -> Image:
    """Inverts the values from 256 · (1 - |s|) on; all of them from |s| = 1 on."""
    threshold = 256 * (1 - jnp.abs(strength))
    return jnp.where(image < threshold, image, 255 - image)


def posterize(image: Image, strength: jax.Array) -> Image:
    """Keeps the highest 8 - 4 · |s| bits of each value, rounded, and at least one."""
    dropped = jnp.clip(jnp.round(MAX_BITS * jnp.abs(strength)), 0, 7).astype(jnp.uint8)
    return image >> dropped << dropped


def color(image: Image, strength: jax.Array) -> Image:
    """More colour, or less, down to the grey of each pixel."""
    return _blended(_grey(image), image, strength)


def contrast(image: Image, strength: jax.Array) -> Image:
    """More contrast, or less, down to the mean grey of the image."""
    return _blended(jnp.floor(_grey(image).mean(axis=(0, 1)) + 0.5), image, strength)


def brightness(image: Image, strength: jax.Array) -> Image:
    """Brighter, or darker, down to a tenth."""
    return _blended(jnp.float32(0), image, strength)


def sharpness(image: Image, strength: jax.Array) -> Image:
    """Sharper, or smoother, down to means of 3×3 pixels, the middle weighing 5; edges stay."""
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    shifted = [
        image[top : height - 2 + top, left : width - 2 + left].astype(jnp.float32)
        for top in range(3)
        for left in range(3)
    ]
    smooth = jnp.round((sum(shifted) + 4 * shifted[4]) / 13)
    return image.at[1:-1, 1:-1].set(_blended(smooth, image[1:-1, 1:-1], strength))


def _grey(image: Image) -> Float[Array, 'height width channels_or_1']:
    if image.shape[-1] != 3:
        return image.astype(jnp.float32)
    weighed = (image.astype(jnp.int32) * jnp.array(GREY)).sum(axis=-1, keepdims=True)
    return ((weighed + 2**15) >> 16).astype(jnp.float32)


def _blended(dull: jax.Array, image: Image, strength: jax.Array) -> Image:
    """dull + f · (image - dull) with f = 1 + 0.9 · s, at least 0.1, so that some of it is left."""
    factor = jnp.maximum(1 + MAX_FACTOR * strength, 1 - MAX_FACTOR)
    mixed = dull + factor * (image.astype(jnp.float32) - dull)
    return jnp.round(jnp.clip(mixed, 0, 255)).astype(jnp.uint8)


def _moved(image: Image, rows: jax.Array, columns: jax.Array, fill: int) -> Image:
    """What an image has at the rows and columns, bilinearly; `fill` outside."""

    def of_channel(channel):
        return map_coordinates(
            channel.astype(jnp.float32), (rows, columns), order=1, mode='constant', cval=fill
        )

    moved = jax.vmap(of_channel, in_axes=-1, out_axes=-1)(image)
    return jnp.round(moved).astype(jnp.uint8)


def _places(image: Image) -> Float[Array, '2 height width']:
    return jnp.indices(image.shape[:2], dtype=jnp.float32)


def _rotated(image: Image, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
    """By 30 · s degrees around the middle."""
    angle = jnp.deg2rad(MAX_DEGREES * strength)
    middle = (jnp.array(image.shape[:2], jnp.float32)[:, None, None] - 1) / 2
    rows, columns = _places(image) - middle
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return middle[0] + cosine * rows - sine * columns, middle[1] + sine * rows + cosine * columns


def _sheared_x(image: Image, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each row 0.3 · s pixels farther than the one above; the top one stays."""
    rows, columns = _places(image)
    return rows, columns + MAX_SHEAR * strength * rows


def _sheared_y(image: Image, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each column 0.3 · s pixels farther than the one before; the left one stays."""
    rows, columns = _places(image)
    return rows + MAX_SHEAR * strength * columns, columns


def _translated_x(image: Image, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
    """By 0.45 · s of the width, in whole pixels."""
    rows, columns = _places(image)
    return rows, columns + _move(strength, image.shape[1])


def _translated_y(image: Image, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
    """By 0.45 · s of the height, in whole pixels."""
    rows, columns = _places(image)
    return rows + _move(strength, image.shape[0]), columns


def _move(strength: jax.Array, side: int) -> jax.Array:
    return jnp.round(side * jnp.clip(MAX_MOVE * strength, -FARTHEST, FARTHEST))


Images = UInt8[Array, 'batch height width channels']
STRONGEST = 10  # magnitude at which operations are as strong as AutoAugment has them at most


def randaugment(
    key: jax.Array,
    images: Images,
    num_layers: int,
    magnitude: float,
    fill: int = 0,
    compute: Callable = lambda function, *batch: function(*batch),
) -> Images:
    """Does `num_layers` operations to each image, each one of fourteen, one after the other.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      num_layers: N of the paper.
      magnitude: M of the paper, of all operations; 10 is AutoAugment's strongest, 0 leaves only
        the operations that have no strength. Each operation has a random sign.
      fill: 0 … 255, what moves in; the original has 128.
      compute: calls a function of images, their operations and strengths, perhaps a few at a time.
    """
    chosen, signs = draw_operations(key, len(images), num_layers)
    strengths = magnitude / STRONGEST * signs
    # An operation chosen by `switch` is computed alone where images take turns, and all of them
    # where images are computed at once. Turns of small arrays are what accelerators are slow at.
    operated = functools.partial(
        jax.lax.platform_dependent,
        cpu=lambda *batch: in_turns(*batch, fill),
        default=lambda *batch: at_once(*batch, fill),
    )
    return compute(operated, images, chosen, strengths)


def draw_operations(
    key: jax.Array, count: int, num_layers: int
) -> tuple[Int32[Array, 'count layers'], Float[Array, 'count layers']]:
    """Draws operations, uniform over `operations()`, and their signs, -1 or 1."""
    operation_key, sign_key = jax.random.split(key)
    shape = (count, num_layers)
    chosen = jax.random.randint(operation_key, shape, 0, len(operations()))
    return chosen, jax.random.rademacher(sign_key, shape, jnp.float32)


def in_turns(images: Images, chosen: jax.Array, strengths: jax.Array, fill: int) -> Images:
    """Each image's operations, image by image.

    Args:
      images: uint8 (B, H, W, C).
      chosen: int32 (B, layers), indices into `operations()`.
      strengths: float32 (B, layers).
      fill: as in `randaugment`.
    """
    return jax.lax.map(lambda one: _operated(*one, fill), (images, chosen, strengths))


def at_once(images: Images, chosen: jax.Array, strengths: jax.Array, fill: int) -> Images:
    """The same of all images together; every operation is computed of every image."""
    return jax.vmap(lambda *one: _operated(*one, fill))(images, chosen, strengths)


def _operated(image: jax.Array, chosen: jax.Array, strengths: jax.Array, fill: int) -> jax.Array:
    branches = list(operations(fill).values())

    def layer(image, drawn):
        return jax.lax.switch(drawn[0], branches, image, drawn[1]), None

    return jax.lax.scan(layer, image, (chosen, strengths))[0]
