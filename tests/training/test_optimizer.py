"""Optimizers: schedules, weight decay, clipping, learning rates by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.config import resolve
from mixer_dilated.training.optimizer import (
    learning_rate_schedule,
    make_optimizer,
    weight_decay_mask,
)

CONSTANT = {'decay_type': 'constant', 'base_lr': 0.1}


def optimizer_config(**changes):
    return resolve({'optimizer': changes}).optimizer


@pytest.mark.parametrize(
    ('decay_type', 'warmup', 'step', 'expected'),
    [
        ('constant', 0, 99, 0.1),
        ('cosine', 0, 50, 0.05),
        ('cosine', 0, 100, 0.0),
        ('linear', 0, 25, 0.075),
        ('linear', 20, 10, 0.05),
        ('linear', 20, 60, 0.05),
        ('cosine', 20, 20, 0.1),
        ('constant', 20, 0, 0.0),
    ],
)
def test_learning_rate_schedules(decay_type, warmup, step, expected):
    config = optimizer_config(base_lr=0.1, decay_type=decay_type, warmup_steps=warmup)
    np.testing.assert_allclose(learning_rate_schedule(config, 100)(step), expected, atol=1e-7)


PARAMS = {
    'Dense_0': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)},
    'LayerNorm_0': {'scale': jnp.ones(2), 'bias': jnp.ones(2)},
    'stem': {'kernel_0': jnp.ones((1, 1, 1, 2)), 'bias': jnp.ones(2)},
}


@pytest.mark.parametrize('name', ['adamw', 'sgd', 'lamb'])
def test_weight_decay_spares_biases_and_layer_norm(name):
    optimizer = make_optimizer(optimizer_config(name=name, weight_decay=0.5, **CONSTANT), 10)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    shrunk = jax.tree.map(lambda update: bool((update < 0).all()), updates)
    kept = jax.tree.map(lambda update: bool((update == 0).all()), updates)
    assert shrunk == weight_decay_mask(PARAMS) == jax.tree.map(lambda leaf: not leaf, kept)


def test_sgd_with_momentum_and_clipping_in_numpy():
    config = optimizer_config(
        name='sgd', momentum=0.5, weight_decay=0, grad_norm_clip=1.0, **CONSTANT
    )
    optimizer = make_optimizer(config, 10)
    params = {'kernel': jnp.array([1.0, 2.0])}
    grads = {'kernel': jnp.array([3.0, 4.0])}  # norm 5, clipped to (0.6, 0.8)
    state = optimizer.init(params)
    for expected in ([-0.06, -0.08], [-0.09, -0.12]):
        updates, state = optimizer.update(grads, state, params)
        np.testing.assert_allclose(updates['kernel'], expected, rtol=1e-6)


def test_the_update_of_each_layer_is_its_share_and_none_where_it_is_frozen():
    """Of plain gradient descent by 1."""
    changes = {'layer_decay': 0.5, 'freeze_blocks': 1, 'name': 'sgd', 'momentum': 0.0}
    config = optimizer_config(**{**CONSTANT, **changes, 'base_lr': 1.0, 'weight_decay': 0.0})
    names = ('stem', 'MixerBlock_0', 'MixerBlock_1', 'pre_head_layer_norm', 'head')
    params = {name: {'kernel': np.ones(2)} for name in names}
    optimizer = make_optimizer(config, 10)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert [updates[name]['kernel'][0] for name in names] == [-(0.5**3), 0, -0.5, -1, -1]
