"""Grey noise as a data set: what a step costs does not depend on the pictures."""

import dataclasses

import numpy as np

from mixer_dilated.data.examples import Examples, ExamplesInMemory


@dataclasses.dataclass(frozen=True)
class Noise:
    """Random images and labels of any shape and number, as a `Source` with one split, 'train'."""

    image_shape: tuple[int, int, int]
    num_classes: int
    examples: int
    name: str = 'noise'
    fingerprint: str = ''
    identity: str = ''

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.num_classes)))

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        return self.image_shape

    @property
    def split_sizes(self) -> dict[str, int]:
        return {'train': self.examples}

    def read(self, split: str) -> Examples:
        draw = np.random.default_rng(0)
        images = draw.integers(0, 256, (self.examples, *self.image_shape), np.uint8)
        return Examples(images, draw.integers(0, self.num_classes, self.examples, np.int32))

    def records(self, split: str) -> ExamplesInMemory:
        return ExamplesInMemory(self.read(split))
