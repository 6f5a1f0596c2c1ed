"""RandAugment: a few random operations on each image (arXiv:1909.13719)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt8

from mixer_dilated.data.image_operations import operations

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
