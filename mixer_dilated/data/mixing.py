"""Mixing of each training example with its neighbour in the batch: mixup and cutmix."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@dataclasses.dataclass(frozen=True)
class Mixing:
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


def draw_mixup(key: jax.Array, alpha: float) -> Mixing:
    """Draws one share for a batch (mixup, arXiv:1710.09412).

        share = max(b, 1 - b), b ~ Beta(α, α)

    It is at least a half, so that an example stays more itself than its neighbour.

    Args:
      key: random key.
      alpha: α > 0.
    """
    drawn = jax.random.beta(key, alpha, alpha)
    share = jnp.maximum(drawn, 1 - drawn)
    return Mixing(share, share)


def draw_cutmix(key: jax.Array, alpha: float, image_size: tuple[int, int]) -> Mixing:
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
    return Mixing(own, own.mean())


def one_of(key: jax.Array, one: Mixing, other: Mixing) -> Mixing:
    """Either of two mixings, with equal probability."""
    first = jax.random.bernoulli(key)
    return Mixing(
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
