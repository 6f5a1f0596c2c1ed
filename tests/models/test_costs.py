"""What networks cost: parameters, FLOPs and shapes, layer by layer."""

import jax
import jax.numpy as jnp
import pytest

from mixer_dilated.config import resolve
from mixer_dilated.models.costs import flops_per_image, layers, num_params
from mixer_dilated.patches.geometry import num_tokens
from mixer_dilated.training.state import create_model
from tests.conftest import CONFIG_FILES, config_of


@pytest.mark.parametrize(
    ('name', 'tokens', 'pixels'),
    [('mnist_baseline', 49, 16), ('mnist_dilated', 16, 16), ('mnist_plain7', 16, 49)],
)
def test_counts_of_the_papers_networks(name, tokens, pixels):
    path = next(path for path in CONFIG_FILES if path.stem == name)
    model = create_model(resolve(config_of(path)), num_classes=10)
    found = layers(model, (28, 28, 1))
    block = 2 * 2 * 64 + (2 * tokens * 64 + 64 + tokens) + (2 * 64 * 128 + 128 + 64)
    assert num_params(found) == pixels * 64 + 64 + 4 * block + 2 * 64 + 64 * 10 + 10
    products = pixels * 64 * tokens + 4 * (2 * tokens * 64 * 64 + 2 * tokens * 64 * 128) + 640
    assert flops_per_image(found) == 2 * products
    shapes = {layer.path: layer.output_shape for layer in found}
    assert shapes['stem',] == (tokens, 64) and shapes['head',] == (10,)
    assert shapes['MixerBlock_3', 'token_mixing', 'Dense_0'] == (64, 64)
    assert shapes['MixerBlock_3', 'token_mixing', 'Dense_1'] == (64, tokens)
    assert shapes['MixerBlock_3', 'channel_mixing', 'Dense_0'] == (tokens, 128)
    actual = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False)
    )
    assert num_params(found) == sum(leaf.size for leaf in jax.tree.leaves(actual))


def test_phases_join_as_branches_do_and_are_counted():
    for join, tokens, names in (
        ('channels', 16, {'stem'}),
        ('tokens', 64, {'stem_0', 'stem_1', 'stem_2', 'stem_3'}),
    ):
        patches = {'size': 4, 'dilation': 2, 'stride': 7}
        config = resolve({'model': {'patches': patches, 'phases': 2, 'branch_merge': join}})
        model = create_model(config, num_classes=10)
        found = layers(model, (28, 28, 1))
        assert num_tokens(model.branches, model.branch_merge, (28, 28)) == tokens
        stems = [layer for layer in found if layer.path[0].startswith('stem')]
        assert {layer.path[0] for layer in stems} == names
        biases = 64 * len(names)
        assert num_params(stems) == 64 * 64 + biases
        assert flops_per_image(stems) == 2 * 16 * 64 * 64  # each pixel of each window once
        mixing = next(layer for layer in found if 'token_mixing' in layer.path)
        assert mixing.params == (tokens + 1) * config.model.tokens_mlp_dim
