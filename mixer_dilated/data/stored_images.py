"""The forms that images are stored in, and how they become the network's input on the device.

An image is stored as the network takes it; or smaller, and upsampled; or as a whole square, of
which training sees random crops and evaluation the centre.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Pair, Shape

MAX_LOG_RATIO = 8.0  # of aspect ratios, to base 2

Stored = UInt8[Array, 'batch stored_height stored_width channels']


def image_shapes(
    name: str, own_shape: tuple, size: Pair | None, decode_size: int = 0
) -> tuple[Shape, Shape]:
    """The shape that the network sees of images, and the one that they are stored in.

    Images that are only upsampled to `size`, (height, width) of the network's input, are stored as
    they are, others resized when they are decoded. Height and width are None in the shape of images
    of several sizes, which need a size; otherwise UserError is raised with the data set's name.
    """
    *own_size, channels = own_shape
    seen = (*(size or own_size), channels)
    if None in seen[:2]:
        raise UserError(
            f'config.dataset.image_size = 0: the images of {name!r} are of several sizes, and are '
            'brought to one; set it, for example --config.dataset.image_size=224'
        )
    if decode_size:
        return seen, square_shape(decode_size, channels)
    is_stored = None not in own_size and is_upsample(own_size, seen[:2])
    return seen, tuple(own_shape) if is_stored else seen


def check_pixels(source: str, shape: Shape, max_pixels: int) -> None:
    """Raises UserError if images of a shape have more than `config.dataset.max_pixels`."""
    pixels = shape[0] * shape[1]
    if pixels > max_pixels:
        raise UserError(
            f'{source}: images of {pixels} pixels; allowed are at most {max_pixels} '
            '(config.dataset.max_pixels)'
        )


def is_upsample(stored: Pair, size: Pair) -> bool:
    """Whether images of one (height, width) become those of another undistorted by upsampling."""
    same_aspect_ratio = stored[0] * size[1] == stored[1] * size[0]
    return same_aspect_ratio and size[0] >= stored[0]


def is_square(stored: Pair, size: Pair) -> bool:
    """Whether images of one (height, width), for an input of another, are whole squares, which are
    never smaller than the input; what is upsampled is.
    """
    return stored[0] == stored[1] + 1 and stored[1] >= max(size)


def square_shape(side: int, channels: int) -> Shape:
    """The shape of a whole square of so many pixels a side."""
    return side + 1, side, channels


def square_of(image: Image.Image, side: int) -> UInt8[np.ndarray, 'height side channels']:
    """The whole of an image, its aspect ratio changed to 1:1, over a row that holds that ratio.

    The first two pixels of the row are the high and the low byte of log2(width / height), from
    -`MAX_LOG_RATIO` to `MAX_LOG_RATIO` as 0 to 65534.
    """
    share = math.log2(image.width / image.height) / (2 * MAX_LOG_RATIO) + 0.5
    code = round(65534 * min(max(share, 0.0), 1.0))
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    square = np.zeros((side + 1, side, pixels.size // side**2), np.uint8)
    square[:side] = pixels.reshape(side, side, -1)
    square[side, :2, 0] = divmod(code, 256)
    return square


def aspect_ratios(squares: Stored) -> Float[Array, ' batch']:
    """width / height of the images that whole squares are of."""
    high, low = (squares[:, -1, column, 0].astype(jnp.float32) for column in (0, 1))
    return jnp.exp2(2 * MAX_LOG_RATIO * ((256 * high + low) / 65534 - 0.5))


def to_input(images: Stored, size: Pair) -> UInt8[Array, 'batch height width channels']:
    """Stored images as the network's, (height, width), in evaluation; can be jitted.

    They are upsampled by linear interpolation, rounded to integers. Of a whole square of `side` it
    is the middle of what resizing the shorter side of the original to `side` would give.
    """
    if images.shape[1:3] == size:
        return images
    if not is_square(images.shape[1:3], size):
        shape = (len(images), *size, images.shape[3])
        upsampled = jax.image.resize(images.astype(jnp.float32), shape, 'linear')
        return jnp.round(upsampled).astype(jnp.uint8)
    ratios = aspect_ratios(images)[:, None]
    shares = jnp.array(size) / images.shape[2]
    lengths = shares * jnp.minimum(1.0, jnp.concatenate([ratios, 1 / ratios], axis=1))
    boxes = jnp.stack([(1 - lengths) / 2, lengths], axis=-1)
    return crop_and_resize(images[:, :-1], boxes, size)


def crop_and_resize(
    images: Stored, boxes: Float[Array, 'batch 2 2'], size: Pair
) -> UInt8[Array, 'batch height width channels']:
    """Resizes a box of each image bilinearly to (height, width).

    Boxes are (start, length) along (height, width), as shares of the sides. Where images are not
    larger than the result, nothing shrinks, and no antialiasing is needed.
    """
    sizes, relative = jnp.array(size), jnp.array(size) / np.array(images.shape[1:3])
    antialias = max(images.shape[1:3]) > min(size)

    def resize(image, box):
        start, length = box.T
        placing = relative / length, -start * sizes / length
        pixels, shape = image.astype(jnp.float32), (*size, image.shape[2])
        return jax.image.scale_and_translate(
            pixels, shape, (0, 1), *placing, 'linear', antialias=antialias
        )

    return jnp.round(jax.vmap(resize)(images, boxes)).astype(jnp.uint8)
