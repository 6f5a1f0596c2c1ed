"""The Mixer: shapes, names, and its equations in NumPy float64."""

import functools
import itertools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.config import fit_patches, resolve
from mixer_dilated.models.cpu import CpuMixerBlock, CpuMlpMixer
from mixer_dilated.models.mixer import MixerBlock, MlpBlock, MlpMixer, Stem
from mixer_dilated.parallel.partition import named_leaves
from mixer_dilated.patches.extraction import antialias, extract_patches
from mixer_dilated.patches.geometry import Patches, num_tokens
from mixer_dilated.training.state import create_model
from tests.conftest import CONFIG_FILES, config_of

DILATED = Patches(size=4, dilation=2, stride=7)
FORMS = MlpMixer, CpuMlpMixer


def small_mixer(form=MlpMixer, **changes):
    arguments = {
        'branches': (DILATED,),
        'num_classes': 10,
        'num_blocks': 2,
        'hidden_dim': 12,
        'tokens_mlp_dim': 6,
        'channels_mlp_dim': 9,
        **changes,
    }
    return form(**arguments)


def random_images(shape=(2, 28, 28, 1), seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def random_variables(module, *args, seed=1, **kwargs):
    """Its variables with every leaf random, so that zeros and ones hide nothing."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: draw.normal(0, 0.3, leaf.shape).astype('f4'), shapes)


@pytest.mark.parametrize('path', CONFIG_FILES, ids=lambda path: path.stem)
def test_logits_and_tokens_of_every_config(path):
    config = resolve(config_of(path))
    shape = (8, 8, 1) if config.dataset.name == 'digits' else (28, 28, 1)
    config = fit_patches(config, shape[:2])
    model = create_model(config, num_classes=10)
    logits, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((3, *shape)), train=False)
    )
    chex.assert_shape(logits, (3, 10))
    assert logits.dtype == jnp.float32
    tokens = num_tokens(model.branches, model.branch_merge, shape[:2])
    mixing = variables['params']['MixerBlock_0']['token_mixing']['Dense_0']['kernel']
    chex.assert_shape(mixing, (tokens, config.model.tokens_mlp_dim))


@pytest.mark.parametrize('dilation', [1, 2, 3])
def test_stem_equals_a_dilated_convolution_with_the_same_parameters(dilation):
    """With dilation 1 it is the stem of the original."""
    patches = Patches(size=(4, 3), dilation=dilation, stride=(5, 4), padding='SAME')
    images = random_images((2, 28, 28, 3))
    stem = Stem((patches,), 8)
    variables = random_variables(stem, images)
    conv = nn.Conv(8, (4, 3), strides=(5, 4), kernel_dilation=dilation, padding='SAME')
    expected = conv.apply(variables, images).reshape(2, -1, 8)
    chex.assert_trees_all_close(stem.apply(variables, images), expected, atol=1e-4)


def layer_norm(x, params):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * params['scale'] + params['bias']


def exact_gelu(x):
    return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def tanh_gelu(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mlp(x, params, gelu=exact_gelu):
    hidden = gelu(x @ params['Dense_0']['kernel'] + params['Dense_0']['bias'])
    return hidden @ params['Dense_1']['kernel'] + params['Dense_1']['bias']


def mixer_block(x, params, token_scale=1.0, channel_scale=1.0):
    """Equations (1) and (2) of the paper for one image, X of shape (S, C), with biases."""
    u = x.copy()
    normed = layer_norm(x, params['LayerNorm_0'])
    for i in range(x.shape[1]):
        u[:, i] += token_scale * mlp(normed[:, i], params['token_mixing'])
    y = u.copy()
    normed = layer_norm(u, params['LayerNorm_1'])
    for j in range(x.shape[0]):
        y[j] += channel_scale * mlp(normed[j], params['channel_mixing'])
    return y


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.mark.parametrize('form', FORMS)
def test_logits_and_intermediates_are_those_of_the_papers_equations(form):
    model, images = small_mixer(form), random_images()
    variables = random_variables(model, images, train=False)
    params = float64(variables['params'])
    logits, intermediates = jax.jit(
        lambda v: model.apply(v, images, train=False, return_intermediates=True)
    )(variables)
    kernel = params['stem']['kernel'].transpose(2, 0, 1, 3).reshape(16, 12)
    x = float64(extract_patches(images, DILATED)) @ kernel + params['stem']['bias']
    expected = {'stem': x}
    for i in range(2):
        block = params[f'MixerBlock_{i}']
        expected[f'block_{i}'] = x = np.stack([mixer_block(image, block) for image in x])
    expected['pre_logits'] = layer_norm(x, params['pre_head_layer_norm']).mean(axis=1)
    chex.assert_trees_all_close(intermediates, expected, atol=5e-5)
    head = expected['pre_logits'] @ params['head']['kernel'] + params['head']['bias']
    chex.assert_trees_all_close(logits, head, atol=5e-5)


TOKENS = {'branches': (Patches(7, stride=7), Patches(14, stride=14)), 'branch_merge': 'tokens'}


@pytest.mark.parametrize(
    ('changes', 'tokens', 'dtype'),
    [
        ({'remat': True}, 16, jnp.float32),
        ({'dtype': jnp.bfloat16}, 16, jnp.bfloat16),
        (TOKENS, 20, jnp.float32),
    ],
    ids=['remat', 'bfloat16', 'tokens'],
)
@pytest.mark.parametrize('form', FORMS)
def test_intermediates_are_batch_tokens_channels(form, changes, tokens, dtype):
    model, images = small_mixer(form, **changes), random_images((3, 28, 28, 1))
    variables = random_variables(model, images, train=False)
    shapes = jax.eval_shape(
        lambda v: model.apply(v, images, train=False, return_intermediates=True)[1], variables
    )
    for name in ('stem', 'block_0', 'block_1'):
        assert (shapes[name].shape, shapes[name].dtype) == ((3, tokens, 12), dtype)
    assert (shapes['pre_logits'].shape, shapes['pre_logits'].dtype) == ((3, 12), jnp.float32)


def test_mlp_block_has_the_gelu_that_is_asked_for():
    x = 5 * random_images((40, 6))
    outputs = []
    for name, gelu in (('exact', exact_gelu), ('tanh', tanh_gelu)):
        block = MlpBlock(5, gelu=name)
        variables = random_variables(block, x, train=False)
        outputs.append(block.apply(variables, x, train=False))
        expected = mlp(float64(x), float64(variables['params']), gelu)
        chex.assert_trees_all_close(outputs[-1], expected, atol=1e-5)
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4


def test_parameter_names_and_shapes_are_the_originals_and_the_head_starts_at_zero():
    init = functools.partial(small_mixer().init_with_output, train=False)
    logits, variables = jax.jit(init)(jax.random.key(0), random_images())
    np.testing.assert_array_equal(logits, np.zeros((2, 10)))
    kernels, norms = {'stem': (4, 4, 1, 12), 'head': (12, 10)}, ['pre_head_layer_norm']
    for block in ('MixerBlock_0', 'MixerBlock_1'):
        norms += [f'{block}/LayerNorm_0', f'{block}/LayerNorm_1']
        for mixing, width, hidden in (('token_mixing', 16, 6), ('channel_mixing', 12, 9)):
            kernels[f'{block}/{mixing}/Dense_0'] = width, hidden
            kernels[f'{block}/{mixing}/Dense_1'] = hidden, width
    expected = {f'{name}/{leaf}': (12,) for name in norms for leaf in ('scale', 'bias')}
    for name, shape in kernels.items():
        expected |= {f'{name}/kernel': shape, f'{name}/bias': shape[-1:]}
    assert {name: leaf.shape for name, leaf in named_leaves(variables['params'])} == expected


@pytest.mark.parametrize('form', FORMS)
def test_dropout_and_stochastic_depth_act_in_training_alone_and_name_nothing_new(form):
    images = random_images()
    plain = small_mixer(form)
    dropping = small_mixer(form, dropout_rate=0.5, stoch_depth=0.5)
    variables = random_variables(plain, images, train=False)
    chex.assert_trees_all_equal(random_variables(dropping, images, train=False), variables)
    evaluated = [
        jax.jit(functools.partial(model.apply, train=False))(variables, images)
        for model in (dropping, plain)
    ]
    chex.assert_trees_all_equal(*evaluated)
    train = jax.jit(functools.partial(dropping.apply, train=True))
    first, second = (
        train(variables, images, rngs={'dropout': jax.random.key(seed)}) for seed in (0, 1)
    )
    assert not np.allclose(first, second)


@pytest.mark.parametrize('blur', [False, True])
def test_branches_over_channels_are_one_embedding_of_all_their_pixels(blur):
    """Blurred by its own dilation each."""
    branches = (
        Patches(size=4, stride=7),
        Patches(size=4, dilation=(2, 3), stride=7, padding='SAME'),
    )
    images = random_images((2, 28, 28, 2))
    stem = Stem(branches, 5, blur=blur)
    variables = random_variables(stem, images)
    params = variables['params']
    expected = params['bias'] + sum(
        extract_patches(antialias(images, branch.dilation) if blur else images, branch)
        @ params[f'kernel_{i}'].transpose(2, 0, 1, 3).reshape(-1, 5)
        for i, branch in enumerate(branches)
    )
    chex.assert_trees_all_close(stem.apply(variables, images), expected, atol=1e-5)


def test_a_config_gives_every_setting_to_its_network_and_the_platform_its_form():
    values = {'blur': True, 'stoch_depth': 0.25, 'gelu': 'tanh', 'dropout_rate': 0.5}
    values |= {'num_blocks': 3, 'hidden_dim': 5, 'tokens_mlp_dim': 7, 'channels_mlp_dim': 9}
    values |= {'remat': True}
    config = resolve({'model': {**values, 'branch_merge': 'tokens'}, 'dtype': 'bfloat16'})
    for platform, form in ((None, MlpMixer), ('cpu', CpuMlpMixer), ('gpu', MlpMixer)):
        model = create_model(config, 4, platform)
        assert type(model) is form
        assert {name: getattr(model, name) for name in values} == values
        assert (model.branch_merge, model.num_classes, model.dtype) == ('tokens', 4, jnp.bfloat16)


@pytest.mark.parametrize('form', [MixerBlock, CpuMixerBlock])
def test_stochastic_depth_leaves_out_or_rescales_each_mlp_of_each_example(form):
    x = random_images((40, 3, 4))
    block = form(tokens_mlp_dim=4, channels_mlp_dim=6, drop_path_rate=0.25)
    axes = (1, 0, 2) if form is CpuMixerBlock else (0, 1, 2)
    variables = random_variables(block, x.transpose(axes), train=False)
    rngs = {'dropout': jax.random.key(0)}
    output = block.apply(variables, x.transpose(axes), train=True, rngs=rngs).transpose(axes)
    params = float64(variables['params'])
    seen = np.zeros((2, 2), int)
    for example, y in zip(float64(x), np.asarray(output), strict=True):
        errors = {
            kept: np.abs(mixer_block(example, params, kept[0] / 0.75, kept[1] / 0.75) - y).max()
            for kept in itertools.product((0, 1), repeat=2)
        }
        kept = min(errors, key=errors.get)
        assert errors[kept] < 1e-5
        seen[kept] += 1
    assert (seen > 0).all()  # each of the two is left out on its own
    assert 0.6 < seen[1].sum() / 40 < 0.9 and 0.6 < seen[:, 1].sum() / 40 < 0.9


def test_stochastic_depth_grows_from_nothing_at_the_first_block():
    rates = []

    def record(call, args, kwargs, context):
        if context.method_name == '__call__' and isinstance(context.module, MixerBlock):
            rates.append(context.module.drop_path_rate)
        return call(*args, **kwargs)

    for num_blocks in (1, 4):
        with nn.intercept_methods(record):
            random_variables(
                small_mixer(num_blocks=num_blocks, stoch_depth=0.6), random_images(), train=False
            )
    np.testing.assert_allclose(rates, [0, 0, 0.2, 0.4, 0.6])


def test_branches_over_channels_start_with_the_variance_of_one_embedding():
    branches = (Patches(size=4, stride=7), DILATED, Patches(size=4, dilation=2, stride=7))
    params = Stem(branches, 4000).init(jax.random.key(0), random_images())['params']
    variance = sum(jnp.var(params[f'kernel_{i}']) * 16 for i in range(3))
    np.testing.assert_allclose(variance, 1.0, rtol=0.02)
