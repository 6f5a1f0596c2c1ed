"""Optimizer and learning rate schedule, from optax."""

import re

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


def learning_rate_schedule(optimizer: ConfigDict, total_steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up from 0, then what `config.optimizer.decay_type` says.

    With s steps after warm-up of S, and base and end the rates of the config: 'constant' base,
    'linear' end + (base - end) · (1 - s / S), 'cosine' end + (base - end) · (1 + cos(π s / S)) / 2,
    'rsqrt' base / √(1 + s / timescale). `total_steps` are those of the run, warm-up included.
    """
    base_lr, end_lr = optimizer.base_lr, optimizer.end_lr
    decay_steps = total_steps - optimizer.warmup_steps
    decay = {
        'constant': optax.constant_schedule(base_lr),
        'cosine': optax.cosine_decay_schedule(base_lr, decay_steps, alpha=end_lr / base_lr),
        'linear': optax.linear_schedule(base_lr, end_lr, decay_steps),
        'rsqrt': lambda step: base_lr * jax.lax.rsqrt(1.0 + step / optimizer.timescale),
    }[optimizer.decay_type]
    if not optimizer.warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, base_lr, optimizer.warmup_steps)
    return optax.join_schedules([warmup, decay], [optimizer.warmup_steps])


def make_optimizer(optimizer: ConfigDict, total_steps: int) -> optax.GradientTransformation:
    """The gradient transformation of `config.optimizer`: clip by global norm, the named optimizer,
    then a factor for each layer (see `layer_lr_multipliers`).

    Weight decay acts on kernels alone: biases and LayerNorm are spared. With 'sgd' it is added to
    the gradient before momentum (L2). 'adamw' and 'lamb' decouple it: a step takes the learning
    rate times `weight_decay` of a kernel off, as in PyTorch.
    """
    schedule = learning_rate_schedule(optimizer, total_steps)
    decay, dtype = optimizer.weight_decay, optimizer.momentum_dtype
    settings = {'b2': optimizer.beta2, 'weight_decay': decay, 'mask': weight_decay_mask}
    if optimizer.eps != 'auto':
        settings['eps'] = optimizer.eps
    if optimizer.name == 'sgd':
        rule = optax.chain(
            optax.add_decayed_weights(decay, mask=weight_decay_mask),
            optax.sgd(schedule, momentum=optimizer.momentum, accumulator_dtype=dtype),
        )
    elif optimizer.name == 'adamw':
        rule = optax.adamw(schedule, mu_dtype=dtype, **settings)
    else:
        rule = optax.lamb(schedule, **settings)
    if optimizer.freeze_stem or optimizer.freeze_blocks or optimizer.layer_decay != 1:
        rule = optax.chain(rule, _scale_by_layer(optimizer))
    if optimizer.grad_norm_clip:
        rule = optax.chain(optax.clip_by_global_norm(optimizer.grad_norm_clip), rule)
    return rule


def layer_lr_multipliers(optimizer: ConfigDict, params) -> object:
    """A tree like `params` of factors of the learning rate: 0 where a layer is frozen.

    With b blocks the factor is 1 for the head and the norm before it, layer_decay^(b - i) for
    block i = 0 … b - 1, and layer_decay^(b + 1) for the stem.
    """
    blocks = sum(name.startswith('MixerBlock_') for name in params)

    def factor(path, _) -> float:
        name = path[0].key
        if name.startswith('stem'):
            return 0.0 if optimizer.freeze_stem else optimizer.layer_decay ** (blocks + 1)
        block = re.match(r'MixerBlock_(\d+)', name)
        if not block:
            return 1.0
        frozen = int(block[1]) < optimizer.freeze_blocks
        return 0.0 if frozen else optimizer.layer_decay ** (blocks - int(block[1]))

    return jax.tree_util.tree_map_with_path(factor, params)


def stop_frozen_gradients(optimizer: ConfigDict, params):
    """`params` of which frozen layers have no gradient, so that none is computed for them."""
    if not optimizer.freeze_stem and not optimizer.freeze_blocks:
        return params
    factors = layer_lr_multipliers(optimizer, params)
    return jax.tree.map(
        lambda leaf, factor: leaf if factor else jax.lax.stop_gradient(leaf), params, factors
    )


def _scale_by_layer(optimizer: ConfigDict) -> optax.GradientTransformation:
    def update(updates, _):
        return jax.tree.map(jnp.multiply, updates, layer_lr_multipliers(optimizer, updates))

    return optax.stateless(update)


def weight_decay_mask(params) -> object:
    """A tree like `params`: True where a leaf is a kernel, False for biases and scales."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: str(path[-1].key).startswith('kernel'), params
    )
