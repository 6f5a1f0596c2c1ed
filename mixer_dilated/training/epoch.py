"""A whole epoch, and a whole evaluation, as one program over data on the device."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState
from jax.sharding import Mesh

from mixer_dilated.data.examples import Examples
from mixer_dilated.training.randomness import purpose_key
from mixer_dilated.training.sharding import batch_sharding
from mixer_dilated.training.step import eval_step


def train_epoch(
    state: TrainState,
    examples: Examples,
    seed_key: jax.Array,
    *,
    step: Callable,
    batch: int,
    mesh: Mesh,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One pass over a permutation of the examples, batch by batch under `lax.scan`.

    Examples that do not fill a last batch wait for another epoch's permutation.

    Args:
      state: the state to start from; its step says which epoch this is.
      examples: the training set, on the devices.
      seed_key: `jax.random.key(config.seed)`.
      step: `train_step` with its settings bound.
      batch: examples a step, over all devices.
      mesh: the devices; the batch is split over its axis 'data'.

    Returns:
      The next state, and 'loss' (mean over the steps) and 'accuracy' (over the examples seen),
      each measured before its step.
    """
    num_examples = len(examples.labels)
    num_steps = num_examples // batch
    key = purpose_key(seed_key, 'permutation', state.step // num_steps)
    order = jax.random.permutation(key, num_examples)[: num_steps * batch]

    def body(state, index):
        images, labels = _gather(examples, index, mesh)
        return step(state, images, labels, seed_key)

    state, metrics = jax.lax.scan(body, state, order.reshape(num_steps, batch))
    return state, {
        'loss': metrics['loss'].mean(),
        'accuracy': metrics['correct'].sum() / order.size,
    }


def evaluate(
    state: TrainState, examples: Examples, *, batch: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """Counts every example exactly once; the last batch is filled up with uncounted ones.

    Returns:
      'loss' (mean cross-entropy) and 'correct' (count).
    """
    num_examples = len(examples.labels)
    num_batches = -(-num_examples // batch)
    index = jnp.arange(num_batches * batch).reshape(num_batches, batch)

    def body(sums, index):
        images, labels = _gather(examples, jnp.minimum(index, num_examples - 1), mesh)
        return jax.tree.map(
            jnp.add, sums, eval_step(state, images, labels, index < num_examples)
        ), None

    zeros = {'loss': jnp.zeros(()), 'correct': jnp.zeros((), jnp.int32)}
    sums, _ = jax.lax.scan(body, zeros, index)
    return {
        'loss': sums['loss'] / num_examples,
        'correct': sums['correct'],
    }


def _gather(examples: Examples, index: jax.Array, mesh: Mesh) -> Examples:
    constrain = functools.partial(jax.lax.with_sharding_constraint, shardings=batch_sharding(mesh))
    index = constrain(index)
    return Examples(*(constrain(array[index]) for array in examples))
