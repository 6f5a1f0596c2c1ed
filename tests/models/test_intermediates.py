"""What the network returns on request of its insides, and that it costs nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.models.cpu import CpuMlpMixer
from mixer_dilated.models.mixer import MixerBlock, MlpMixer, Stem
from mixer_dilated.patches.geometry import Patches
from tests.models.test_mixer import small_mixer

IMAGES = np.random.default_rng(0).normal(size=(3, 28, 28, 1)).astype(np.float32)


def variables_of(model):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, train=False))
    leaves, tree = jax.tree.flatten(shapes)
    draw = np.random.default_rng(1)
    return jax.tree.unflatten(
        tree, [draw.normal(0, 0.3, leaf.shape).astype(np.float32) for leaf in leaves]
    )


@pytest.mark.parametrize('form', [MlpMixer, CpuMlpMixer])
def test_intermediates_are_what_each_module_makes_of_the_one_before(form):
    model = small_mixer(form)
    variables = variables_of(model)
    params = variables['params']
    logits, found = jax.jit(
        lambda v: model.apply(v, IMAGES, train=False, return_intermediates=True)
    )(variables)
    assert {*found} == {'stem', 'block_0', 'block_1', 'pre_logits'}
    x = jax.jit(Stem(model.branches, 12).apply)({'params': params['stem']}, IMAGES)
    np.testing.assert_allclose(found['stem'], x, atol=1e-6)
    block = jax.jit(lambda v, x: MixerBlock(6, 9).apply(v, x, train=False))
    for i in range(2):
        x = block({'params': params[f'MixerBlock_{i}']}, x)
        np.testing.assert_allclose(found[f'block_{i}'], x, atol=1e-5)
    # The rest by its equations.
    last = np.asarray(found['block_1'], np.float64)
    normed = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-6)
    norm, head = params['pre_head_layer_norm'], params['head']
    mean = (normed * norm['scale'] + norm['bias']).mean(1)
    np.testing.assert_allclose(found['pre_logits'], mean, atol=1e-4)
    np.testing.assert_allclose(logits, mean @ head['kernel'] + head['bias'], atol=1e-4)


@pytest.mark.parametrize(
    ('changes', 'tokens', 'dtype'),
    [
        ({}, 16, jnp.float32),
        ({'remat': True}, 16, jnp.float32),
        ({'dtype': jnp.bfloat16}, 16, jnp.bfloat16),
        ({'branches': (Patches(7, stride=7), Patches(14, stride=14)), 'branch_merge': 'tokens'}, 20,
         jnp.float32),
    ],
    ids=['plain', 'remat', 'bfloat16', 'tokens joined'],
)  # fmt: skip
@pytest.mark.parametrize('form', [MlpMixer, CpuMlpMixer])
def test_shapes_are_batch_tokens_channels_for_every_kind_of_network(form, changes, tokens, dtype):
    model = small_mixer(form, **changes)
    variables = variables_of(model)
    logits, found = jax.jit(
        lambda v: model.apply(v, IMAGES, train=False, return_intermediates=True)
    )(variables)
    for name in ('stem', 'block_0', 'block_1'):
        assert (found[name].shape, found[name].dtype) == ((3, tokens, 12), dtype)
    assert (found['pre_logits'].shape, found['pre_logits'].dtype) == ((3, 12), jnp.float32)
    alone = jax.jit(lambda v: model.apply(v, IMAGES, train=False))(variables)
    np.testing.assert_array_equal(logits, alone)


@pytest.mark.parametrize('form', [MlpMixer, CpuMlpMixer])
def test_the_request_adds_nothing_to_the_program_of_the_logits(form):
    model = small_mixer(form)
    variables = variables_of(model)

    def logits(variables, *, asked):
        found = model.apply(variables, IMAGES, train=True, return_intermediates=asked)
        return found[0] if asked else found

    compiled = [
        jax.jit(jax.grad(lambda v, asked=asked: logits(v, asked=asked).sum()))
        .lower(variables)
        .compile()
        for asked in (False, True)
    ]
    costs = [each.cost_analysis()['flops'] for each in compiled]
    memory = [each.memory_analysis().temp_size_in_bytes for each in compiled]
    assert costs[0] == costs[1] and memory[0] == memory[1]
    for one, other in zip(*(jax.tree.leaves(each(variables)) for each in compiled), strict=True):
        np.testing.assert_array_equal(one, other)
