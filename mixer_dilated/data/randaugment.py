"""RandAugment (arXiv:1909.13719, section 3) on the device."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt8

from mixer_dilated.data import big_vision_operations, image_operations
from mixer_dilated.data.image_operations import Image, Operation, apply_transform
from mixer_dilated.parallel.mesh import shard_batch, split_microbatches

Images = UInt8[Array, 'batch height width channels']

MAX_MAGNITUDE = 10  # the paper's M at which |level| is 1
MICROBATCH = 16  # images of a device and seed that are computed together, at most


class OperationSet(NamedTuple):
    """What RandAugment draws from.

    Attributes:
      names: of all operations, in the order of their indices.
      colours: operations on values alone.
      transforms: of a level and a size (H, W), the places that an operation samples.
      nearest: whether a place shows its nearest pixel, instead of four bilinearly.
    """

    names: tuple[str, ...]
    colours: dict[str, Operation]
    transforms: dict[str, Callable]
    nearest: bool = False


OPERATION_SETS = {
    'paper': OperationSet(
        (
            'identity', 'auto_contrast', 'equalize', 'rotate', 'solarize', 'color', 'posterize',
            'contrast', 'brightness', 'sharpness', 'shear_x', 'shear_y', 'translate_x',
            'translate_y',
        ),
        image_operations.COLOUR_OPERATIONS,
        image_operations.TRANSFORMS,
    ),
    'big_vision': OperationSet(
        (
            'auto_contrast', 'equalize', 'invert', 'rotate', 'posterize', 'solarize', 'color',
            'contrast', 'brightness', 'sharpness', 'shear_x', 'shear_y', 'translate_x',
            'translate_y', 'cutout', 'solarize_add',
        ),
        big_vision_operations.COLOUR_OPERATIONS,
        big_vision_operations.TRANSFORMS,
        nearest=True,
    ),
}  # fmt: skip


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
    """Applies `num_layers` random operations to each image, one after the other.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      num_layers: N of the paper.
      magnitude: M of the paper, of all operations, each with a random sign; 10 is AutoAugment's
        largest.
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
    names = OPERATION_SETS[operations].names
    return Draws(
        jax.random.randint(operation_key, shape, 0, len(names)),
        magnitude / MAX_MAGNITUDE * jax.random.rademacher(sign_key, shape, jnp.float32),
        jax.random.uniform(jax.random.fold_in(key, 2), (*shape, 2)),
    )


def apply_operations(image: Image, draws: Draws, fill: int = 0, operations: str = 'paper') -> Image:
    """Applies what is drawn for an image, one operation after the other."""
    names, colours, transforms, nearest = OPERATION_SETS[operations]
    branches = [*colours, 'transform', 'cutout']
    branch_of = jnp.array(
        [branches.index('transform' if name in transforms else name) for name in names]
    )
    transform_of = [
        functools.partial(transforms.get(name, transforms['rotate']), size=image.shape[:2])
        for name in names
    ]

    def apply_layer(image, layer: Draws):
        # Under `vmap` all branches are computed: the transforms share one.
        transform = jax.lax.switch(layer.indices, transform_of, layer.levels)

        def transform_image(image, level):
            return apply_transform(image, transform, fill, nearest)

        def cut_out(image, level):
            return big_vision_operations.cutout(image, level, layer.points, fill)

        functions = [*colours.values(), transform_image]
        if 'cutout' in names:
            functions.append(cut_out)
        image = jax.lax.switch(branch_of[layer.indices], functions, image, layer.levels)
        return image, None

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
