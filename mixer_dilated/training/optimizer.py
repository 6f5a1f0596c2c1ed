"""Optimizer and learning rate schedule, from optax."""

import jax
import ml_collections
import optax


def learning_rate_schedule(
    optimizer: ml_collections.ConfigDict, total_steps: int
) -> optax.Schedule:
    """Learning rate by step: linear warm-up from 0, then constant, cosine or linear decay to 0.

    Args:
      optimizer: `config.optimizer`.
      total_steps: steps of the whole run, warm-up included.
    """
    decay_steps = total_steps - optimizer.warmup_steps
    decay = {
        'constant': optax.constant_schedule(optimizer.base_lr),
        'cosine': optax.cosine_decay_schedule(optimizer.base_lr, decay_steps),
        'linear': optax.linear_schedule(optimizer.base_lr, 0.0, decay_steps),
    }[optimizer.decay_type]
    if not optimizer.warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, optimizer.base_lr, optimizer.warmup_steps)
    return optax.join_schedules([warmup, decay], [optimizer.warmup_steps])


def make_optimizer(
    optimizer: ml_collections.ConfigDict, total_steps: int
) -> optax.GradientTransformation:
    """The gradient transformation of `config.optimizer`: clipping, then the optimizer.

    Weight decay acts on kernels alone: biases and LayerNorm are spared.
    """
    schedule = learning_rate_schedule(optimizer, total_steps)
    decay = optimizer.weight_decay
    if optimizer.name == 'sgd':
        rule = optax.chain(
            optax.add_decayed_weights(decay, mask=kernels),
            optax.sgd(schedule, momentum=optimizer.momentum),
        )
    else:
        rule = {'adamw': optax.adamw, 'lamb': optax.lamb}[optimizer.name](
            schedule, weight_decay=decay, mask=kernels
        )
    if not optimizer.grad_norm_clip:
        return rule
    return optax.chain(optax.clip_by_global_norm(optimizer.grad_norm_clip), rule)


def kernels(params) -> object:
    """A tree like `params`: True where a leaf is a kernel, False for biases and scales."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: str(path[-1].key).startswith('kernel'), params
    )
