"""The training step and the evaluation step: pure functions of one batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax.training.train_state import TrainState
from jaxtyping import Array, Bool, Float, Int32, UInt8

from mixer_dilated.config import num_phases
from mixer_dilated.data.augmentation import NO_AUGMENTATION, Augmentation, at_phase
from mixer_dilated.parallel.mesh import purpose_key, split_microbatches
from mixer_dilated.patches.geometry import Pair


def normalise(
    images: UInt8[Array, 'batch height width channels'],
) -> Float[Array, 'batch height width channels']:
    """uint8 0 … 255 to float32 -1 … 1, as the original Mixer takes its images."""
    return images.astype(jnp.float32) / 127.5 - 1.0


class Batch(NamedTuple):
    """A batch, or a part of one, as a step shows it.

    Attributes:
      images: uint8 (B, H, W, C).
      labels: int32 (B,).
      images_before, labels_before: what each is mixed with, if that may be in another part.
    """

    images: jax.Array
    labels: jax.Array
    images_before: jax.Array | None = None
    labels_before: jax.Array | None = None

    def with_neighbours(self) -> 'Batch':
        """With the one before each, so that it can be taken apart."""
        before = (jnp.roll(array, 1, axis=0) for array in (self.images, self.labels))
        return Batch(self.images, self.labels, *before)


def eval_settings(config: ml_collections.ConfigDict) -> dict:
    """What a resolved config asks of `eval_step` and `class_log_probabilities`, by keyword."""
    return {'num_phases': num_phases(config)}


def train_step(
    state: TrainState,
    images: UInt8[Array, 'batch height width channels'],
    labels: Int32[Array, ' batch'],
    seed_key: jax.Array,
    *,
    augmentation: Augmentation = NO_AUGMENTATION,
    trained: Callable = lambda params: params,
    around_loss: Callable = lambda loss: loss,
    accum_steps: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of gradient descent on one batch.

    Args:
      state: parameters, optimizer state, step.
      images: uint8 (B, H, W, C).
      labels: int32 (B,).
      seed_key: `jax.random.key(config.seed)`.
      augmentation: what is made of images and labels.
      trained: parameters as the network takes them, without a gradient where they are frozen.
      around_loss: the loss as it is differentiated, which may say what its gradient keeps.
      accum_steps: parts of the batch that are computed one after the other. Images are augmented,
        and find what they are mixed with, before; only dropout differs from one part.

    Returns:
      The next state, and of the batch before the step 'loss' (mean cross-entropy of the mixed and
      smoothed labels), 'correct' (count against the labels as they are, without what is mixed in)
      and 'finite': whether the loss and the norm of its gradient are. If not, the next state
      differs in nothing but the count of steps.
    """
    shown = augmentation.shown(seed_key, state.step, images)
    mixing = augmentation.mixing(seed_key, state.step, images.shape[1:3])
    dropout_key = purpose_key(seed_key, 'dropout', state.step)

    def loss_fn(params, batch: Batch, dropout_key):
        before = None if batch.images_before is None else normalise(batch.images_before)
        logits = state.apply_fn(
            {'params': trained(params)},
            mixing.images(normalise(batch.images), before),
            train=True,
            rngs={'dropout': dropout_key},
        )
        targets, before = (
            None if found is None else jax.nn.one_hot(found, logits.shape[-1])
            for found in (batch.labels, batch.labels_before)
        )
        targets = optax.smooth_labels(mixing.targets(targets, before), augmentation.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean(), logits

    gradient = jax.value_and_grad(around_loss(loss_fn), has_aux=True)
    batch = Batch(shown, labels)
    if accum_steps == 1:
        (loss, logits), grads = gradient(state.params, batch, dropout_key)
    else:
        batch = split_microbatches(batch.with_neighbours() if mixing.mixes else batch, accum_steps)
        keys = jax.random.split(dropout_key, accum_steps)
        (loss, logits), grads = accumulate_gradient(gradient, state.params, (batch, keys))
    correct = jnp.sum(logits.argmax(-1) == batch.labels)
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
    next_state = jax.lax.cond(
        finite,
        lambda: state.apply_gradients(grads=grads),
        lambda: state.replace(step=state.step + 1),
    )
    return next_state, {'loss': loss, 'correct': correct, 'finite': finite}


def class_log_probabilities(
    state: TrainState,
    images: UInt8[Array, 'batch height width channels'],
    *,
    num_phases: Pair = (1, 1),
) -> Float[Array, 'batch classes']:
    """What the network says of each image, without dropout.

    Args:
      state: the parameters.
      images: uint8 (B, H, W, C).
      num_phases: phases along (height, width) at which each image is shown; the probabilities
        are means over all of them.

    Returns:
      Natural logarithms of the probabilities of the classes, float32 (B, classes).
    """

    def log_softmax(shown):
        logits = state.apply_fn({'params': state.params}, normalise(shown), train=False)
        return jax.nn.log_softmax(logits)

    if num_phases == (1, 1):
        return log_softmax(images)
    found = at_every_phase(log_softmax, images, num_phases)
    return jax.nn.logsumexp(found, axis=0) - jnp.log(len(found))


def at_every_phase(
    function: Callable, images: UInt8[Array, 'batch height width channels'], num_phases: Pair
) -> Float[Array, 'phases batch ...']:
    """What a function says of images at each phase of a dilated grid, one phase after another.

    Args:
      function: uint8 (B, H, W, C) to (B, …).
      images: uint8 (B, H, W, C).
      num_phases: phases along (height, width).
    """
    phases = jnp.indices(num_phases).reshape(2, -1).T
    # Not at once: they need the memory of one.
    return jax.lax.map(lambda phase: function(at_phase(images, phase, num_phases)), phases)


def eval_step(
    state: TrainState,
    images: UInt8[Array, 'batch height width channels'],
    labels: Int32[Array, ' batch'],
    counted: Bool[Array, ' batch'],
    *,
    num_phases: Pair = (1, 1),
) -> dict[str, jax.Array]:
    """Sums over one batch, without dropout.

    Args:
      state: the parameters to evaluate.
      images: uint8 (B, H, W, C).
      labels: int32 (B,).
      counted: False for examples that only fill the batch.
      num_phases: as in `class_log_probabilities`.

    Returns:
      'loss' (summed cross-entropy) and 'correct' (count) over the counted examples.
    """
    found = class_log_probabilities(state, images, num_phases=num_phases)
    losses = -jnp.take_along_axis(found, labels[:, None], axis=1)[:, 0]
    return {
        'loss': jnp.sum(losses, where=counted),
        'correct': jnp.sum(found.argmax(-1) == labels, where=counted),
    }


def accumulate_gradient(value_and_grad: Callable, params, parts: tuple):
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
