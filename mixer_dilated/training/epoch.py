"""An epoch, and an evaluation, as one program over data on the device, for one seed."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.training.train_state import TrainState
from jaxtyping import Array, Float

from mixer_dilated.data.examples import Examples
from mixer_dilated.data.preprocessing import upsample
from mixer_dilated.parallel.mesh import purpose_key, shard_batch
from mixer_dilated.patches.geometry import Pair


class TrainMetrics(NamedTuple):
    """What the steps of an epoch, so far, add up to; a skipped step counts in the last two only.

    Attributes:
      loss: float32, sum of the losses.
      correct: int32, examples.
      skipped: int32, steps whose loss or gradient was not finite.
      first_skipped: int32, the first of them, counted from 1 over the whole run; 0 if there is
        none.
    """

    loss: jax.Array
    correct: jax.Array
    skipped: jax.Array
    first_skipped: jax.Array

    @classmethod
    def zero(cls, shape: tuple[int, ...] = ()) -> 'TrainMetrics':
        """Of no step yet, on the host; shape (seeds,), or () for a single seed."""
        return cls(np.zeros(shape, np.float32), *(np.zeros(shape, np.int32) for _ in range(3)))


def train_steps(
    state: TrainState,
    sums: TrainMetrics,
    seed_key: jax.Array,
    shared: tuple[Examples, jax.Array],
    *,
    step: Callable,
    batch: int,
    image_size: Pair | None = None,
) -> tuple[TrainState, TrainMetrics]:
    """The next steps of an epoch: one pass over a permutation of the examples, batch by batch.

    The number of steps is an argument of the one program, so that an epoch cut into pieces, in
    whatever way, has the bits of an epoch in one piece. Examples that do not fill a last batch
    wait for another epoch's permutation.

    Args:
      state: the state to start from; its step says which epoch this is and which batch is next.
      sums: of the steps of this epoch before these.
      seed_key: the key of the seed, one of `seed_keys`.
      shared: the training set, on the devices, and the number of steps, int32, which must not
        reach beyond the epoch.
      step: `train_step` with its settings bound.
      batch: examples a step, over all devices.
      image_size: (height, width) that the images are upsample to; None for their own.

    Returns:
      The next state and the sums with these steps.
    """
    examples, num_steps = shared
    num_examples = len(examples.labels)
    steps_per_epoch = num_examples // batch
    key = purpose_key(seed_key, 'permutation', state.step // steps_per_epoch)
    order = jax.random.permutation(key, num_examples)[: steps_per_epoch * batch]
    batches = order.reshape(steps_per_epoch, batch)

    def body(_, carried):
        state, sums = carried
        images, labels = _gather(examples, batches[state.step % steps_per_epoch], image_size)
        state, metrics = step(state, images, labels, seed_key)
        return state, added(sums, metrics, state.step)

    return jax.lax.fori_loop(0, num_steps, body, (state, sums))


def epoch_metrics(sums: TrainMetrics, num_steps: int, batch: int) -> dict[str, np.ndarray]:
    """'loss' (mean over the steps), 'accuracy' and 'skipped', each measured before its step.

    Args:
      sums: of the steps; each array may have an axis of seeds.
      num_steps: skipped ones included; if all are skipped, loss and accuracy are not numbers.
      batch: examples a step.
    """
    sums = TrainMetrics(*map(np.asarray, sums))
    counted = np.where(sums.skipped < num_steps, num_steps - sums.skipped, np.nan)
    return {
        'loss': sums.loss / counted,
        'accuracy': sums.correct / (counted * batch),
        'skipped': sums.skipped,
    }


def evaluate(
    state: TrainState,
    examples: Examples,
    *,
    step: Callable,
    batch: int,
    image_size: Pair | None = None,
) -> dict[str, jax.Array]:
    """Counts every example exactly once; the last batch is filled up with uncounted ones.

    Args:
      state: the parameters to evaluate.
      examples: on the devices.
      step: `eval_step` with its settings bound.
      batch: examples a step, over all devices.
      image_size: as in `train_steps`.

    Returns:
      'loss' (mean cross-entropy) and 'correct' (count).
    """
    num_examples = len(examples.labels)

    def body(sums, index):
        images, labels = _gather(examples, jnp.minimum(index, num_examples - 1), image_size)
        return jax.tree.map(jnp.add, sums, step(state, images, labels, index < num_examples)), None

    zeros = {'loss': jnp.zeros(()), 'correct': jnp.zeros((), jnp.int32)}
    sums, _ = jax.lax.scan(body, zeros, _batches(num_examples, batch))
    return {
        'loss': sums['loss'] / num_examples,
        'correct': sums['correct'],
    }


def predict(
    state: TrainState,
    examples: Examples,
    *,
    classify: Callable,
    batch: int,
    image_size: Pair | None = None,
) -> Float[Array, 'examples classes']:
    """Log-probabilities of every class for every example, in the order of the examples.

    Args:
      state: the parameters.
      examples: on the devices.
      classify: `class_log_probabilities` with its settings bound.
      batch: examples a step, over all devices.
      image_size: as in `train_steps`.
    """
    num_examples = len(examples.labels)

    def body(_, index):
        images, _ = _gather(examples, jnp.minimum(index, num_examples - 1), image_size)
        return None, classify(state, images)

    _, found = jax.lax.scan(body, None, _batches(num_examples, batch))
    return found.reshape(-1, found.shape[-1])[:num_examples]


def _batches(num_examples: int, batch: int) -> jax.Array:
    """Indices (steps, batch) that cover all examples; those past the end only fill up."""
    return jnp.arange(-(-num_examples // batch) * batch).reshape(-1, batch)


def added(
    sums: TrainMetrics, metrics: dict[str, jax.Array], step_number: jax.Array
) -> TrainMetrics:
    """The sums with one step more.

    Args:
      sums: of the steps before it.
      metrics: of `train_step`.
      step_number: which step it was, counted from 1.
    """
    finite = metrics['finite']
    first = ~finite & (sums.skipped == 0)
    return TrainMetrics(
        loss=sums.loss + jnp.where(finite, metrics['loss'], 0),
        correct=sums.correct + jnp.where(finite, metrics['correct'], 0),
        skipped=sums.skipped + ~finite,
        first_skipped=jnp.where(first, step_number, sums.first_skipped),
    )


def _gather(examples: Examples, index: jax.Array, image_size: Pair | None) -> Examples:
    index = shard_batch(index)
    images, labels = (shard_batch(array[index]) for array in examples)
    return Examples(upsample(images, image_size) if image_size else images, labels)
