"""From paths to predictions, in batches; decoding goes on while the device computes."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

from mixer_dilated.data.preprocessing import decode_images
from mixer_dilated.errors import UserError
from mixer_dilated.prediction.classifier import Classifier
from mixer_dilated.training.run_folder import read_config


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network says of one file.

    Attributes:
      path: the file.
      probabilities: float64 (classes,), the mean over the seeds; None for a file that failed.
      image: uint8 (height, width, channels), as the network sees it; None likewise.
      error: why the file cannot be used; '' if it can.
    """

    path: str
    probabilities: Float[np.ndarray, ' classes'] | None = None
    image: UInt8[np.ndarray, 'height width channels'] | None = None
    error: str = ''

    def top(self, count: int) -> list[tuple[int, float]]:
        """The most probable classes, the first of equals first, with their probabilities."""
        order = np.argsort(-self.probabilities, kind='stable')[:count]
        return [(int(label), float(self.probabilities[label])) for label in order]


def open_classifier(
    workdir: pathlib.Path, paths: Iterable, *, best: bool = False
) -> tuple[Classifier, Iterable]:
    """A classifier whose batch suits the paths, and all of the paths.

    The batch is `config.batch_eval`; if there are fewer paths, the power of two that holds them.

    Raises:
      UserError: no run there, or not a single path.
    """
    paths = iter(paths)
    most = read_config(workdir).batch_eval
    first = [*itertools.islice(paths, most)]
    if not first:
        raise UserError('no pictures to predict; name files or folders of pictures')
    batch = min(most, 1 << (len(first) - 1).bit_length())
    return Classifier(workdir, batch, best=best), itertools.chain(first, paths)


def predictions(classifier: Classifier, paths: Iterable) -> Iterator[Prediction]:
    """The prediction of every path, batch by batch, with those that failed in between.

    While the device computes one batch, threads decode the next ones, and the one before is
    yielded.

    Args:
      classifier: the network.
      paths: each a path, or a pair of a path and the UserError that says why it cannot be used.
    """
    waiting = []
    for found in _batches(classifier, paths):
        waiting.append(found)
        if len(waiting) > 1:
            yield from _pair_predictions(classifier, *waiting.pop(0))
    for found in waiting:
        yield from _pair_predictions(classifier, *found)


def _batches(classifier: Classifier, paths: Iterable) -> Iterator[tuple]:
    """Of each batch the files, the images, and the probabilities, which are being computed."""
    files, images = [], []
    for path, image in decode_images(paths, classifier.preprocessing, ahead=classifier.batch):
        files.append((path, image))
        if not isinstance(image, UserError):
            images.append(image)
        # Files that fail take no place in a batch, but must not be kept for ever.
        if len(images) == classifier.batch or len(files) == 4 * classifier.batch:
            yield files, _computing(classifier, images)
            files, images = [], []
    if files:
        yield files, _computing(classifier, images)


def _computing(classifier: Classifier, images: list[np.ndarray]):
    if not images:
        return None
    filled = np.zeros((classifier.batch, *classifier.preprocessing.image_shape), np.uint8)
    filled[: len(images)] = images
    return classifier(filled)


def _pair_predictions(
    classifier: Classifier, files: list[tuple], computing
) -> Iterator[Prediction]:
    rows = iter(() if computing is None else classifier.probabilities(computing))
    for path, image in files:
        if isinstance(image, UserError):
            yield Prediction(path, error=str(image))
        else:
            yield Prediction(path, next(rows), image)
