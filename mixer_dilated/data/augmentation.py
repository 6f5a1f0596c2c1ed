"""Augmentation of training batches, on the device.

Images are uint8 (B, H, W, C). Functions of a key can be jitted; they draw for each image by itself,
except mixup and CutMix, which draw once a batch.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt8
from ml_collections import ConfigDict

from mixer_dilated.config import num_phases
from mixer_dilated.data.randaugment import randaugment
from mixer_dilated.data.stored_images import (
    Stored,
    aspect_ratios,
    crop_and_resize,
    is_square,
    to_input,
)
from mixer_dilated.patches.geometry import Pads, Pair
from mixer_dilated.random_keys import purpose_key

Images = UInt8[Array, 'batch height width channels']
Batch = Float[Array, 'batch ...']
Step = Int32[Array, ''] | int
ASPECT_RATIOS = (3 / 4, 4 / 3)  # width : height
CROP_TRIES = 10


def random_flip(key: jax.Array, images: Images) -> Images:
    """Mirrors each image left to right with probability 1/2."""
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def random_translate(key: jax.Array, images: Images, max_pixels: int) -> Images:
    """Moves each image along each axis by an integer in -max_pixels … max_pixels; zeros move in."""
    starts = jax.random.randint(key, (len(images), 2), 0, 2 * max_pixels + 1)
    return _pad_and_crop(images, starts, ((max_pixels, max_pixels),) * 2)


def random_phase(key: jax.Array, images: Images, num_phases: Pair) -> Images:
    """`shift_phase` by a uniform phase of each image's own."""
    phases = jax.random.randint(key, (len(images), 2), 0, jnp.array(num_phases))
    return shift_phase(images, phases, num_phases)


def shift_phase(images: Images, phase: Int32[Array, '... 2'], num_phases: Pair) -> Images:
    """Moves images up and left by (row, column): patches sample pixels further down and right."""
    starts = jnp.broadcast_to(phase, (images.shape[0], 2))
    return _pad_and_crop(images, starts, tuple((0, number - 1) for number in num_phases))


def _pad_and_crop(images: Images, starts: Int32[Array, 'batch 2'], padding: Pads) -> Images:
    """Pads images with zeros, and crops each to its former size from its own (row, column)."""
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))

    def crop(image, start):
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, starts)


def random_resized_crop(key: jax.Array, images: Stored, min_area: float, size: Pair) -> Images:
    """Resizes a box of each image to (height, width) (Szegedy et al., arXiv:1409.4842).

    Of a whole square the box is one that would have been drawn on the image that it is of.
    """
    ratios = 1.0
    if is_square(images.shape[1:3], size):
        ratios, images = aspect_ratios(images)[:, None], images[:, :-1]
    else:
        images = to_input(images, size)
    return crop_and_resize(images, draw_boxes(key, len(images), min_area, ratios), size)


def draw_boxes(
    key: jax.Array, count: int, min_area: float, ratios: Float[Array, 'count 1'] | float = 1.0
) -> Float[Array, 'count 2 2']:
    """Draws boxes inside an image: area and log aspect ratio uniform, then the position.

    Of ten boxes the first that fits into the image is taken, or the whole image if none does.
    `min_area` is a share of the area of the image; `ratios` are width / height of the images, whose
    boxes are to have `ASPECT_RATIOS` in pixels; 1 for boxes of these relative to the image.

    Returns:
      float32 (count, 2, 2): (start, length) along (height, width), as shares of the sides.
    """
    area_key, aspect_key, start_key = jax.random.split(key, 3)
    shape = (count, CROP_TRIES)
    area = jax.random.uniform(area_key, shape, minval=min_area)
    low, high = jnp.log(jnp.array(ASPECT_RATIOS))
    aspect = jnp.exp(jax.random.uniform(aspect_key, shape, minval=low, maxval=high)) / ratios
    candidates = jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)], axis=-1)
    fits = (candidates <= 1).all(axis=-1)
    first = jnp.take_along_axis(candidates, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    lengths = jnp.where(fits.any(axis=1)[:, None], first, 1.0)
    starts = jax.random.uniform(start_key, (count, 2)) * (1 - lengths)
    return jnp.stack([starts, lengths], axis=-1)


@dataclasses.dataclass(frozen=True)
class MixupCutmix:
    """How the examples of one batch, which is in random order, are mixed with their partners.

        mixed[i] = weight · array[i] + (1 - weight) · array[i - 1]

    Attributes:
      pixel_weight: of an image's own pixels, (), or (H, W, 1) for a batch (B, H, W, C); None if
        nothing is mixed.
      target_weight: of the example's own target, (): the mean of `pixel_weight`.
    """

    pixel_weight: jax.Array | None = None
    target_weight: jax.Array | None = None

    @property
    def mixes(self) -> bool:
        """Whether anything is mixed."""
        return self.pixel_weight is not None

    def mix_images(self, images: Batch, partners: Batch | None = None) -> Batch:
        """Mixed images; `partners` are those of a microbatch, else the images before each."""
        return _mix(images, partners, self.pixel_weight)

    def mix_targets(self, targets: Batch, partners: Batch | None = None) -> Batch:
        """Mixed targets, probabilities (B, classes); arguments as `mix_images`."""
        return _mix(targets, partners, self.target_weight)


def draw_mixup(key: jax.Array, alpha: float) -> MixupCutmix:
    """mixup (arXiv:1710.09412): weight = max(b, 1 - b), b ~ Beta(α, α), so that an example stays
    more itself than its partner.
    """
    drawn = jax.random.beta(key, alpha, alpha)
    weight = jnp.maximum(drawn, 1 - drawn)
    return MixupCutmix(weight, weight)


def draw_cutmix(key: jax.Array, alpha: float, image_size: Pair) -> MixupCutmix:
    """CutMix (arXiv:1905.04899): a box, the same for the batch, in which images show their partner.

    The box has a share 1 - λ of the area, λ ~ Beta(α, α), and the proportions of the image (section
    3.1). Its middle is uniform over the image, which cuts the box off; the weight of the targets is
    the share of the pixels outside the box.
    """
    beta_key, middle_key = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(beta_key, alpha, alpha))
    sizes = jnp.array(image_size)
    lengths = jnp.round(side * sizes).astype(jnp.int32)
    starts = jax.random.randint(middle_key, (2,), 0, sizes) - lengths // 2
    rows, columns = (
        (jnp.arange(size) >= start) & (jnp.arange(size) < start + length)
        for size, start, length in zip(image_size, starts, lengths, strict=True)
    )
    weight = 1 - (rows[:, None, None] & columns[None, :, None]).astype(jnp.float32)
    return MixupCutmix(weight, weight.mean())


