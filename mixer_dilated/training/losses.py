"""The losses of a training step, and what an evaluation sums over examples."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32


def sigmoid_cross_entropy(
    logits: Float[Array, 'batch classes'], targets: Float[Array, 'batch classes']
) -> Float[Array, ' batch']:
    """Sum over classes of the cross-entropy of each class against all others."""
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)


def is_in_top5(
    log_probs: Float[Array, 'batch classes'], labels: Int32[Array, ' batch']
) -> Bool[Array, ' batch']:
    """Whether at most four classes are more probable, or as probable, as an example's own.

    False where the log-probabilities are not numbers.
    """
    of_label = jnp.take_along_axis(log_probs, labels[:, None], axis=1)
    rank = jnp.sum(log_probs >= of_label, axis=-1)
    return (rank > 0) & (rank <= 5)


LOSSES = {'softmax': optax.softmax_cross_entropy, 'sigmoid': sigmoid_cross_entropy}
# What an evaluation sums over examples.
EVALUATION = {'loss': jnp.float32, 'correct': jnp.int32, 'top5': jnp.int32}
