"""Optimizers: schedules, weight decay, clipping, learning rates by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_dilated.config import resolve
from mixer_dilated.training.optimizer import learning_rate_schedule, make_optimizer
from tests.conftest import refuses

CONSTANT = {'decay_type': 'constant', 'base_lr': 0.1}


def optimizer_config(**changes):
    return resolve({'optimizer': changes}).optimizer


@settings(max_examples=60)
@given(
    decay_type=st.sampled_from(('constant', 'linear', 'cosine', 'rsqrt')),
    total=st.integers(2, 5000),
    data=st.data(),
)
def test_schedules_in_numpy(decay_type, total, data):
    """big_vision's `create_learning_rate_schedule`, but that a cosine ends at `end_lr` too."""
    warmup, step = data.draw(st.integers(0, total - 1)), data.draw(st.integers(0, total))
    base, end, timescale = 0.3, 0.01, 700
    config = optimizer_config(
        decay_type=decay_type, base_lr=base, end_lr=end, timescale=timescale, warmup_steps=warmup
    )
    progress = min(max((step - warmup) / (total - warmup), 0), 1)
    expected = {
        'constant': base,
        'linear': end + (base - end) * (1 - progress),
        'cosine': end + (base - end) * 0.5 * (1 + np.cos(np.pi * progress)),
        'rsqrt': base / np.sqrt(1 + max(step - warmup, 0) / timescale),
    }[decay_type]
    if step < warmup:
        expected = base * step / warmup
    rate = learning_rate_schedule(config, total)(step)
    np.testing.assert_allclose(rate, expected, rtol=1e-5, atol=1e-7)


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
    for name, update in flatten_dict(updates, sep='/').items():
        assert (update < 0 if '/kernel' in name else update == 0).all(), name


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


@pytest.mark.parametrize('eps', ['auto', 0.1])
@pytest.mark.parametrize('beta2', [0.999, 0.5])
def test_adamw_in_numpy(beta2, eps):
    """Decoupled weight decay, in PyTorch's meaning: learning rate × decay × kernel."""
    config = optimizer_config(beta2=beta2, eps=eps, weight_decay=0.2, **CONSTANT)
    optimizer, params = make_optimizer(config, 10), {'kernel': jnp.array([1.0, -2.0])}
    state, kernel, mean, square = optimizer.init(params), np.array([1.0, -2.0]), 0.0, 0.0
    for step, gradient in enumerate(np.array([[0.3, -0.1], [0.2, 0.4], [-0.5, 0.1]]), 1):
        updates, state = optimizer.update({'kernel': jnp.array(gradient)}, state, params)
        params = {'kernel': params['kernel'] + updates['kernel']}
        mean, square = 0.9 * mean + 0.1 * gradient, beta2 * square + (1 - beta2) * gradient**2
        step_size = np.sqrt(square / (1 - beta2**step)) + (1e-8 if eps == 'auto' else eps)
        kernel = kernel - 0.1 * (mean / (1 - 0.9**step) / step_size + 0.2 * kernel)
    np.testing.assert_allclose(params['kernel'], kernel, rtol=1e-5)


@pytest.mark.parametrize('name', ['adamw', 'sgd', 'lamb'])
def test_the_momentum_can_be_bfloat16_but_of_lamb(name):
    if name == 'lamb':
        with refuses('config.optimizer.momentum_dtype'):
            optimizer_config(name=name, momentum_dtype='bfloat16')
        return
    config = optimizer_config(name=name, momentum_dtype='bfloat16')
    state = jax.tree.leaves(make_optimizer(config, 10).init({'kernel': jnp.ones(3)}))
    assert sum(leaf.dtype == jnp.bfloat16 for leaf in state) == 1


def test_the_update_of_each_layer_is_its_share_and_none_where_it_is_frozen():
    """Of plain gradient descent by 1."""
    changes = {'layer_decay': 0.5, 'freeze_blocks': 1, 'name': 'sgd', 'momentum': 0.0}
    config = optimizer_config(**{**CONSTANT, **changes, 'base_lr': 1.0, 'weight_decay': 0.0})
    names = ('stem', 'MixerBlock_0', 'MixerBlock_1', 'pre_head_layer_norm', 'head')
    params = {name: {'kernel': np.ones(2)} for name in names}
    optimizer = make_optimizer(config, 10)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert [updates[name]['kernel'][0] for name in names] == [-(0.5**3), 0, -0.5, -1, -1]
