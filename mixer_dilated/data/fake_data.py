"""Grey noise as a data set: what a step costs does not depend on the pictures."""

import dataclasses

import numpy as np

from mixer_dilated.data.examples import Examples, InMemoryDataSource


@dataclasses.dataclass(frozen=True)
class FakeData:
    """Random images and labels of any shape and number, as a `Dataset` with one split, 'train'.

    Attributes:
      image_shape: that the network sees.
      num_classes, examples: how many.
      stored_shape: before images are upsample on the device; the same if None.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    examples: int
    name: str = 'noise'
    fingerprint: str = ''
    identity: str = ''
    stored_shape: tuple[int, int, int] | None = None

    def __post_init__(self):
        if self.stored_shape is None:
            object.__setattr__(self, 'stored_shape', self.image_shape)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.num_classes)))

    @property
    def split_sizes(self) -> dict[str, int]:
        return {'train': self.examples}

    def read(self, split: str) -> Examples:
        draw = np.random.default_rng(0)
        images = draw.integers(0, 256, (self.examples, *self.stored_shape), np.uint8)
        return Examples(images, draw.integers(0, self.num_classes, self.examples, np.int32))

    def data_source(self, split: str) -> InMemoryDataSource:
        return InMemoryDataSource(self.read(split))
