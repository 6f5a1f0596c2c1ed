"""Training and evaluation of one seed: pure functions of a batch, and of a chunk of batches."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jaxtyping import Array, Bool, Float, Int32, UInt8

from mixer_dilated.data.augmentation import NO_AUGMENTATION, Augmentation, shift_phase
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.stored_images import to_input
from mixer_dilated.parallel.mesh import shard_batch, split_microbatches
from mixer_dilated.patches.geometry import Pair
from mixer_dilated.random_keys import purpose_key
from mixer_dilated.training.run_state import TrainMetrics


def normalise(
    images: UInt8[Array, 'batch height width channels'],
) -> Float[Array, 'batch height width channels']:
    """uint8 0 … 255 to float32 -1 … 1, as the original Mixer takes its images."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def sigmoid_cross_entropy(
    logits: Float[Array, 'batch classes'], targets: Float[Array, 'batch classes']
) -> Float[Array, ' batch']:
    """Sum over classes of the cross-entropy of each class against all others."""
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)


LOSSES = {'softmax': optax.softmax_cross_entropy, 'sigmoid': sigmoid_cross_entropy}
# What an evaluation sums over examples.
EVALUATION = {'loss': jnp.float32, 'correct': jnp.int32, 'top5': jnp.int32}


def train_step(
    state: TrainState,
    images: UInt8[Array, 'batch height width channels'],
    labels: Int32[Array, ' batch'],
    seed_key: jax.Array,
    *,
    loss: str = 'softmax',
    augmentation: Augmentation = NO_AUGMENTATION,
    image_size: Pair | None = None,
    param_transform: Callable = lambda params: params,
    accum_steps: int = 1,
    skip_nonfinite: bool = True,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of gradient descent on one batch.

    Args:
      state: parameters, optimizer state, step.
      images, labels: uint8 (B, H, W, C), as they are stored, int32 (B,).
      seed_key: `jax.random.key(config.seed)`.
      loss: of `LOSSES`.
      augmentation: of images and labels.
      image_size: (height, width) that the network takes; None for that of the images.
      param_transform: applied to parameters in the loss, to stop gradients of frozen ones.
      accum_steps: microbatches that are computed one after the other. Images are augmented and
        mixed before; only dropout draws other numbers than in one batch.
      skip_nonfinite: whether a step that is not finite changes nothing but the count of steps. It
        costs a select of every parameter where seeds are vmapped.

    Returns:
      The next state, and of the batch before the step 'loss' (mean over the mixed and smoothed
      labels), 'correct' (count against the labels as they are, without what is mixed in)
      and 'finite': whether the loss and the norm of its gradient are.
    """
    with jax.named_scope('augment'):
        images = augmentation.apply(seed_key, state.step, images, image_size)
        mixing = augmentation.draw_mixing(seed_key, state.step, images.shape[1:3])
    dropout_key = purpose_key(seed_key, 'dropout', state.step)

    def loss_fn(params, images, labels, partner_images, partner_labels, dropout_key):
        """Partners are what each example is mixed with, None where the batch has them."""
        partners = None if partner_images is None else normalise(partner_images)
        logits = state.apply_fn(
            {'params': param_transform(params)},
            mixing.mix_images(normalise(images), partners),
            train=True,
            rngs={'dropout': dropout_key},
        )
        targets, partners = (
            None if labels is None else jax.nn.one_hot(labels, logits.shape[-1])
            for labels in (labels, partner_labels)
        )
        targets = mixing.mix_targets(targets, partners)
        targets = optax.smooth_labels(targets, augmentation.label_smoothing)
        return LOSSES[loss](logits, targets).mean(), logits

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    batch = images, labels, None, None
    if accum_steps == 1:
        (mean_loss, logits), grads = grad_fn(state.params, *batch, dropout_key)
    else:
        if mixing.mixes:  # with an example that may be in another microbatch
            batch = images, labels, jnp.roll(images, 1, axis=0), jnp.roll(labels, 1, axis=0)
        batch = split_microbatches(batch, accum_steps)
        labels, keys = batch[1], jax.random.split(dropout_key, accum_steps)
        (mean_loss, logits), grads = accumulate_gradient(grad_fn, state.params, (*batch, keys))
    correct = jnp.sum(logits.argmax(-1) == labels)
    with jax.named_scope('optimizer'):
        finite = jnp.isfinite(mean_loss) & jnp.isfinite(optax.tree.norm(grads))
        update = functools.partial(state.apply_gradients, grads=grads)
        if skip_nonfinite:
            next_state = jax.lax.cond(finite, update, lambda: state.replace(step=state.step + 1))
        else:
            next_state = update()
    return next_state, {'loss': mean_loss, 'correct': correct, 'finite': finite}


def accumulate_gradient(value_and_grad_fn: Callable, params, microbatches: tuple):
    """((loss, aux), gradient) of a batch from those of its microbatches, one after the other.

    `microbatches` are trees of arrays (microbatches, …), the arguments of `value_and_grad_fn` after
    `params`. Loss and gradient are means; aux has an axis of microbatches first.
    """

    def add(sums, microbatch):
        (loss, aux), gradient = value_and_grad_fn(params, *microbatch)
        return jax.tree.map(jnp.add, sums, (loss, gradient)), aux

    zeros = jax.tree.map(jnp.zeros_like, (jnp.float32(0), params))
    sums, aux = jax.lax.scan(add, zeros, microbatches)
    count = len(jax.tree.leaves(microbatches)[0])
    loss, gradient = jax.tree.map(lambda total: total / count, sums)
    return (loss, aux), gradient


def class_log_probs(
    state: TrainState,
    images: UInt8[Array, 'batch height width channels'],
    *,
    num_phases: Pair = (1, 1),
) -> Float[Array, 'batch classes']:
    """Log-probabilities of the classes, without dropout.

    With several phases along (height, width) at which each image is classified, probabilities are
    means over all of them.
    """

    def log_softmax(images):
        logits = state.apply_fn({'params': state.params}, normalise(images), train=False)
        return jax.nn.log_softmax(logits)

    if num_phases == (1, 1):
        return log_softmax(images)
    log_probs = at_every_phase(log_softmax, images, num_phases)
    return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(log_probs))


def at_every_phase(
    function: Callable, images: UInt8[Array, 'batch height width channels'], num_phases: Pair
) -> Float[Array, 'phases batch ...']:
    """A function of images at each phase of a dilated grid, one phase after another.

    They are not vmapped: they need the memory of one.
    """
    phases = jnp.indices(num_phases).reshape(2, -1).T
    return jax.lax.map(lambda phase: function(shift_phase(images, phase, num_phases)), phases)


def is_in_top5(
    log_probs: Float[Array, 'batch classes'], labels: Int32[Array, ' batch']
) -> Bool[Array, ' batch']:
    """Whether at most four classes are more probable, or as probable, as an example's own.

    False where the log-probabilities are not numbers.
    """
    of_label = jnp.take_along_axis(log_probs, labels[:, None], axis=1)
    rank = jnp.sum(log_probs >= of_label, axis=-1)
    return (rank > 0) & (rank <= 5)


def eval_step(
    state: TrainState,
    sums: dict[str, jax.Array],
    batch: tuple[Examples, Int32[Array, '1 batch']],
    *,
    num_phases: Pair = (1, 1),
    image_size: Pair | None = None,
) -> tuple[dict[str, jax.Array], Float[Array, 'batch classes']]:
    """Evaluates one batch, without dropout.

    Args:
      state: the parameters.
      sums: over the batches before.
      batch: examples (1, B, …), and their numbers, -1 for those that only fill the batch.
      num_phases: as in `class_log_probs`.
      image_size: as in `train_step`.

    Returns:
      The sums with this batch: 'loss' (cross-entropy), 'correct' and 'top5' (counts: the label has
      the highest log-probability, or one of the five highest); and `class_log_probs`.
    """
    (images, labels), index = jax.tree.map(lambda array: shard_batch(array[0]), batch)
    images = to_input(images, image_size) if image_size else images
    log_probs = class_log_probs(state, images, num_phases=num_phases)
    of_label = jnp.take_along_axis(log_probs, labels[:, None], axis=1)
    values = {
        'loss': -of_label[:, 0],
        'correct': log_probs.argmax(-1) == labels,
        'top5': is_in_top5(log_probs, labels),
    }
    of_batch = {name: jnp.sum(value, where=index >= 0) for name, value in values.items()}
    return jax.tree.map(jnp.add, sums, of_batch), log_probs


def train_chunk(
    state: TrainState,
    metrics: TrainMetrics,
    seed_key: jax.Array,
    own: tuple[Examples | None, Int32[Array, 'steps batch'] | None],
    shared: tuple[Examples | None, jax.Array, jax.Array],
    *,
    step: Callable,
) -> tuple[TrainState, TrainMetrics]:
    """Trains the next steps of an epoch on the rows of an `input_pipeline.Chunk`.

    The number of steps is an argument of the one program: an epoch cut into chunks, in whatever
    way, has the bits of an epoch in one.

    Args:
      state, metrics, seed_key: of one seed; the step of the state selects the first row.
      own: what each seed has its own of: in a stream (the batch, None), in memory (None, index).
      shared: what all seeds read: (None in a stream, in memory the split; first_step, num_steps).
      step: `train_step` with its settings bound.
    """
    (own_examples, index), (examples, first_step, num_steps) = own, shared
    examples = own_examples or examples

    def body(_, carry):
        state, metrics = carry
        images, labels = gather_batch(examples, index, state.step - first_step)
        state, step_metrics = step(state, images, labels, seed_key)
        return state, metrics.merge(step_metrics, state.step)

    return jax.lax.fori_loop(0, num_steps, body, (state, metrics))


def gather_batch(
    examples: Examples, index: Int32[Array, 'steps batch'] | None, row: jax.Array
) -> Examples:
    """The batch of one row: of `examples` (steps, batch, …), or by `index` of (examples, …)."""
    if examples.labels.ndim == 1:
        row = shard_batch(jnp.maximum(index[row], 0))
    return Examples(*(shard_batch(array[row]) for array in examples))
