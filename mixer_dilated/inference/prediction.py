"""Classifies image files in batches, which are decoded while the device computes."""

import dataclasses
import itertools
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from mixer_dilated.data.examples import Examples
from mixer_dilated.data.image_decoding import SUFFIXES
from mixer_dilated.data.image_files import Ignored, walk_images
from mixer_dilated.data.preprocessing import decode_images
from mixer_dilated.data.stored_images import to_input
from mixer_dilated.errors import UserError
from mixer_dilated.inference.calibration import apply_temperature, read_temperatures
from mixer_dilated.inference.trained import read_trained_setup, restore_checkpoint
from mixer_dilated.paths import PathLike, as_path
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.run_folder import read_config

ImagePath = str | tuple[str, UserError]  # with the error, of a path that cannot be used

MAX_LINE_BYTES = 2**16  # of a list of files


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction of one file, or why it cannot be used."""

    path: str
    probabilities: Float[np.ndarray, ' classes'] | None = None  # float64, the mean over the seeds
    image: UInt8[np.ndarray, 'height width channels'] | None = None  # as the network sees it
    error: str = ''

    def top(self, class_names: tuple[str, ...], count: int) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities, the first of equals first."""
        order = np.argsort(-self.probabilities, kind='stable')[:count]
        return [(class_names[label], float(self.probabilities[label])) for label in order]


class Classifier:
    """The network of a run, of all its seeds, for batches of one size, `batch`.

    `preprocessing` says how image files become its images. `best` is the checkpoint of the highest
    validation accuracy instead of the newest. Raises UserError: no run or no checkpoint there.
    """

    def __init__(self, workdir: pathlib.Path, batch: int, *, best: bool = False):
        setup, self.preprocessing = read_trained_setup(workdir)
        self.batch = batch
        self.class_names = setup.dataset.class_names
        self._compiled = CompiledFunctions.for_devices(setup.changed({'batch_eval': batch}))
        run = restore_checkpoint(workdir, self._compiled, best=best)
        self._state, self._sums = run.state, self._compiled.empty_sums()
        self._temperatures = read_temperatures(workdir, run.step)
        self._labels = np.zeros(batch, np.int32)  # eval_step takes labels; these are not used

    def log_probs(self, images: list[np.ndarray]) -> Float[Array, 'seeds batch classes']:
        """Log-probabilities, which the devices start to compute; compiled at the first call.

        Where the uint8 images are fewer than `batch`, so are the rows that mean anything.
        """
        batch = np.zeros((self.batch, *self.preprocessing.stored_shape), np.uint8)
        batch[: len(images)] = images
        (inputs,) = self._compiled.in_memory(Examples(batch, self._labels)).eval_batches()
        _, log_probs = self._compiled.eval_step(self._state, self._sums, inputs)
        return log_probs[:, : self.batch]

    def seen(self, image: np.ndarray) -> UInt8[np.ndarray, 'height width channels']:
        """A stored image as the network sees it."""
        return np.asarray(to_input(image[None], self.preprocessing.image_shape[:2])[0])

    def mean_probabilities(
        self, log_probs: Float[Array, 'seeds batch classes']
    ) -> Float[np.ndarray, 'batch classes']:
        """The mean over the seeds, each at the temperature fitted for it, on the host."""
        pairs = zip(jax.device_get(log_probs), self._temperatures, strict=True)
        return np.mean([np.exp(apply_temperature(*pair)) for pair in pairs], axis=0)


def image_paths(words: Iterable[str], ignored: Ignored) -> Iterator[ImagePath]:
    """Lists the image files that the words of a command line name, in the order of the words.

    A folder is the image files in it and in all folders below (see `walk_images`, which adds to
    `ignored`), '-' the paths that standard input lists, one a line, anything else that file. Raises
    UserError for '-', if standard input is closed, or a line of it is no path.

    Yields:
      A path; or, of a folder that cannot be read or holds no images, its path and the error.
    """
    for word in words:
        if word == '-':
            if sys.stdin is None:  # closed, as by `<&-`
                raise UserError(
                    "'-': standard input is closed; give it a list of files, as in find album | …, "
                    'or name the files'
                )
            while line := sys.stdin.buffer.readline(MAX_LINE_BYTES):
                if len(line) == MAX_LINE_BYTES:
                    raise UserError(f"'-': a line of {len(line)} bytes; give it paths, one a line")
                if path := os.fsdecode(line).rstrip('\r\n'):
                    yield path
        elif os.path.isdir(word):
            yield from _list_folder(word, ignored)
        else:
            yield word


def _list_folder(folder: str, ignored: Ignored) -> Iterator[ImagePath]:
    entry = None
    try:
        for entry in walk_images(folder, ignored):
            yield entry.path
        if not entry:
            yield folder, UserError(f'a folder without images ({", ".join(SUFFIXES)})')
    except UserError as error:
        yield folder, error


def open_classifier(
    workdir: PathLike, paths: Iterable[ImagePath], *, best: bool = False, max_pixels: int = 0
) -> tuple[Classifier, Iterable[ImagePath]]:
    """Opens a classifier whose batch suits the paths; returns it and all of the paths.

    The batch is `config.batch_eval`; if there are fewer paths, the power of two that holds them.
    An image may have `max_pixels`, as the run says if 0. Raises UserError: no run there, or not a
    single path.
    """
    workdir, paths = as_path(workdir), iter(paths)
    max_batch = read_config(workdir).batch_eval
    first = [*itertools.islice(paths, max_batch)]
    if not first:
        raise UserError('no images to predict; name files or folders of images')
    batch = min(max_batch, 1 << (len(first) - 1).bit_length())
    classifier = Classifier(workdir, batch, best=best)
    if max_pixels:
        limit = {'max_pixels': max_pixels}
        classifier.preprocessing = dataclasses.replace(classifier.preprocessing, **limit)
    return classifier, itertools.chain(first, paths)


def predict(classifier: Classifier, paths: Iterable[ImagePath]) -> Iterator[Prediction]:
    """Predicts the class of every file; those that failed keep their place.

    While the device computes one batch, threads decode the next ones, and the one before is
    yielded.
    """
    previous = [], None
    for files in _batch_files(classifier, paths):
        images = [image for _, image in files if not isinstance(image, UserError)]
        log_probs = classifier.log_probs(images) if images else None
        yield from _make_predictions(classifier, *previous)
        previous = files, log_probs
    yield from _make_predictions(classifier, *previous)


def _batch_files(classifier: Classifier, paths: Iterable[ImagePath]) -> Iterator[list[tuple]]:
    """Paths with their images, or errors, of which at most a batch is images."""
    files, num_images = [], 0
    for path, image in decode_images(paths, classifier.preprocessing, ahead=classifier.batch):
        files.append((path, image))
        num_images += not isinstance(image, UserError)
        # Files that fail take no place in a batch, but must not pile up.
        if num_images == classifier.batch or len(files) == 4 * classifier.batch:
            yield files
            files, num_images = [], 0
    if files:
        yield files


def _make_predictions(
    classifier: Classifier, files: list[tuple], log_probs: jax.Array | None
) -> Iterator[Prediction]:
    rows = iter(() if log_probs is None else classifier.mean_probabilities(log_probs))
    for path, image in files:
        if isinstance(image, UserError):
            yield Prediction(path, error=str(image))
        else:
            yield Prediction(path, next(rows), classifier.seen(image))
