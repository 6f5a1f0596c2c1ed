"""The Mixer: shapes, names, counts, and its equations in NumPy float64."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from mixer_dilated.config import changed, resolve
from mixer_dilated.errors import UserError
from mixer_dilated.models.cpu import CpuMixerBlock, CpuMlpMixer
from mixer_dilated.models.mixer import MixerBlock, MlpBlock, MlpMixer, Stem
from mixer_dilated.patches.extraction import antialias, extract_patches
from mixer_dilated.patches.geometry import Patches, num_tokens
from mixer_dilated.training.state import create_model
from tests.conftest import CONFIG_FILES, config_of

DILATED = Patches(size=4, dilation=2, stride=7)


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


def random_images(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def randomised(variables, seed=1):
    """The same tree with every leaf random, so that zeros and ones hide nothing."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        tree,
        [0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)],
    )


class ShapesTest(chex.TestCase):
    """Every config's network, jitted or not, its images on the device or not."""

    @chex.all_variants(with_pmap=False)
    @parameterized.parameters(path.stem for path in CONFIG_FILES)
    def test_logits_and_tokens_of_every_config(self, stem):
        path = next(path for path in CONFIG_FILES if path.stem == stem)
        config = changed(config_of(path), {'model.num_blocks': 1})  # blocks are alike
        shape = (8, 8, 1) if config.dataset.name == 'digits' else (28, 28, 1)
        model = create_model(config, num_classes=10)
        images = np.zeros((3, *shape), np.float32)
        variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
        logits = self.variant(lambda v, x: model.apply(v, x, train=False))(variables, images)
        chex.assert_shape(logits, (3, 10))
        chex.assert_type(logits, jnp.float32)
        tokens = num_tokens(model.branches, model.branch_merge, shape[:2])
        mixing = variables['params']['MixerBlock_0']['token_mixing']['Dense_0']['kernel']
        chex.assert_shape(mixing, (tokens, config.model.tokens_mlp_dim))


@pytest.mark.parametrize('dilation', [1, 2, 3])
def test_stem_equals_a_dilated_convolution_with_the_same_kernel(dilation):
    patches = Patches(size=(4, 3), dilation=dilation, stride=(5, 4), padding='SAME')
    images = random_images((2, 28, 28, 3))
    stem = Stem((patches,), 8)
    variables = randomised(stem.init(jax.random.key(0), images))
    conv = nn.Conv(8, (4, 3), strides=(5, 4), kernel_dilation=dilation, padding='SAME')
    expected = conv.apply(variables, images).reshape(2, -1, 8)
    chex.assert_trees_all_close(stem.apply(variables, images), expected, atol=1e-4)


def test_dilation_one_equals_the_stem_of_the_original():
    images = random_images((2, 28, 28, 1))
    stem = Stem((Patches(size=7, stride=7),), 8)
    original = nn.Conv(8, (7, 7), strides=(7, 7))
    expected, variables = original.init_with_output(jax.random.key(3), images)
    chex.assert_trees_all_equal_shapes(stem.init(jax.random.key(0), images), variables)
    chex.assert_trees_all_close(
        stem.apply(variables, images), expected.reshape(2, 16, 8), atol=1e-5
    )


def layer_norm(x, parameters):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * parameters['scale'] + parameters['bias']


def exact_gelu(x):
    return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def mixer_block(x, parameters):
    """Equations (1) and (2) of the paper for one image, X of shape (S, C), with biases."""
    tokens, channels = x.shape
    token, channel = parameters['token_mixing'], parameters['channel_mixing']
    normed = layer_norm(x, parameters['LayerNorm_0'])
    u = np.empty_like(x)
    for i in range(channels):
        hidden = exact_gelu(token['Dense_0']['kernel'].T @ normed[:, i] + token['Dense_0']['bias'])
        u[:, i] = x[:, i] + token['Dense_1']['kernel'].T @ hidden + token['Dense_1']['bias']
    normed = layer_norm(u, parameters['LayerNorm_1'])
    y = np.empty_like(x)
    for j in range(tokens):
        hidden = exact_gelu(
            channel['Dense_0']['kernel'].T @ normed[j, :] + channel['Dense_0']['bias']
        )
        y[j, :] = u[j, :] + channel['Dense_1']['kernel'].T @ hidden + channel['Dense_1']['bias']
    return y


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.mark.parametrize('tokens', [5, 1])
def test_mixer_block_is_the_papers_equations(tokens):
    x = random_images((3, tokens, 7))
    block = MixerBlock(tokens_mlp_dim=4, channels_mlp_dim=6)
    variables = randomised(block.init(jax.random.key(0), x, train=False))
    parameters = float64(variables['params'])
    expected = np.stack([mixer_block(image, parameters) for image in float64(x)])
    chex.assert_trees_all_close(block.apply(variables, x, train=False), expected, atol=1e-5)


