"""What a finished run leaves for its report of the augmentation: `augmented.npz`."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mixer_dilated.data.enlarging import enlarged
from mixer_dilated.data.examples import Examples
from mixer_dilated.patches.geometry import Pair
from mixer_dilated.training.augmentation import Augmentation, augmentation_from_config
from mixer_dilated.training.streamed_examples import StreamedExamples
from mixer_dilated.training.workdir import write_arrays

MOST_IMAGES, STEPS = 6, 4
BLOCK = 256  # labels looked at in one go


def write_augmented_images(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    train: Examples | StreamedExamples,
    image_size: Pair,
) -> None:
    """Writes `augmented.npz`, if the config has augmentation: images before and after it.

    Args:
      workdir: the run's folder.
      config: of the run.
      train: the training examples, on the host or streaming.
      image_size: (height, width) that the network sees.

    The file holds `images` uint8 (shown, height, width, channels), the first of as many classes;
    `drawn` uint8 (columns, shown, height, width, channels), what becomes of these as one batch with
    the first seed: at the first step each change alone, if there are several, then at each of the
    first steps all of them; and `titles`, text (columns,).
    """
    whole = augmentation_from_config(config)
    alone = whole.each_alone
    if not alone:
        return
    first = np.asarray(train.images[_first_of_classes(train.labels)])
    images = np.asarray(enlarged(first, image_size))
    seed_key = jax.random.key(config.seed)
    drawn = {name: _augmented(one, seed_key, 0, images) for name, one in alone.items()}
    prefix = 'together, ' if len(alone) > 1 else f'{drawn.popitem()[0]}, '
    for step in range(STEPS):
        drawn[f'{prefix}step {step + 1}'] = _augmented(whole, seed_key, step, images)
    write_arrays(
        workdir / 'augmented.npz',
        images=images,
        drawn=np.stack([np.asarray(one) for one in drawn.values()]),
        titles=np.array(list(drawn)),
    )


def _first_of_classes(labels) -> list[int]:
    """Of as many classes as are shown the first example, without a look at what comes after."""
    found = {}
    for start in range(0, len(labels), BLOCK):
        for number, label in enumerate(np.asarray(labels[start : start + BLOCK]).tolist(), start):
            found.setdefault(label, number)
            if len(found) == MOST_IMAGES:
                return [*found.values()]
    return [*found.values()]


@functools.partial(jax.jit, static_argnums=0)
def _augmented(
    augmentation: Augmentation, seed_key: jax.Array, step: int, images: jax.Array
) -> jax.Array:
    """uint8 images as a step shows them, mixed."""
    shown = augmentation.shown(seed_key, step, images).astype(jnp.float32)
    mixed = augmentation.mixing(seed_key, step, images.shape[1:3]).images(shown)
    return jnp.round(mixed).astype(jnp.uint8)
