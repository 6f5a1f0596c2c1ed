"""scikit-learn's handwritten digits: 1797 images of 8×8, inside the package, no network ever."""

import functools

import numpy as np

from mixer_dilated.data.examples import Examples, ExamplesInMemory
from mixer_dilated.data.splits import split_slices


class Digits:
    """The embedded data set, as a `Source`.

    Args:
      side: pixels a side that a network sees, at least the 8 that are stored.

    The split is fixed and stratified: of each class, every fifth image is a test image. Grey
    levels 0 … 16 become 0 … 255.
    """

    name = 'digits'
    stored_shape = (8, 8, 1)
    num_classes = 10
    class_names = tuple('0123456789')
    split_sizes = {'train': 1433, 'test': 364}
    fingerprint = 'digits of scikit-learn, every fifth of a class is test, grey * 255 / 16'
    identity = fingerprint

    def __init__(self, side: int = 8):
        self.image_shape = (side, side, 1)

    def read(self, split: str) -> Examples:
        """Decodes the examples of a split given in TFDS split syntax, in the stored order."""
        parts = _splits()
        slices = [
            Examples(parts[name].images[start:stop], parts[name].labels[start:stop])
            for name, start, stop in split_slices('split', split, self.split_sizes)
        ]
        return Examples(*(np.concatenate(arrays) for arrays in zip(*slices, strict=True)))

    def records(self, split: str) -> ExamplesInMemory:
        """The same examples by number; they are small enough to be decoded in any case."""
        return ExamplesInMemory(self.read(split))


@functools.cache
def _splits() -> dict[str, Examples]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[::5]] = True
    return {
        name: Examples(images[chosen], labels[chosen])
        for name, chosen in (('train', ~is_test), ('test', is_test))
    }