def _mix(array: jax.Array, partners: jax.Array | None, weight: jax.Array | None) -> jax.Array:
    if weight is None:
        return array
    with jax.named_scope('augment'):
        partners = jnp.roll(array, 1, axis=0) if partners is None else partners
        return weight * array + (1 - weight) * partners


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The augmentation of a training batch; by default none. Each change has its own key."""

    min_crop_area: float = 0.0  # of random resized crops, as a share of the area
    flip: bool = False  # half of the images, left to right
    translate: int = 0  # pixels of random translation either way
    num_layers: int = 0  # of `randaugment`, as the next three
    magnitude: float = 10.0
    fill: int = 0
    operations: str = 'paper'
    num_phases: Pair = (1, 1)  # along (height, width), one of which each image is shown at
    mixup: float = 0.0  # α of the Beta distribution, as of `cutmix`; of both one is drawn a batch
    cutmix: float = 0.0
    label_smoothing: float = 0.0  # share of each target spread evenly over the classes

    def separate_changes(self) -> dict[str, 'Augmentation']:
        """Each random change of images alone, in order, by its name under `config.augment`."""
        changes = 'min_crop_area', 'flip', 'translate', 'randaugment', 'random_phase'
        fields = {name: (name,) for name in (*changes, 'mixup', 'cutmix')}
        fields |= {'randaugment': ('num_layers', 'magnitude', 'fill', 'operations')}
        fields |= {'random_phase': ('num_phases',)}
        return {
            change: Augmentation(**{name: getattr(self, name) for name in names})
            for change, names in fields.items()
            if getattr(self, names[0]) != getattr(NO_AUGMENTATION, names[0])
        }

    def apply(
        self, seed_key: jax.Array, step: Step, images: Stored, size: Pair | None = None
    ) -> Images:
        """Augments the images of a step of a seed; they are mixed afterwards.

        They are stored images, and become (B, H, W, C) of (height, width); as they are if None.
        """
        key, size = functools.partial(purpose_key, seed_key, index=step), size or images.shape[1:3]
        if self.min_crop_area:
            images = random_resized_crop(key('crop'), images, self.min_crop_area, size)
        else:
            images = to_input(images, size)
        if self.flip:
            images = random_flip(key('flip'), images)
        if self.translate:
            images = random_translate(key('shift'), images, self.translate)
        if self.num_layers:
            settings = self.num_layers, self.magnitude, self.fill, self.operations
            images = randaugment(key('randaugment'), images, *settings)
        if self.num_phases != (1, 1):  # last: it moves an image against the grid of patches
            images = random_phase(key('phase'), images, self.num_phases)
        return images

    def draw_mixing(self, seed_key: jax.Array, step: Step, image_size: Pair) -> MixupCutmix:
        """Draws how a step mixes the examples of its batch; arguments as `apply`."""
        key = functools.partial(purpose_key, seed_key, index=step)
        mixup = draw_mixup(key('mixup'), self.mixup) if self.mixup else MixupCutmix()
        if not self.cutmix:
            return mixup
        cutmix = draw_cutmix(key('cutmix'), self.cutmix, image_size)
        if not self.mixup:
            return cutmix
        choose = functools.partial(jnp.where, jax.random.bernoulli(key('mixing')))
        return MixupCutmix(
            choose(mixup.pixel_weight, cutmix.pixel_weight),
            choose(mixup.target_weight, cutmix.target_weight),
        )


NO_AUGMENTATION = Augmentation()


def augmentation_from_config(config: ConfigDict) -> Augmentation:
    """The augmentation of a resolved config."""
    names = 'min_crop_area', 'flip', 'translate', 'mixup', 'cutmix'
    return Augmentation(
        **{name: config.augment[name] for name in names},
        **config.augment.randaugment,
        num_phases=num_phases(config),
        label_smoothing=config.label_smoothing,
    )
