"""Random crops of training images, resized to their size (Szegedy et al., arXiv:1409.4842)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

ASPECTS = (3 / 4, 4 / 3)  # width : height, beside that of the image
TRIES = 10


def random_resized_crop(
    key: jax.Array, images: UInt8[Array, 'batch height width channels'], smallest: float
) -> UInt8[Array, 'batch height width channels']:
    """Shows of each image a box of its own, enlarged to the size of the image.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      smallest: share of the area that a box has at least.
    """
    return crop_and_resize(images, draw_boxes(key, len(images), smallest))


def draw_boxes(key: jax.Array, count: int, smallest: float) -> Float[Array, 'count 2 2']:
    """Draws boxes inside an image: area and logarithm of the aspect ratio uniform, then the place.

    Of ten boxes the first that fits into the image is taken, or the whole image if none does.

    Args:
      key: random key.
      count: how many.
      smallest: share of the area that a box has at least; the most is 1.

    Returns:
      float32 (count, 2, 2): (start, length) along (height, width), as shares of the sides.
    """
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (count, TRIES), minval=smallest)
    low, high = jnp.log(jnp.array(ASPECTS))
    aspect = jnp.exp(jax.random.uniform(aspect_key, (count, TRIES), minval=low, maxval=high))
    tried = jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)], axis=-1)
    fits = (tried <= 1).all(axis=-1)
    first = jnp.take_along_axis(tried, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    lengths = jnp.where(fits.any(axis=1)[:, None], first, 1.0)
    starts = jax.random.uniform(place_key, (count, 2)) * (1 - lengths)
    return jnp.stack([starts, lengths], axis=-1)


def crop_and_resize(
    images: UInt8[Array, 'batch height width channels'], boxes: Float[Array, 'batch 2 2']
) -> UInt8[Array, 'batch height width channels']:
    """Shows of each image a box in the size of the whole, bilinearly.

    A box is never larger than the image, so that nothing shrinks and there is nothing to smooth.

    Args:
      images: uint8 (B, H, W, C).
      boxes: as `draw_boxes` gives them.
    """
    sizes = jnp.array(images.shape[1:3])

    def enlarged(image, box):
        start, length = box.T
        return jax.image.scale_and_translate(
            image.astype(jnp.float32),
            image.shape,
            (0, 1),
            1 / length,
            -start * sizes / length,
            'linear',
            antialias=False,
        )

    return jnp.round(jax.vmap(enlarged)(images, boxes)).astype(jnp.uint8)
