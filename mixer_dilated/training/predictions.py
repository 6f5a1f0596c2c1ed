"""What a finished run leaves for its report: predictions of the test set, and weights to draw."""

import pathlib

import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float

from mixer_dilated.data.enlarging import enlarged
from mixer_dilated.data.examples import Examples
from mixer_dilated.patches.geometry import Pair
from mixer_dilated.training.agreement import on_host
from mixer_dilated.training.streamed_examples import StreamedExamples
from mixer_dilated.training.workdir import write_arrays

MOST_SHOWN = 24


def write_predictions(
    workdir: pathlib.Path,
    test: Examples | StreamedExamples,
    log_probabilities: Float[Array, 'seeds examples classes'],
    image_size: Pair,
) -> None:
    """Writes `predictions.npz`: probabilities, and the images that a report shows.

    Args:
      workdir: the run's folder.
      test: the test examples, on the host or streaming.
      log_probabilities: of the final parameters of every seed.
      image_size: (height, width) that the network sees.

    The file holds `labels` int32 (examples,), `probabilities` float32 (seeds, examples, classes),
    `class_images` uint8 (classes, height, width, channels): the first image of each class, zeros
    where it has none; and of the first seed's most confident mistakes, the most confident first,
    `shown_index` int32 (shown,) and `shown_images` uint8 (shown, height, width, channels).
    """
    probabilities = np.exp(np.asarray(log_probabilities))
    first, labels = probabilities[0], np.asarray(test.labels, np.int32)
    mistaken = np.flatnonzero(first.argmax(-1) != labels)
    shown = mistaken[np.argsort(-first[mistaken].max(-1), kind='stable')][:MOST_SHOWN]
    class_images = np.zeros((first.shape[-1], *test.images.shape[1:]), np.uint8)
    for label in range(len(class_images)):
        found = np.flatnonzero(labels == label)[:1]
        class_images[label : label + 1][: len(found)] = test.images[found]
    write_arrays(
        workdir / 'predictions.npz',
        labels=labels,
        probabilities=probabilities,
        shown_index=shown.astype(np.int32),
        shown_images=np.asarray(enlarged(test.images[shown], image_size)),
        class_images=np.asarray(enlarged(class_images, image_size)),
    )


def drawn_weights(params: dict) -> dict[str, np.ndarray]:
    """The first seed's stem kernels and first token mixing, to be drawn, on the host.

    Names are the original's: `stem/kernel`, `MixerBlock_0/token_mixing/Dense_0/kernel`.

    Args:
      params: of all seeds; every leaf has a leading axis of seeds.
    """
    flat = traverse_util.flatten_dict(params, sep='/')
    return {
        name: on_host(leaf[0])
        for name, leaf in flat.items()
        if name.rsplit('/', 1)[-1].startswith('kernel')
        and name.startswith(('stem', 'MixerBlock_0/token_mixing/'))
    }


def write_weights(workdir: pathlib.Path, drawn: dict[str, np.ndarray]) -> None:
    """Writes `weights.npz`, of `drawn_weights`, to a run's folder."""
    write_arrays(workdir / 'weights.npz', **drawn)
