"""The training step and the evaluation step: pure functions of one batch."""

import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jaxtyping import Array, Bool, Float, Int32, UInt8

from mixer_dilated.data.augmentation import random_shift
from mixer_dilated.training.randomness import purpose_key


def normalise(
    images: UInt8[Array, 'batch height width channels'],
) -> Float[Array, 'batch height width channels']:
    """uint8 0 … 255 to float32 -1 … 1, as the original Mixer takes its images."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def train_step(
    state: TrainState,
    images: UInt8[Array, 'batch height width channels'],
    labels: Int32[Array, ' batch'],
    seed_key: jax.Array,
    *,
    label_smoothing: float = 0.0,
    max_shift: int = 0,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of gradient descent on one batch.

    Args:
      state: parameters, optimizer state, step.
      images: uint8 (B, H, W, C).
      labels: int32 (B,).
      seed_key: `jax.random.key(config.seed)`.
      label_smoothing: share of each label spread evenly over the classes.
      max_shift: pixels of random shift augmentation, 0 for none.

    Returns:
      The next state, and 'loss' (mean cross-entropy, smoothed labels) and 'correct' (count) of
      the batch before the step.
    """
    if max_shift:
        images = random_shift(purpose_key(seed_key, 'shift', state.step), images, max_shift)
    dropout_key = purpose_key(seed_key, 'dropout', state.step)

    def loss_fn(params):
        logits = state.apply_fn(
            {'params': params}, normalise(images), train=True, rngs={'dropout': dropout_key}
        )
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean(), logits

    (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    correct = jnp.sum(logits.argmax(-1) == labels)
    return state.apply_gradients(grads=grads), {'loss': loss, 'correct': correct}


def eval_step(
    state: TrainState,
    images: UInt8[Array, 'batch height width channels'],
    labels: Int32[Array, ' batch'],
    counted: Bool[Array, ' batch'],
) -> dict[str, jax.Array]:
    """Sums over one batch, without dropout.

    Args:
      state: the parameters to evaluate.
      images: uint8 (B, H, W, C).
      labels: int32 (B,).
      counted: False for examples that only fill the batch.

    Returns:
      'loss' (summed cross-entropy) and 'correct' (count) over the counted examples.
    """
    logits = state.apply_fn({'params': state.params}, normalise(images), train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return {
        'loss': jnp.sum(losses, where=counted),
        'correct': jnp.sum(logits.argmax(-1) == labels, where=counted),
    }
