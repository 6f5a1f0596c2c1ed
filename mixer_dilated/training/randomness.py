"""Everything random comes from `config.seed`, by purpose and index."""

import zlib

import jax


def purpose_key(seed_key: jax.Array, purpose: str, index: int | jax.Array = 0) -> jax.Array:
    """The key of one purpose ('permutation', 'dropout', …) at one epoch or step.

    Args:
      seed_key: `jax.random.key(config.seed)`.
      purpose: what the numbers are for; two purposes never share numbers.
      index: epoch or step.
    """
    key = jax.random.fold_in(seed_key, zlib.crc32(purpose.encode()))
    return jax.random.fold_in(key, index)
