"""What networks cost: parameters, FLOPs and shapes, layer by layer."""

import jax
import jax.numpy as jnp
import pytest

from mixer_dilated.config import resolve
from mixer_dilated.models.costs import flops_per_image, layers, num_params
from mixer_dilated.training.state import create_model
from tests.conftest import ROOT, config_of


@pytest.mark.parametrize(
    ('name', 'tokens', 'pixels'),
    [('mnist_baseline', 49, 16), ('mnist_dilated', 16, 16), ('mnist_plain7', 16, 49)],
)
def test_counts_of_the_papers_networks(name, tokens, pixels):
    config = resolve(config_of(ROOT / 'configs' / f'{name}.py'))
    model = create_model(config, num_classes=10)
    costs = layers(model, (28, 28, 1))
    block = 2 * 2 * 64 + (2 * tokens * 64 + 64 + tokens) + (2 * 64 * 128 + 128 + 64)
    assert num_params(costs) == pixels * 64 + 64 + 4 * block + 2 * 64 + 64 * 10 + 10
    products = pixels * 64 * tokens + 4 * (2 * tokens * 64 * 64 + 2 * tokens * 64 * 128) + 640
    assert flops_per_image(costs) == 2 * products
    shapes = {layer.path: layer.output_shape for layer in costs}
    assert shapes['stem',] == (tokens, 64) and shapes['head',] == (10,)
    assert shapes['MixerBlock_3', 'token_mixing', 'Dense_0'] == (64, 64)
    assert shapes['MixerBlock_3', 'token_mixing', 'Dense_1'] == (64, tokens)
    assert shapes['MixerBlock_3', 'channel_mixing', 'Dense_0'] == (tokens, 128)
    actual = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False)
    )
    assert num_params(costs) == sum(leaf.size for leaf in jax.tree.leaves(actual))


@pytest.mark.parametrize(
    ('merge', 'tokens', 'names'),
    [('channels', 16, {'stem'}), ('tokens', 64, {'stem_0', 'stem_1', 'stem_2', 'stem_3'})],
)
def test_phases_join_as_branches_do_and_are_counted(merge, tokens, names):
    patches = {'size': 4, 'dilation': 2, 'stride': 7}
    config = resolve({'model': {'patches': patches, 'phases': 2, 'branch_merge': merge}})
    costs = layers(create_model(config, num_classes=10), (28, 28, 1))
    stems = [layer for layer in costs if layer.path[0].startswith('stem')]
    assert {layer.path[0] for layer in stems} == names
    assert num_params(stems) == 64 * 64 + 64 * len(names)
    assert flops_per_image(stems) == 2 * 16 * 64 * 64  # each pixel of each window once
    mixing = next(layer for layer in costs if 'token_mixing' in layer.path)
    assert mixing.params == (tokens + 1) * config.model.tokens_mlp_dim
