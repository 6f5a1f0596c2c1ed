"""A CPU's form of the network is the network: values, gradients, at less precision too."""

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

from mixer_dilated.models.cpu import CpuMlpMixer, LayerNorm, exact_gelu
from mixer_dilated.patches.geometry import Patches
from tests.models.test_mixer import DILATED, FORMS, random_images, random_variables, small_mixer

IMAGES = random_images((5, 28, 28, 2))
mixer = functools.partial(small_mixer, num_blocks=1)


def value_and_gradients(model, variables, images=IMAGES):
    def loss(variables):
        logits = model.apply(variables, images, train=True)
        targets = jax.nn.one_hot(jnp.arange(len(images)), 10)
        return optax.softmax_cross_entropy(logits, targets).mean(), logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)


BRANCHES = DILATED, Patches(size=(4, 3), dilation=(2, 3), stride=7)


@pytest.mark.parametrize(
    'changes',
    [
        {'gelu': 'tanh'},
        {'branches': (Patches((3, 5), (3, 2), (6, 9), 'SAME'),)},
        {'branches': (Patches(4, 2, 7, ((-1, 2), (3, 0))),)},
        {'branches': (Patches(8, 3, 14),)},
        {'branches': BRANCHES, 'blur': True},
        {'branches': BRANCHES, 'branch_merge': 'tokens'},
    ],
    ids=['tanh', 'SAME', 'padding', 'one token', 'channels', 'tokens'],
)
def test_both_forms_have_the_same_values_and_gradients(changes):
    models = [mixer(form, **changes) for form in FORMS]
    variables = random_variables(models[0], IMAGES, train=False)
    expected, values = (value_and_gradients(model, variables) for model in models)
    chex.assert_trees_all_close(values, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('merge', ['channels', 'tokens'])
def test_both_forms_start_with_the_same_parameters(merge):
    """From the same key, bit for bit."""
    plain, cpu = (
        jax.jit(lambda m=m: m.init(jax.random.key(0), IMAGES, train=False))()
        for m in (mixer(form, branches=BRANCHES, branch_merge=merge) for form in FORMS)
    )
    chex.assert_trees_all_equal(cpu, plain)


@pytest.mark.parametrize('form', FORMS)
def test_remat_changes_no_value_and_no_name(form):
    plain, remat = mixer(form), mixer(form, remat=True)
    variables = random_variables(plain, IMAGES, train=False)
    chex.assert_trees_all_equal(random_variables(remat, IMAGES, train=False), variables)
    chex.assert_trees_all_close(
        value_and_gradients(remat, variables), value_and_gradients(plain, variables), atol=1e-6
    )


@pytest.mark.slow
def test_remat_keeps_one_block_in_memory_instead_of_all():
    images = jnp.zeros((64, 28, 28, 1))
    memory = []
    for remat in (False, True):
        model = small_mixer(CpuMlpMixer, remat=remat, num_blocks=6)
        variables = random_variables(model, images, train=False)
        gradient = jax.jit(functools.partial(value_and_gradients, model, images=images))
        program = gradient.lower(variables).compile()
        memory.append(program.memory_analysis().temp_size_in_bytes)
    assert memory[1] < 0.6 * memory[0]


@pytest.mark.parametrize('form', FORMS)
def test_remat_drops_the_same_when_it_recomputes(form):
    """With dropout the gradient is that of the very values that the forward pass computed."""
    model = mixer(form, remat=True, dropout_rate=0.5)
    variables = random_variables(model, IMAGES, train=False)

    @jax.jit
    def total(images):
        rngs = {'dropout': jax.random.key(5)}
        return model.apply(variables, images, train=True, rngs=rngs).sum()

    direction = random_images(IMAGES.shape, seed=6)
    slope = jnp.vdot(jax.grad(total)(IMAGES), direction)
    step = 1e-2
    difference = total(IMAGES + step * direction) - total(IMAGES - step * direction)
    np.testing.assert_allclose(difference / (2 * step), slope, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('form', FORMS)
def test_bfloat16_computes_in_it_and_keeps_the_rest_in_float32(form):
    exact, rounded = (mixer(form, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    dtypes = {}

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == '__call__':
            dtypes['/'.join(context.module.path)] = output.dtype
        return output

    with nn.intercept_methods(record):
        created = jax.eval_shape(lambda: rounded.init(jax.random.key(0), IMAGES, train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(created)} == {jnp.dtype('float32')}
    assert dtypes['head'] == dtypes[''] == jnp.float32
    inside = {path for path in dtypes if path not in ('', 'head')}
    assert len(inside) > 10 and {dtypes[path] for path in inside} == {jnp.dtype('bfloat16')}
    variables = random_variables(exact, IMAGES, train=False)
    (exact_loss, exact_logits), exact_gradients = value_and_gradients(exact, variables)
    (loss, logits), gradients = value_and_gradients(rounded, variables)
    np.testing.assert_allclose(logits, exact_logits, atol=0.15)
    np.testing.assert_allclose(loss, exact_loss, rtol=0.05)
    assert not np.array_equal(logits, exact_logits)
    chex.assert_trees_all_equal_dtypes(gradients, exact_gradients)

    def check_gradient(gradient, expected):
        assert jnp.linalg.norm(gradient - expected) < 0.1 * jnp.linalg.norm(expected) + 1e-2

    jax.tree.map(check_gradient, gradients, exact_gradients)


def test_statistics_of_layer_norm_are_float32_in_bfloat16():
    x = (jax.random.normal(jax.random.key(0), (3, 64)) + 30).astype(jnp.bfloat16)
    norm = LayerNorm(jnp.bfloat16)
    normed = norm.apply(norm.init(jax.random.key(0), x), x)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    assert normed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(normed, np.float64), expected, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize('shape', [(7,), (2, 3, 5), (300, 64)], ids=str)
@pytest.mark.parametrize(('scale', 'shift'), [(1e-3, 0), (1e3, 0), (1, 5)])
def test_layer_norm_is_that_of_flax(shape, scale, shift):
    x, weights = (random_images(shape, seed) for seed in (0, 1))
    variables = random_variables(nn.LayerNorm(), x)

    def values(norm):
        def total(variables, x):
            y = norm.apply(variables, x)
            return jnp.sum(y * weights), y

        gradient = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
        return jax.tree.leaves(jax.jit(gradient)(variables, x * scale + shift))

    tolerance = 1e-4 if shift else 1e-5
    for value, expected in zip(values(LayerNorm()), values(nn.LayerNorm()), strict=True):
        size = max(1.0, float(jnp.abs(expected).max()))
        np.testing.assert_allclose(value / size, expected / size, atol=tolerance)


def with_derivative(function):
    def value_and_derivative(x):
        y, vjp = jax.vjp(function, x)
        return (y, *vjp(jnp.ones_like(x)))

    return jax.jit(value_and_derivative)


fast_gelu = with_derivative(exact_gelu)
flax_gelu = with_derivative(functools.partial(nn.gelu, approximate=False))


@settings(max_examples=50)
@given(st.lists(st.floats(-30, 30, width=32), min_size=8, max_size=8))
def test_exact_gelu_and_its_derivative_are_those_of_flax(values):
    x = np.array(values, np.float32)
    for value, expected in zip(fast_gelu(x), flax_gelu(x), strict=True):
        np.testing.assert_allclose(value, expected, atol=2e-6, rtol=1e-6)
    # In bfloat16 they are those numbers, rounded.
    half = x.astype(jnp.bfloat16)
    for value, exact in zip(fast_gelu(half), flax_gelu(half.astype(jnp.float32)), strict=True):
        assert value.dtype == jnp.bfloat16
        np.testing.assert_allclose(value.astype(np.float32), exact, rtol=2**-8, atol=3e-6)
