"""A CPU's form of the network is that of plain Flax: values, gradients, at less precision too."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_dilated.benchmark.plain_mixer import PlainMixer
from mixer_dilated.models.cpu import CpuMlpMixer, LayerNorm, exact_gelu
from mixer_dilated.models.mixer import MlpMixer
from mixer_dilated.patches.geometry import Patches

SIZES = {'num_classes': 10, 'num_blocks': 2, 'hidden_dim': 12}
SIZES |= {'tokens_mlp_dim': 6, 'channels_mlp_dim': 9}
GEOMETRIES = [
    Patches(size=8, stride=8),
    Patches(size=4, dilation=2, stride=7),
    Patches(size=(3, 5), dilation=(3, 2), stride=(6, 9), padding='SAME'),
    Patches(size=4, dilation=2, stride=7, padding=((-1, 2), (3, 0))),
    Patches(size=8, dilation=4, stride=14),  # one token
]


FORMS = MlpMixer, CpuMlpMixer


def value_and_gradients(model, variables, images, labels):
    def loss(variables):
        logits = model.apply(variables, images, train=True)
        targets = jax.nn.one_hot(labels, 10)
        return optax.softmax_cross_entropy(logits, targets).mean(), logits

    gradient = jax.value_and_grad(loss, has_aux=True)
    return jax.jit(gradient)(variables)


def inputs(patches, channels=2):
    images = jax.random.normal(jax.random.key(1), (5, 29, 29, channels))
    labels = jnp.arange(5)
    variables = PlainMixer(patches, **SIZES).init(jax.random.key(0), images, train=False)
    keys = iter(jax.random.split(jax.random.key(2), 99))
    shaken = jax.tree.map(
        lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), variables
    )
    return shaken, images, labels


@pytest.mark.parametrize(
    ('patches', 'gelu'), [*((patches, 'exact') for patches in GEOMETRIES), (GEOMETRIES[1], 'tanh')]
)
def test_values_and_gradients_are_those_of_plain_flax(patches, gelu):
    variables, images, labels = inputs(patches)
    expected = value_and_gradients(
        PlainMixer(patches, gelu=gelu, **SIZES), variables, images, labels
    )
    for form in FORMS:
        model = form((patches,), gelu=gelu, **SIZES)
        chex.assert_trees_all_close(
            value_and_gradients(model, variables, images, labels), expected, atol=1e-5, rtol=1e-5
        )


BRANCHES = GEOMETRIES[1], Patches(size=(4, 3), dilation=(2, 3), stride=7)


@pytest.mark.parametrize(
    'changes',
    [
        {'branches': BRANCHES, 'blur': True},
        {'branches': BRANCHES, 'branch_merge': 'tokens'},
        {'stoch_depth': 0.5, 'dropout_rate': 0.5, 'remat': True},
    ],
    ids=['channels', 'tokens', 'remat'],
)
def test_both_forms_have_the_same_parameters_and_logits(changes):
    """From the same key, bit for bit; the original draws the same for its blocks."""
    images = jax.random.normal(jax.random.key(1), (5, 28, 28, 1))
    models = [form(**{'branches': BRANCHES[:1], **SIZES, **changes}) for form in FORMS]
    plain, cpu = (
        jax.jit(lambda model=model: model.init(jax.random.key(0), images, train=False))()
        for model in models
    )
    chex.assert_trees_all_equal(cpu, plain)
    original = PlainMixer(GEOMETRIES[1], **SIZES).init(jax.random.key(0), images, train=False)
    for name in ('token_mixing', 'channel_mixing'):
        drawn = [tree['params']['MixerBlock_1'][name]['Dense_1'] for tree in (cpu, original)]
        if changes.get('branch_merge') != 'tokens':  # which makes more tokens
            chex.assert_trees_all_equal(*drawn)
    cpu['params']['head']['kernel'] = jax.random.normal(jax.random.key(2), (12, 10))
    logits = [jax.jit(lambda v, m=m: m.apply(v, images, train=False))(cpu) for m in models]
    chex.assert_trees_all_close(*logits, atol=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_remat_changes_no_value_and_no_name(form):
    variables, images, labels = inputs(GEOMETRIES[1])
    kept, anew = (form((GEOMETRIES[1],), remat=remat, **SIZES) for remat in (False, True))
    chex.assert_trees_all_equal_shapes(
        jax.eval_shape(lambda: anew.init(jax.random.key(0), images, train=False)), variables
    )
    chex.assert_trees_all_close(
        value_and_gradients(anew, variables, images, labels),
        value_and_gradients(kept, variables, images, labels),
        atol=1e-6,
    )


def test_remat_keeps_one_block_in_memory_instead_of_all():
    sizes = {**SIZES, 'num_blocks': 6}
    images = jnp.zeros((64, 29, 29, 1))
    labels = jnp.zeros(64, int)
    memory = []
    for remat in (False, True):
        model = CpuMlpMixer((GEOMETRIES[0],), remat=remat, **sizes)
        variables = jax.eval_shape(lambda m=model: m.init(jax.random.key(0), images, train=False))
        gradient = jax.jit(functools.partial(value_and_gradients, model))
        program = gradient.lower(variables, images, labels).compile()
        memory.append(program.memory_analysis().temp_size_in_bytes)
    assert memory[1] < 0.6 * memory[0]


@pytest.mark.parametrize('form', FORMS)
def test_remat_drops_the_same_when_it_recomputes(form):
    """With dropout the gradient is that of the very values that the forward pass computed."""
    variables, images, _ = inputs(GEOMETRIES[1])
    model = form((GEOMETRIES[1],), remat=True, dropout_rate=0.5, **SIZES)

    @jax.jit
    def total(images):
        rngs = {'dropout': jax.random.key(5)}
        return model.apply(variables, images, train=True, rngs=rngs).sum()

    direction = jax.random.normal(jax.random.key(6), images.shape)
    slope = jnp.vdot(jax.grad(total)(images), direction)
    step = 1e-2
    difference = total(images + step * direction) - total(images - step * direction)
    np.testing.assert_allclose(difference / (2 * step), slope, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('form', FORMS)
def test_bfloat16_computes_in_it_and_keeps_the_rest_in_float32(form):
    variables, images, labels = inputs(GEOMETRIES[1])
    exact, rounded = (
        form((GEOMETRIES[1],), dtype=dtype, **SIZES) for dtype in (jnp.float32, jnp.bfloat16)
    )
    dtypes = {}

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == '__call__':
            dtypes['/'.join(context.module.path)] = output.dtype
        return output

    with nn.intercept_methods(record):
        created = jax.eval_shape(lambda: rounded.init(jax.random.key(0), images, train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(created)} == {jnp.dtype('float32')}
    assert dtypes['head'] == dtypes[''] == jnp.float32
    inside = {path for path in dtypes if path not in ('', 'head')}
    assert len(inside) > 10 and {dtypes[path] for path in inside} == {jnp.dtype('bfloat16')}
    (loss, logits), gradients = value_and_gradients(rounded, variables, images, labels)
    (exact_loss, exact_logits), exact_gradients = value_and_gradients(
        exact, variables, images, labels
    )
    np.testing.assert_allclose(logits, exact_logits, atol=0.15)
    np.testing.assert_allclose(loss, exact_loss, rtol=0.05)
    chex.assert_trees_all_equal_dtypes(gradients, exact_gradients)
    for found, expected in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(exact_gradients), strict=True
    ):
        assert jnp.linalg.norm(found - expected) < 0.1 * jnp.linalg.norm(expected) + 1e-2
    assert not np.array_equal(logits, exact_logits)


def test_statistics_of_layer_norm_are_float32_in_bfloat16():
    x = (jax.random.normal(jax.random.key(0), (3, 64)) + 30).astype(jnp.bfloat16)
    norm = LayerNorm(jnp.bfloat16)
    variables = norm.init(jax.random.key(0), x)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    found = norm.apply(variables, x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2e-2, atol=1e-2)


def with_gradients(function, variables, x, weights):
    def total(variables, x):
        y = function(variables, x)
        return jnp.sum(y * weights), y

    return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(variables, x)


@pytest.mark.parametrize('shape', [(7,), (4, 1), (2, 3, 5), (300, 64)], ids=str)
@pytest.mark.parametrize(('scale', 'shift'), [(1, 0), (1e-3, 0), (1e3, 0), (1, 5)])
def test_layer_norm_is_that_of_flax(shape, scale, shift):
    draws = [jax.random.normal(jax.random.key(i), shape) for i in range(2)]
    x, weights = draws[0] * scale + shift, draws[1]
    variables = {
        'params': {
            'scale': jax.random.normal(jax.random.key(3), shape[-1:]),
            'bias': jax.random.normal(jax.random.key(4), shape[-1:]),
        }
    }
    found, expected = (
        jax.jit(functools.partial(with_gradients, norm.apply))(variables, x, weights)
        for norm in (LayerNorm(), nn.LayerNorm())
    )
    tolerance = 1e-4 if shift else 1e-5
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        size = max(1.0, float(jnp.abs(other).max()))
        np.testing.assert_allclose(one / size, other / size, atol=tolerance)


def and_derivative(function):
    def both(x):
        y, gradient = jax.vjp(function, x)
        return (y, *gradient(jnp.ones_like(x)))

    return jax.jit(both)


fast_gelu = and_derivative(exact_gelu)
flax_gelu = and_derivative(functools.partial(nn.gelu, approximate=False))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=8, max_size=8))
def test_exact_gelu_and_its_derivative_are_those_of_flax(values):
    x = np.array(values, np.float32)
    for found, expected in zip(fast_gelu(x), flax_gelu(x), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6, rtol=1e-6)
    # In bfloat16 they are those numbers, rounded.
    half = x.astype(jnp.bfloat16)
    for found, exact in zip(fast_gelu(half), flax_gelu(half.astype(jnp.float32)), strict=True):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(np.float32), exact, rtol=2**-8, atol=3e-6)
