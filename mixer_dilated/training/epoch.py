"""A whole epoch, and a whole evaluation, as one program over data on the device, for one seed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState
from jaxtyping import Array, Float

from mixer_dilated.data.examples import Examples
from mixer_dilated.training.randomness import purpose_key
from mixer_dilated.training.sharding import split_batch


def train_epoch(
    state: TrainState,
    seed_key: jax.Array,
    examples: Examples,
    *,
    step: Callable,
    batch: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One pass over a permutation of the examples, batch by batch under `lax.scan`.

    Examples that do not fill a last batch wait for another epoch's permutation.

    Args:
      state: the state to start from; its step says which epoch this is.
      seed_key: the key of the seed, one of `seed_keys`.
      examples: the training set, on the devices.
      step: `train_step` with its settings bound.
      batch: examples a step, over all devices.

    Returns:
      The next state, and 'loss' (mean over the steps) and 'accuracy' (over the examples seen),
      each measured before its step.
    """
    num_examples = len(examples.labels)
    num_steps = num_examples // batch
    key = purpose_key(seed_key, 'permutation', state.step // num_steps)
    order = jax.random.permutation(key, num_examples)[: num_steps * batch]

    def body(state, index):
        images, labels = _gather(examples, index)
        return step(state, images, labels, seed_key)

    state, metrics = jax.lax.scan(body, state, order.reshape(num_steps, batch))
    return state, {
        'loss': metrics['loss'].mean(),
        'accuracy': metrics['correct'].sum() / order.size,
    }


def evaluate(
    state: TrainState, examples: Examples, *, step: Callable, batch: int
) -> dict[str, jax.Array]:
    """Counts every example exactly once; the last batch is filled up with uncounted ones.

    Args:
      state: the parameters to evaluate.
      examples: on the devices.
      step: `eval_step` with its settings bound.
      batch: examples a step, over all devices.

    Returns:
      'loss' (mean cross-entropy) and 'correct' (count).
    """
    num_examples = len(examples.labels)

    def body(sums, index):
        images, labels = _gather(examples, jnp.minimum(index, num_examples - 1))
        return jax.tree.map(jnp.add, sums, step(state, images, labels, index < num_examples)), None

    zeros = {'loss': jnp.zeros(()), 'correct': jnp.zeros((), jnp.int32)}
    sums, _ = jax.lax.scan(body, zeros, _batches(num_examples, batch))
    return {
        'loss': sums['loss'] / num_examples,
        'correct': sums['correct'],
    }


def predict(
    state: TrainState, examples: Examples, *, classify: Callable, batch: int
) -> Float[Array, 'examples classes']:
    """Log-probabilities of every class for every example, in the order of the examples.

    Args:
      state: the parameters.
      examples: on the devices.
      classify: `class_log_probabilities` with its settings bound.
      batch: examples a step, over all devices.
    """
    num_examples = len(examples.labels)

    def body(_, index):
        images, _ = _gather(examples, jnp.minimum(index, num_examples - 1))
        return None, classify(state, images)

    _, found = jax.lax.scan(body, None, _batches(num_examples, batch))
    return found.reshape(-1, found.shape[-1])[:num_examples]


def _batches(num_examples: int, batch: int) -> jax.Array:
    """Indices (steps, batch) that cover all examples; those past the end only fill up."""
    return jnp.arange(-(-num_examples // batch) * batch).reshape(-1, batch)


def _gather(examples: Examples, index: jax.Array) -> Examples:
    index = split_batch(index)
    return Examples(*(split_batch(array[index]) for array in examples))
