"""Augmentation of training batches, on the device."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Bool, Float, Int32, UInt8

from mixer_dilated.config import num_phases
from mixer_dilated.data.randaugment import randaugment
from mixer_dilated.parallel.mesh import purpose_key, shard_batch, split_microbatches
from mixer_dilated.patches.geometry import Pads, Pair


def random_shift(
    key: jax.Array, images: UInt8[Array, 'batch height width channels'], max_shift: int
) -> UInt8[Array, 'batch height width channels']:
    """Moves each image by its own whole number of pixels along each axis; zeros move in.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      max_shift: shifts are uniform over -max_shift … max_shift.
    """
    starts = jax.random.randint(key, (len(images), 2), 0, 2 * max_shift + 1)
    return _cut_out(images, starts, ((max_shift, max_shift),) * 2)


def random_phase(
    key: jax.Array, images: UInt8[Array, 'batch height width channels'], num_phases: Pair
) -> UInt8[Array, 'batch height width channels']:
    """Shows each image at a phase of its own, as `at_phase` does.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
      num_phases: phases along (height, width); uniform over 0 … num_phases - 1.
    """
    phases = jax.random.randint(key, (len(images), 2), 0, jnp.array(num_phases))
    return _cut_out(images, phases, _room(num_phases))


def at_phase(
    images: UInt8[Array, 'batch height width channels'],
    phase: Int32[Array, '2'],
    num_phases: Pair,
) -> UInt8[Array, 'batch height width channels']:
    """Moves all images up and left, so that patches sample what is further down and right.

    Args:
      images: uint8 (B, H, W, C).
      phase: pixels (up, left), 0 … num_phases - 1; zeros move in.
      num_phases: phases along (height, width).
    """
    return _cut_out(images, jnp.broadcast_to(phase, (images.shape[0], 2)), _room(num_phases))


def random_flip(
    key: jax.Array, images: UInt8[Array, 'batch height width channels']
) -> UInt8[Array, 'batch height width channels']:
    """Mirrors each image left to right with probability 1/2.

    Args:
      key: random key.
      images: uint8 (B, H, W, C).
    """
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def _room(num_phases: Pair) -> Pads:
    return tuple((0, number - 1) for number in num_phases)


def _cut_out(images: jax.Array, starts: jax.Array, room: Pads) -> jax.Array:
    """From each image with `room` of zeros around it, its own size from its own start."""
    padded = jnp.pad(images, ((0, 0), *room, (0, 0)))

    def crop(image, start):
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, starts)


ASPECTS = (3 / 4, 4 / 3)  # width : height, beside that of the image
TRIES = 10


def random_resized_crop(
    key: jax.Array, images: UInt8[Array, 'batch height width channels'], smallest: float
) -> UInt8[Array, 'batch height width channels']:
    """Shows of each image a box of its own, upsample to the size of the image.

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

    def upsample(image, box):
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

    return jnp.round(jax.vmap(upsample)(images, boxes)).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class MixupCutmix:
    """How the examples of one batch are mixed, each with the one before it.

        mixed[i] = own · array[i] + (1 - own) · array[i - 1]

    The batch has to be in random order. Without arguments nothing is mixed.

    Attributes:
      pixels: what of each pixel is an image's own, (), or (H, W, 1) for a batch (B, H, W, C).
      share: what of each target is the example's own, (): the mean of `pixels`.
    """

    pixels: jax.Array | None = None
    share: jax.Array | None = None

    @property
    def mixes(self) -> bool:
        """Whether anything is mixed."""
        return self.pixels is not None

    def images(
        self,
        images: Float[Array, 'batch height width channels'],
        before: Float[Array, 'batch height width channels'] | None = None,
    ) -> Float[Array, 'batch height width channels']:
        """The mixed images.

        Args:
          images: (B, H, W, C).
          before: array[i - 1] for every i, of a part of a batch; taken from `images` if None.
        """
        return _mixed(images, before, self.pixels)

    def targets(
        self,
        targets: Float[Array, 'batch classes'],
        before: Float[Array, 'batch classes'] | None = None,
    ) -> Float[Array, 'batch classes']:
        """The mixed targets, which are probabilities of the classes; arguments as `images`."""
        return _mixed(targets, before, self.share)


def draw_mixup(key: jax.Array, alpha: float) -> MixupCutmix:
    """Draws one share for a batch (mixup, arXiv:1710.09412).

        share = max(b, 1 - b), b ~ Beta(α, α)

    It is at least a half, so that an example stays more itself than its neighbour.

    Args:
      key: random key.
      alpha: α > 0.
    """
    drawn = jax.random.beta(key, alpha, alpha)
    share = jnp.maximum(drawn, 1 - drawn)
    return MixupCutmix(share, share)


def draw_cutmix(key: jax.Array, alpha: float, image_size: tuple[int, int]) -> MixupCutmix:
    """Draws one box for a batch, where images show their neighbours (cutmix, arXiv:1905.04899).

    The box has a share 1 - λ of the area, λ ~ Beta(α, α), and the proportions of the image. Its
    middle is uniform over the image, and what is outside is cut off; the share of the targets is
    that of the pixels which are left.

    Args:
      key: random key.
      alpha: α > 0.
      image_size: (height, width) in pixels.
    """
    beta_key, middle_key = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(beta_key, alpha, alpha))
    sizes = jnp.array(image_size)
    lengths = jnp.round(side * sizes).astype(jnp.int32)
    starts = jax.random.randint(middle_key, (2,), 0, sizes) - lengths // 2
    rows, columns = (
        _inside(size, start, start + length)
        for size, start, length in zip(image_size, starts, lengths, strict=True)
    )
    own = 1 - (rows[:, None, None] & columns[None, :, None]).astype(jnp.float32)
    return MixupCutmix(own, own.mean())


