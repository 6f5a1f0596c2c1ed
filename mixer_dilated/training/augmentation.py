"""What training makes of a batch before the network sees it: `Augmentation`."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import ml_collections
from jaxtyping import Array, Int32, UInt8

from mixer_dilated.config import phase_range
from mixer_dilated.data.augmentation import random_flip, random_phase, random_shift
from mixer_dilated.data.mixing import Mixing, draw_cutmix, draw_mixup, one_of
from mixer_dilated.data.randaugment import randaugment
from mixer_dilated.data.random_crop import random_resized_crop
from mixer_dilated.patches.geometry import Pair
from mixer_dilated.training.accumulation import in_parts
from mixer_dilated.training.randomness import purpose_key
from mixer_dilated.training.sharding import split_batch

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
      phase_range: phases along (height, width), one of which each image is shown at.
      mixup, cutmix: α of the Beta distribution, 0 for none; of both one is drawn a batch.
      label_smoothing: share of each target spread evenly over the classes.
    """

    crop: float = 0.0
    flip: bool = False
    shift: int = 0
    num_layers: int = 0
    magnitude: float = 10.0
    fill: int = 0
    phase_range: Pair = (1, 1)
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0

    @property
    def each_alone(self) -> dict[str, 'Augmentation']:
        """Every random change of images by itself, in order, by its name under `config.augment`."""
        fields = {
            **{name: (name,) for name in ('crop', 'flip', 'shift')},
            'randaugment': ('num_layers', 'magnitude', 'fill'),
            'random_phase': ('phase_range',),
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
            images = randaugment(drawn, images, *settings, compute=piece_by_piece)
        if self.phase_range != (1, 1):
            images = random_phase(key('phase'), images, self.phase_range)
        return images

    def mixing(self, seed_key: jax.Array, step: Int32[Array, ''] | int, image_size: Pair) -> Mixing:
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
        return found[0] if found else Mixing()


def piece_by_piece(function: Callable, *batch: jax.Array) -> jax.Array:
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
    found = jax.lax.map(lambda piece: function(*piece), in_parts(batch, pieces))
    return split_batch(found.swapaxes(0, 1).reshape(-1, *found.shape[2:]))


NO_AUGMENTATION = Augmentation()


def augmentation_from_config(config: ml_collections.ConfigDict) -> Augmentation:
    """What a resolved config asks for."""
    augment = config.augment
    return Augmentation(
        **{key: augment[key] for key in ('crop', 'flip', 'shift', 'mixup', 'cutmix')},
        **augment.randaugment,
        phase_range=phase_range(config),
        label_smoothing=config.label_smoothing,
    )
