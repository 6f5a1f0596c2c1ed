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
from jaxtyping import Array, Float, Int32, UInt8

from mixer_dilated.parallel.mesh import shard_batch, split_microbatches
from mixer_dilated.patches.geometry import Pair

Image = UInt8[Array, 'height width channels']
Images = UInt8[Array, 'batch height width channels']
Level = Float[Array, '']
Operation = Callable[[Image, Level], Image]
# Rows (a, b, c), relative to the middle: pixel (y, x) comes from a · y + b · x + c.
Transform = Float[Array, '2 3']

# The paper's fourteen operations, in its order.
NAMES = (
    'identity', 'auto_contrast', 'equalize', 'rotate', 'solarize', 'color', 'posterize',
    'contrast', 'brightness', 'sharpness', 'shear_x', 'shear_y', 'translate_x', 'translate_y',
)  # fmt: skip
MAX_MAGNITUDE = 10  # the paper's M at which |level| is 1
MAX_DEGREES, MAX_SHEAR, MAX_TRANSLATE, MAX_ENHANCE, MAX_BITS = 30.0, 0.3, 0.45, 0.9, 4
TRANSLATE_LIMIT = 0.9  # of the side: some of an image stays visible at every magnitude
LUMA = (19595, 38470, 7471)  # of 2**16: red, green and blue in ITU-R BT.601, as Pillow's 'L'
MICROBATCH = 16  # images of a device and seed that are computed together, at most


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


def translate_x(level: Level, size: Pair) -> Transform:
    """Translates by 0.45 · level of the width, rounded to pixels."""
    return jnp.array([[1, 0, 0], [0, 1, _translation(level, size[1])]])


def translate_y(level: Level, size: Pair) -> Transform:
    """Translates by 0.45 · level of the height, rounded to pixels."""
    return jnp.array([[1, 0, _translation(level, size[0])], [0, 1, 0]])


def apply_transform(image: Image, transform: Transform, fill: int) -> Image:
    """Samples an image bilinearly where a transform maps each pixel; `fill` outside of it."""
    height, width, channels = image.shape
    middle = (jnp.array([[height], [width]], jnp.float32)[:, :, None] - 1) / 2
    y, x = jnp.indices((height, width), dtype=jnp.float32) - middle
    a, b, c = transform.T[:, :, None, None]
    rows, columns = middle + (a * y + b * x) + c
    top, left = jnp.floor(rows), jnp.floor(columns)
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

    sampled = sum(
        ((1 - jnp.abs(rows - row)) * (1 - jnp.abs(columns - column)))[..., None]
        * sample(row, column)
        for row in (top, top + 1)
        for column in (left, left + 1)
    )
    return jnp.round(sampled).astype(jnp.uint8)


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


def _translation(level: Level, side: int) -> Float[Array, '']:
    return jnp.round(side * jnp.clip(MAX_TRANSLATE * level, -TRANSLATE_LIMIT, TRANSLATE_LIMIT))


COLOUR_OPERATIONS: dict[str, Operation] = {
    'identity': lambda image, level: image,
    'auto_contrast': lambda image, level: auto_contrast(image),
    'equalize': lambda image, level: equalize(image),
}
COLOUR_OPERATIONS |= {
    operation.__name__: operation
    for operation in (solarize, color, posterize, contrast, brightness, sharpness)
}
TRANSFORMS: dict[str, Callable[[Level, Pair], Transform]] = {
    transform.__name__: transform
    for transform in (rotate, shear_x, shear_y, translate_x, translate_y)
}


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
    """Draws indices into `NAMES`, uniformly, and signs, -1 or 1."""
    operation_key, sign_key = jax.random.split(key)
    shape = (count, num_layers)
    indices = jax.random.randint(operation_key, shape, 0, len(NAMES))
    return indices, jax.random.rademacher(sign_key, shape, jnp.float32)


def apply_operations(
    image: Image, indices: Int32[Array, ' layers'], levels: Float[Array, ' layers'], fill: int = 0
) -> Image:
    """Applies operations, given as indices into `NAMES`, one after the other."""
    size, branches = image.shape[:2], list(COLOUR_OPERATIONS.values())
    transforms = [functools.partial(TRANSFORMS.get(name, translate_x), size=size) for name in NAMES]
    order = [*COLOUR_OPERATIONS, *TRANSFORMS]
    branch_of = jnp.array([min(order.index(name), len(branches)) for name in NAMES])

    def apply_layer(image, layer):
        index, level = layer
        # Under `vmap` all branches are computed: the transforms share one.
        transform = jax.lax.switch(index, transforms, level)

        def apply_any(image, level):
            return apply_transform(image, transform, fill)

        image = jax.lax.switch(branch_of[index], [*branches, apply_any], image, level)
        return image, None

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
