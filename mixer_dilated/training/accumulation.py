"""Gradient accumulation: a batch in parts, one after the other, for one update."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mixer_dilated.training.sharding import split_batch


def in_parts(batch, accum_steps: int):
    """A tree of arrays (batch, …) as one of (parts, batch / parts, …).

    Part i has the examples i, i + parts, i + 2 · parts, …: of a batch that is split over devices
    each has its share of every part, and nothing moves.

    Args:
      batch: arrays of one seed, their first axis the batch.
      accum_steps: parts; they divide the batch.
    """

    def parts(array):
        rows = array.reshape(-1, accum_steps, *array.shape[1:])
        return split_batch(rows.swapaxes(0, 1), axis=1)

    return jax.tree.map(parts, batch)


def accumulated(value_and_grad: Callable, params, parts: tuple):
    """Means over the parts of a batch of a loss and of its gradient, part after part.

    Args:
      value_and_grad: of parameters and one part to ((loss, other), gradient).
      params: its first argument.
      parts: its other ones, each a tree of arrays whose first axis is that of the parts.

    Returns:
      ((loss, other), gradient); 'other' with an axis of parts first.
    """

    def add(sums, part):
        (loss, other), gradient = value_and_grad(params, *part)
        return jax.tree.map(jnp.add, sums, (loss, gradient)), other

    zeros = jax.tree.map(jnp.zeros_like, (jnp.float32(0), params))
    sums, other = jax.lax.scan(add, zeros, parts)
    count = len(jax.tree.leaves(parts)[0])
    loss, gradient = jax.tree.map(lambda total: total / count, sums)
    return (loss, other), gradient