def test_whole_network_in_numpy():
    model = small_mixer()
    images = random_images((2, 28, 28, 1))
    variables = randomised(model.init(jax.random.key(0), images, train=False))
    parameters = float64(variables['params'])
    kernel = parameters['stem']['kernel'].transpose(2, 0, 1, 3).reshape(16, 12)
    logits = []
    for features in float64(extract_patches(images, DILATED)):
        x = features @ kernel + parameters['stem']['bias']
        for i in range(2):
            x = mixer_block(x, parameters[f'MixerBlock_{i}'])
        pooled = layer_norm(x, parameters['pre_head_layer_norm']).mean(axis=0)
        logits.append(pooled @ parameters['head']['kernel'] + parameters['head']['bias'])
    chex.assert_trees_all_close(
        model.apply(variables, images, train=False), np.stack(logits), atol=2e-5
    )


def tanh_gelu(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_mlp_block_has_the_gelu_that_is_asked_for():
    x = 5 * random_images((40, 6))
    outputs = []
    for name, gelu in (('exact', exact_gelu), ('tanh', tanh_gelu)):
        block = MlpBlock(5, gelu=name)
        variables = randomised(block.init(jax.random.key(0), x, train=False))
        first, second = (float64(variables['params'][f'Dense_{i}']) for i in range(2))
        hidden = gelu(float64(x) @ first['kernel'] + first['bias'])
        outputs.append(block.apply(variables, x, train=False))
        chex.assert_trees_all_close(
            outputs[-1], hidden @ second['kernel'] + second['bias'], atol=1e-5
        )
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4


def test_parameter_names_and_shapes_are_the_originals():
    params = jax.eval_shape(
        lambda: small_mixer().init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False)
    )['params']
    flat = {
        '/'.join(entry.key for entry in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    blocks = {}
    for i in range(2):
        for norm in ('LayerNorm_0', 'LayerNorm_1'):
            for name in ('scale', 'bias'):
                blocks[f'MixerBlock_{i}/{norm}/{name}'] = (12,)
        for mixing, width, hidden in (('token_mixing', 16, 6), ('channel_mixing', 12, 9)):
            dense = f'MixerBlock_{i}/{mixing}/Dense'
            blocks |= {f'{dense}_0/kernel': (width, hidden), f'{dense}_0/bias': (hidden,)}
            blocks |= {f'{dense}_1/kernel': (hidden, width), f'{dense}_1/bias': (width,)}
    assert flat == {
        'stem/kernel': (4, 4, 1, 12),
        'stem/bias': (12,),
        **blocks,
        'pre_head_layer_norm/scale': (12,),
        'pre_head_layer_norm/bias': (12,),
        'head/kernel': (12, 10),
        'head/bias': (10,),
    }


def test_head_starts_at_zero():
    model = small_mixer()
    images = random_images((2, 28, 28, 1))
    logits, _ = model.init_with_output(jax.random.key(0), images, train=False)
    np.testing.assert_array_equal(logits, np.zeros((2, 10)))


@pytest.mark.parametrize('form', [MlpMixer, CpuMlpMixer])
def test_dropout_acts_in_training_and_is_off_at_evaluation(form):
    images = random_images((2, 28, 28, 1))
    dropping, plain = small_mixer(form, dropout_rate=0.5), small_mixer(form)
    variables = randomised(plain.init(jax.random.key(0), images, train=False))
    chex.assert_trees_all_equal(
        dropping.apply(variables, images, train=False), plain.apply(variables, images, train=False)
    )
    first, second = (
        dropping.apply(variables, images, train=True, rngs={'dropout': jax.random.key(seed)})
        for seed in (0, 1)
    )
    assert not np.allclose(first, second)


def test_branches_joined_over_channels_are_one_embedding_of_all_their_pixels():
    phases = tuple(
        Patches(size=2, dilation=2, stride=4, padding=((-i, i), (-j, j)))
        for i in (0, 1)
        for j in (0, 1)
    )
    images = random_images((2, 12, 12, 1))
    stem = Stem(phases, 5)
    variables = randomised(stem.init(jax.random.key(0), images))
    params = variables['params']
    pixels = jnp.concatenate([extract_patches(images, phase) for phase in phases], axis=-1)
    matrix = jnp.concatenate([params[f'kernel_{i}'].reshape(4, 5) for i in range(4)])
    chex.assert_trees_all_close(
        stem.apply(variables, images), pixels @ matrix + params['bias'], atol=1e-5
    )


def test_phases_of_a_dilated_patch_are_the_embedding_of_a_solid_one():
    phases = Patches(size=2, dilation=2, stride=3).phases(2)
    solid = Patches(size=4, stride=3, padding=((0, 1), (0, 1)))
    images = random_images((2, 9, 12, 2))
    variables = randomised(Stem(phases, 5).init(jax.random.key(0), images))
    kernel = np.zeros((4, 4, 2, 5), np.float32)
    for i, (down, right) in enumerate(phase.offset for phase in phases):
        kernel[down::2, right::2] = variables['params'][f'kernel_{i}']
    bias = variables['params']['bias']
    chex.assert_trees_all_close(
        Stem(phases, 5).apply(variables, images),
        Stem((solid,), 5).apply({'params': {'kernel': kernel, 'bias': bias}}, images),
        atol=1e-5,
    )


def test_blur_smooths_for_each_branch_by_its_own_dilation():
    branches = (
        Patches(size=4, stride=7),
        Patches(size=4, dilation=(2, 3), stride=7, padding='SAME'),
    )
    images = random_images((2, 28, 28, 2))
    blurred, plain = Stem(branches, 5, blur=True), Stem(branches, 5)
    variables = randomised(plain.init(jax.random.key(0), images))
    chex.assert_trees_all_equal_shapes(blurred.init(jax.random.key(0), images), variables)
    params = variables['params']
    expected = params['bias'] + sum(
        extract_patches(antialias(images, branch.dilation), branch)
        @ params[f'kernel_{i}'].transpose(2, 0, 1, 3).reshape(-1, 5)
        for i, branch in enumerate(branches)
    )
    chex.assert_trees_all_close(blurred.apply(variables, images), expected, atol=1e-5)
    assert not np.allclose(plain.apply(variables, images), expected, atol=1e-2)


def test_a_config_gives_every_setting_to_its_network():
    values = {'blur': True, 'stoch_depth': 0.25, 'gelu': 'tanh', 'dropout_rate': 0.5}
    values |= {'num_blocks': 3, 'hidden_dim': 5, 'tokens_mlp_dim': 7, 'channels_mlp_dim': 9}
    values |= {'remat': True}
    config = resolve({'model': {**values, 'branch_merge': 'tokens'}, 'dtype': 'bfloat16'})
    model = create_model(config, 4)
    assert {name: getattr(model, name) for name in values} == values
    assert (model.branch_merge, model.num_classes, model.dtype) == ('tokens', 4, jnp.bfloat16)


def test_the_platform_chooses_the_form_and_nothing_else():
    config = resolve({})
    models = {name: create_model(config, 4, name) for name in (None, 'cpu', 'gpu', 'tpu')}
    assert {name: type(model) for name, model in models.items()} == {
        None: MlpMixer, 'cpu': CpuMlpMixer, 'gpu': MlpMixer, 'tpu': MlpMixer,
    }  # fmt: skip
    for name in MlpMixer.__dataclass_fields__:
        assert getattr(models['cpu'], name) == getattr(models['tpu'], name)


@pytest.mark.parametrize('form', [MixerBlock, CpuMixerBlock])
def test_stochastic_depth_leaves_out_or_rescales_each_mlp_of_each_example(form):
    x = random_images((40, 3, 4))
    block = form(tokens_mlp_dim=4, channels_mlp_dim=6, drop_path_rate=0.25)
    axes = (1, 0, 2) if form is CpuMixerBlock else (0, 1, 2)
    variables = randomised(block.init(jax.random.key(0), x.transpose(axes), train=False))
    rngs = {'dropout': jax.random.key(0)}
    output = block.apply(variables, x.transpose(axes), train=True, rngs=rngs).transpose(axes)
    parameters = float64(variables['params'])
    seen = np.zeros((2, 2), int)
    for example, y in zip(float64(x), np.asarray(output), strict=True):
        closest = {}
        for token in (0, 1):
            for channel in (0, 1):
                expected = skipping_block(example, parameters, token / 0.75, channel / 0.75)
                closest[token, channel] = np.abs(expected - y).max()
        kept = min(closest, key=closest.get)
        assert closest[kept] < 1e-5
        seen[kept] += 1
    assert (seen > 0).all()  # each of the two is left out on its own
    assert 0.6 < seen[1].sum() / 40 < 0.9 and 0.6 < seen[:, 1].sum() / 40 < 0.9


def skipping_block(x, parameters, token_scale, channel_scale):
    """`mixer_block` with its two MLPs scaled."""
    scale = {'token_mixing': token_scale, 'channel_mixing': channel_scale}
    scaled = {
        name: {
            **parameters[name],
            'Dense_1': jax.tree.map(lambda leaf, s=s: s * leaf, parameters[name]['Dense_1']),
        }
        for name, s in scale.items()
    }
    return mixer_block(x, {**parameters, **scaled})


def test_stochastic_depth_grows_from_nothing_at_the_first_block():
    rates = []

    def record(call, args, kwargs, context):
        if context.method_name == '__call__' and isinstance(context.module, MixerBlock):
            rates.append(context.module.drop_path_rate)
        return call(*args, **kwargs)

    for num_blocks in (1, 4):
        model = small_mixer(num_blocks=num_blocks, stoch_depth=0.6)
        with nn.intercept_methods(record):
            jax.eval_shape(
                lambda model=model: model.init(
                    jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False
                )
            )
    np.testing.assert_allclose(rates, [0, 0, 0.2, 0.4, 0.6])


@pytest.mark.parametrize('form', [MlpMixer, CpuMlpMixer])
def test_stochastic_depth_is_off_at_evaluation_and_names_nothing_new(form):
    images = random_images((2, 28, 28, 1))
    skipping, plain = (small_mixer(form, stoch_depth=rate, dropout_rate=0.3) for rate in (0.5, 0.0))
    variables = plain.init(jax.random.key(0), images, train=False)
    chex.assert_trees_all_equal(skipping.init(jax.random.key(0), images, train=False), variables)
    variables = randomised(variables)
    chex.assert_trees_all_equal(
        skipping.apply(variables, images, train=False), plain.apply(variables, images, train=False)
    )


def test_branches_joined_over_channels_start_with_the_variance_of_one_embedding():
    images = jnp.zeros((1, 28, 28, 1))
    branches = (Patches(size=4, stride=7), DILATED, Patches(size=4, dilation=2, stride=7))
    params = Stem(branches, 4000).init(jax.random.key(0), images)['params']
    variance = sum(jnp.var(params[f'kernel_{i}']) * 16 for i in range(3))
    np.testing.assert_allclose(variance, 1.0, rtol=0.02)


def test_branches_joined_over_tokens_have_their_own_stems():
    branches = (Patches(size=4, stride=4), DILATED)
    model = small_mixer(branches=branches, branch_merge='tokens')
    images = random_images((2, 28, 28, 1))
    logits, variables = model.init_with_output(jax.random.key(0), images, train=False)
    chex.assert_shape(logits, (2, 10))
    params = variables['params']
    assert {'stem_0', 'stem_1'} < set(params) and 'stem' not in params
    chex.assert_shape(params['MixerBlock_0']['token_mixing']['Dense_0']['kernel'], (65, 6))


def test_images_too_small_for_the_patches_are_refused():
    with pytest.raises(UserError, match='does not fit'):
        small_mixer().init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)), train=False)
