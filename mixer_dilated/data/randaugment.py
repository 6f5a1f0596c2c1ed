"""RandAugment (arXiv:1909.13719, section 3) on the device."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt8

from mixer_dilated.data import image_operations as ops
from mixer_dilated.data.image_operations import Image, apply_transform
from mixer_dilated.parallel.mesh import shard_batch, split_microbatches

Images = UInt8[Array, 'batch height width channels']

MAX_MAGNITUDE = 10  # the paper's M at which |level| is 1
MICROBATCH = 16  # images of a device and seed that are computed together, at most


class OperationSet(NamedTuple):
    """What RandAugment draws from.

    Attributes:
      operations: by name, in the order of their indices: functions of an image and a level, but
        `TRANSFORMS` of a level and a size (H, W), and `cutout` of a point and a fill too.
      nearest: whether a place shows its nearest pixel, instead of four bilinearly.
    """

    operations: dict[str, Callable]
    nearest: bool


TRANSFORMS = 'rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y'
PAPER = {
    'identity': lambda image, level: image,
    'auto_contrast': ops.auto_contrast,
    'equalize': ops.equalize,
    'rotate': ops.rotate,
    'solarize': ops.solarize,
    'color': ops.color,
    'posterize': ops.posterize,
    'contrast': ops.contrast,
    'brightness': ops.brightness,
    'sharpness': ops.sharpness,
    'shear_x': ops.shear_x,
    'shear_y': ops.shear_y,
    'translate_x': ops.translate_x,
    'translate_y': ops.translate_y,
}
BIG_VISION = {
    'auto_contrast': ops.auto_contrast,
    'equalize': ops.equalize,
    'invert': lambda image, level: 255 - image,
    'rotate': ops.rotate,
    'posterize': ops.posterize_big_vision,
    'solarize': ops.solarize_big_vision,
    'color': ops.color_big_vision,
    'contrast': ops.contrast_big_vision,
    'brightness': functools.partial(ops.brightness, blend=ops.blend_big_vision),
    'sharpness': functools.partial(ops.sharpness, blend=ops.blend_big_vision, to_integer=jnp.floor),
    'shear_x': ops.shear_x,
    'shear_y': ops.shear_y,
    'translate_x': ops.translate_x_big_vision,
    'translate_y': ops.translate_y_big_vision,
    'cutout': ops.cutout,
    'solarize_add': ops.solarize_add,
}
OPERATION_SETS = {
    'paper': OperationSet(PAPER, nearest=False),
    'big_vision': OperationSet(BIG_VISION, nearest=True),
}


class Draws(NamedTuple):
    """What is drawn for each image and layer.

    Attributes:
      indices: of operations, uniform over a set.
      levels: in units of AutoAugment's largest magnitude, with a random sign.
      points: uniform shares of (height, width), the middle of cutout.
    """

    indices: Int32[Array, '*images layers']
    levels: Float[Array, '*images layers']
    points: Float[Array, '*images layers 2']


def randaugment(
    key: jax.Array,
    images: Images,
    num_layers: int,
    magnitude: float,
    fill: int = 0,
    operations: str = 'paper',
) -> Images:
    """Applies `num_layers` (N of the paper) random operations to each image, one after the other.

    Args:
      images: uint8 (B, H, W, C).
      magnitude: M of the paper, of all operations, each with a random sign; AutoAugment has 10.
      fill: 0 … 255, the value that moves in; big_vision has 128.
      operations: of `OPERATION_SETS`.
    """
    draws = draw_operations(key, len(images), num_layers, magnitude, operations)
    apply = functools.partial(apply_operations, fill=fill, operations=operations)
    # `switch` computes one operation where it is mapped over images, and every one under `vmap`;
    # accelerators are slow at loops over small arrays all the same.
    apply_batch = functools.partial(
        jax.lax.platform_dependent,
        cpu=lambda *batch: jax.lax.map(lambda args: apply(*args), batch),
        default=jax.vmap(apply),
    )
    return map_microbatches(apply_batch, images, draws)


def draw_operations(
    key: jax.Array, count: int, num_layers: int, magnitude: float, operations: str = 'paper'
) -> Draws:
    """Draws for `count` images; arguments as of `randaugment`."""
    operation_key, sign_key = jax.random.split(key)
    shape = (count, num_layers)
    num_operations = len(OPERATION_SETS[operations].operations)
    return Draws(
        jax.random.randint(operation_key, shape, 0, num_operations),
        magnitude / MAX_MAGNITUDE * jax.random.rademacher(sign_key, shape, jnp.float32),
        jax.random.uniform(jax.random.fold_in(key, 2), (*shape, 2)),
    )


def apply_operations(image: Image, draws: Draws, fill: int = 0, operations: str = 'paper') -> Image:
    """Applies what is drawn for an image, one operation after the other."""
    functions, nearest = OPERATION_SETS[operations]
    kinds = ['transform' if name in TRANSFORMS else name for name in functions]
    branches = [*dict.fromkeys(kinds)]
    branch_of = jnp.array([branches.index(kind) for kind in kinds])
    transform_of = [
        functools.partial(functions[name if name in TRANSFORMS else 'rotate'], size=image.shape[:2])
        for name in functions
    ]

    def apply_layer(image, layer: Draws):
        # Under `vmap` all branches are computed: the transforms share one.
        transform = jax.lax.switch(layer.indices, transform_of, layer.levels)
        special = {
            'transform': lambda image, level: apply_transform(image, transform, fill, nearest),
            'cutout': lambda image, level: ops.cutout(image, level, layer.points, fill),
        }
        changes = [(functions | special)[branch] for branch in branches]
        return jax.lax.switch(branch_of[layer.indices], changes, image, layer.levels), None

    return jax.lax.scan(apply_layer, image, draws)[0]


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
