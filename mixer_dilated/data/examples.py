"""Examples, the protocols of a data set, and TFDS split syntax."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int32, UInt8

from mixer_dilated.errors import UserError


class Examples(NamedTuple):
    """Images and their labels, in memory or memory-mapped.

    Attributes:
      images: uint8 (examples, height, width, channels).
      labels: int32 (examples,), from 0 to num_classes - 1.
    """

    images: UInt8[np.ndarray, 'examples height width channels']
    labels: Int32[np.ndarray, ' examples']


def checksums(examples: Examples) -> dict[str, int]:
    """CRC-32 of the images and of the labels."""
    return {name: zlib.crc32(array) for name, array in examples._asdict().items()}


class RandomAccessDataSource(Protocol):
    """The examples of a split, each decoded when it is asked for; other processes can have it.

    Attributes:
      image_shape: (height, width, channels) of the images, the source's `stored_shape`.
    """

    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        """How many there are."""

    def read(self, index: Sequence[int]) -> Examples:
        """The examples of these numbers, which count from 0 in the stored order.

        The pixels are those of `Dataset.read`. Raises UserError as that does.
        """

    def labels(self, index: Sequence[int]) -> Int32[np.ndarray, ' examples']:
        """Their labels alone, without decoding an image."""


class InMemoryDataSource(NamedTuple):
    """Examples that are decoded already, as `RandomAccessDataSource`."""

    examples: Examples

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.examples.images.shape[1:]

    def __len__(self) -> int:
        return len(self.examples.labels)

    def read(self, index: Sequence[int]) -> Examples:
        return Examples(*(array[np.asarray(index)] for array in self.examples))

    def labels(self, index: Sequence[int]) -> Int32[np.ndarray, ' examples']:
        return self.examples.labels[np.asarray(index)]


class Dataset(Protocol):
    """A data set whose facts are known before anything is decoded.

    Attributes:
      name: the data set's name.
      image_shape: (height, width, channels) that a network sees.
      stored_shape: of the images that `read` gives; if it is another, they are `upsample`.
      num_classes: number of labels.
      class_names: of each label its name.
      split_sizes: examples in each named split.
      fingerprint: changes whenever the examples may have changed.
      identity: is the same for a copy of the data, which `fingerprint` need not be.
    """

    name: str
    image_shape: tuple[int, int, int]
    stored_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    split_sizes: dict[str, int]
    fingerprint: str
    identity: str

    def read(self, split: str) -> Examples:
        """Decodes the examples of a split given in TFDS split syntax, in the stored order."""

    def records(self, split: str) -> RandomAccessDataSource:
        """The same examples, none of them decoded yet."""


def split_slices(key: str, split: str, split_sizes: dict[str, int]) -> list[tuple[str, int, int]]:
    """The (name, start, stop) slices that a split string asks for.

    Args:
      key: the config key that holds the string, for the message.
      split: the string.
      split_sizes: examples in each named split.

    Raises:
      UserError: a string that cannot be read, a split that does not exist, or no examples.
    """
    import tensorflow_datasets as tfds

    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
        for name, size in split_sizes.items()
    }
    try:
        instructions = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, AssertionError, KeyError) as error:
        cause = ' '.join(str(error).split())
        raise UserError(
            f'{key} = {split!r}: {cause} Available: {_listed(split_sizes)}; for example '
            f"'{next(iter(split_sizes))}[:100]'"
        ) from None
    slices = [
        (
            part.splitname,
            part.from_ or 0,
            split_sizes[part.splitname] if part.to is None else part.to,
        )
        for part in instructions
    ]
    if any(stop <= start for _, start, stop in slices):
        raise UserError(
            f'{key} = {split!r}: a part of it holds no examples; available: {_listed(split_sizes)}'
        )
    return slices


def num_examples(key: str, split: str, split_sizes: dict[str, int]) -> int:
    """Number of examples in a split. Raises as `split_slices` does."""
    return sum(stop - start for _, start, stop in split_slices(key, split, split_sizes))


def check_disjoint(
    key: str, split: str, others: dict[str, str], split_sizes: dict[str, int]
) -> None:
    """Raises UserError if a split shares examples with one of several others.

    Args:
      key: the flag or config key that holds `split`, for the message.
      split: TFDS split syntax.
      others: the flags or keys of the others, and what they hold.
      split_sizes: examples in each named split.
    """
    slices = split_slices(key, split, split_sizes)
    for other_key, other in others.items():
        shared = sum(
            max(0, min(stop, other_stop) - max(start, other_start))
            for name, start, stop in slices
            for other_name, other_start, other_stop in split_slices(other_key, other, split_sizes)
            if name == other_name
        )
        if shared:
            raise UserError(
                f'{key} = {split!r}: {shared} of its examples are in {other_key} = {other!r} too; '
                f'name others; available: {_listed(split_sizes)}'
            )


def _listed(split_sizes: dict[str, int]) -> str:
    return ', '.join(f'{name} ({size} examples)' for name, size in split_sizes.items())