def one_of(key: jax.Array, one: MixupCutmix, other: MixupCutmix) -> MixupCutmix:
    """Either of two mixings, with equal probability."""
    first = jax.random.bernoulli(key)
    return MixupCutmix(
        jnp.where(first, one.pixels, other.pixels), jnp.where(first, one.share, other.share)
    )


def _inside(length: int, start: jax.Array, end: jax.Array) -> Bool[Array, ' length']:
    places = jnp.arange(length)
    return (places >= start) & (places < end)


def _mixed(array: jax.Array, before: jax.Array | None, own: jax.Array | None) -> jax.Array:
    if own is None:
        return array
    before = jnp.roll(array, 1, axis=0) if before is None else before
    return own * array + (1 - own) * before


PIECE = 16  # images of a device and seed that RandAugment computes at once, at most
Images = UInt8[Array, 'batch height width channels']


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training makes of a batch; by default nothing.

    Each random change has a key of its own purpose, from the seed and the step.

    Attributes:
      crop: share of the area that a random crop has at least; 0 for none.
      flip: whether images are mirrored left to right, half of them.
      shift: pixels of random shift either way.
      num_layers, magnitude, fill: of `randaugment`.
      num_phases: phases along (height, width), one of which each image is shown at.
      mixup, cutmix: α of the Beta distribution, 0 for none; of both one is drawn a batch.
      label_smoothing: share of each target spread evenly over the classes.
    """

    crop: float = 0.0
    flip: bool = False
    shift: int = 0
    num_layers: int = 0
    magnitude: float = 10.0
    fill: int = 0
    num_phases: Pair = (1, 1)
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0

    @property
    def each_alone(self) -> dict[str, 'Augmentation']:
        """Every random change of images by itself, in order, by its name under `config.augment`."""
        fields = {
            **{name: (name,) for name in ('crop', 'flip', 'shift')},
            'randaugment': ('num_layers', 'magnitude', 'fill'),
            'random_phase': ('num_phases',),
            **{name: (name,) for name in ('mixup', 'cutmix')},
        }
        nothing = Augmentation()
        return {
            name: Augmentation(**{field: getattr(self, field) for field in (first, *rest)})
            for name, (first, *rest) in fields.items()
            if getattr(self, first) != getattr(nothing, first)
        }

    def shown(self, seed_key: jax.Array, step: Int32[Array, ''] | int, images: Images) -> Images:
        """The images as a step shows them, before they are mixed.

        The phase is last: it moves an image against the grid of patches, as evaluation does.

        Args:
          seed_key: of the seed.
          step: of the training.
          images: uint8 (B, H, W, C).
        """
        key = functools.partial(purpose_key, seed_key, index=step)
        if self.crop:
            images = random_resized_crop(key('crop'), images, self.crop)
        if self.flip:
            images = random_flip(key('flip'), images)
        if self.shift:
            images = random_shift(key('shift'), images, self.shift)
        if self.num_layers:
            drawn = key('randaugment')
            settings = self.num_layers, self.magnitude, self.fill
            images = randaugment(drawn, images, *settings, compute=map_microbatches)
        if self.num_phases != (1, 1):
            images = random_phase(key('phase'), images, self.num_phases)
        return images

    def mixing(
        self, seed_key: jax.Array, step: Int32[Array, ''] | int, image_size: Pair
    ) -> MixupCutmix:
        """How a step mixes the examples of its batch.

        Args:
          seed_key: of the seed.
          step: of the training.
          image_size: (height, width) in pixels.
        """
        key = functools.partial(purpose_key, seed_key, index=step)
        found = []
        if self.mixup:
            found.append(draw_mixup(key('mixup'), self.mixup))
        if self.cutmix:
            found.append(draw_cutmix(key('cutmix'), self.cutmix, image_size))
        if len(found) == 2:
            return one_of(key('mixing'), *found)
        return found[0] if found else MixupCutmix()


def map_microbatches(function: Callable, *batch: jax.Array) -> jax.Array:
    """A function of the examples of a batch, computed for a few of each device at a time.

    RandAugment takes some thirty float32 copies of each image where all are computed at once.
    """
    mesh = jax.sharding.get_abstract_mesh()
    of_device = len(batch[0]) // (1 if mesh.empty else mesh.shape['data'])
    pieces = next(
        (n for n in range(1, of_device) if not of_device % n and of_device // n <= PIECE),
        of_device or 1,
    )
    if pieces == 1:
        return function(*batch)
    found = jax.lax.map(lambda piece: function(*piece), split_microbatches(batch, pieces))
    return shard_batch(found.swapaxes(0, 1).reshape(-1, *found.shape[2:]))


NO_AUGMENTATION = Augmentation()


def augmentation_from_config(config: ml_collections.ConfigDict) -> Augmentation:
    """What a resolved config asks for."""
    augment = config.augment
    return Augmentation(
        **{key: augment[key] for key in ('crop', 'flip', 'shift', 'mixup', 'cutmix')},
        **augment.randaugment,
        num_phases=num_phases(config),
        label_smoothing=config.label_smoothing,
    )
