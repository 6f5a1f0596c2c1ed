"""Random keys: everything random follows from `config.seed`, a purpose, and an epoch or step."""

import zlib

import jax
import jax.numpy as jnp


def seed_keys(seed: int, num_seeds: int) -> jax.Array:
    """The keys of the seeds `seed`, `seed` + 1, … of a run: an array of keys (num_seeds,)."""
    return jax.vmap(jax.random.key)(jnp.uint32(seed) + jnp.arange(num_seeds, dtype=jnp.uint32))


def purpose_key(seed_key: jax.Array, purpose: str, index: int | jax.Array = 0) -> jax.Array:
    """The key of one purpose ('permutation', 'dropout', …) at one epoch or step.

    Args:
      seed_key: the key of one seed, one of `seed_keys`.
      purpose: two purposes never share random numbers. It is part of the key: a renamed purpose
        draws other numbers.
      index: epoch or step.
    """
    key = jax.random.fold_in(seed_key, zlib.crc32(purpose.encode()))
    return jax.random.fold_in(key, index)
