"""What every data source gives, and every training program takes."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int32, UInt8


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


class Records(Protocol):
    """The examples of a split, each decoded when it is asked for; other processes can have it.

    Attributes:
      image_shape: (height, width, channels) of the images, the source's `stored_shape`.
    """

    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        """How many there are."""

    def read(self, index: Sequence[int]) -> Examples:
        """The examples of these numbers, which count from 0 in the stored order.

        The pixels are those of `Source.read`. Raises InputError as that does.
        """

    def labels(self, index: Sequence[int]) -> Int32[np.ndarray, ' examples']:
        """Their labels alone, without decoding an image."""


class ExamplesInMemory(NamedTuple):
    """Examples that are decoded already, as `Records`."""

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


class Source(Protocol):
    """A data set whose facts are known before anything is decoded.

    Attributes:
      name: the data set's name.
      image_shape: (height, width, channels) that a network sees.
      stored_shape: of the images that `read` gives; if it is another, they are `enlarged`.
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

    def records(self, split: str) -> Records:
        """The same examples, none of them decoded yet."""
