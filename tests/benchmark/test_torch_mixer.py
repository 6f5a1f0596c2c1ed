"""The network in PyTorch: the same numbers; what it lacks is refused by key and value."""

import sys

import numpy as np
import pytest

from mixer_dilated.benchmark.torch_mixer import check_torch, mixer, torch_step
from mixer_dilated.benchmark.variants import time_torch
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.state import create_model
from mixer_dilated.training.timing import on_random_images
from tests.conftest import refuses, small_config
from tests.models.test_mixer import random_variables


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('model.phases', 2),
        ('augment.random_phase', True),
        ('model.branches', ({'dilation': 1}, {'dilation': 2})),
        ('optimizer.name', 'sgd'),
        ('optimizer.grad_norm_clip', 1.0),
    ],
)
def test_what_the_network_of_torch_lacks_is_refused_by_name(key, value):
    with refuses(f'config.{key} = ', '--against=torch'):
        check_torch(small_config(**{key: value}))


def test_torch_is_asked_for_by_name_where_it_is_missing(monkeypatch):
    """Before the data is read: libraries that read it look for torch too."""
    monkeypatch.setitem(sys.modules, 'torch', None)
    with refuses('--against=torch'):
        torch_step(create_setup(small_config()))


def test_the_network_of_torch_is_the_same():
    torch = pytest.importorskip('torch', reason='an optional extra: pip install torch==2.13.0')
    setup = on_random_images(create_setup(small_config(**{'model.num_blocks': 2})), (8, 8), steps=1)
    network = mixer(torch, setup)
    model = create_model(setup.config, 10)
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    params = random_variables(model, images, train=False)['params']
    with torch.no_grad():
        copy_parameters(torch, network, params)
        logits = network(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    expected = model.apply({'params': params}, images, train=False)
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)
    timed = time_torch(setup)
    assert timed.compile_seconds > 0 and timed.seconds() > 0


def copy_parameters(torch, network, params):
    def copy(module, values):
        weight = values['kernel'].T if 'kernel' in values else values['scale']
        if weight.ndim == 4:  # of a convolution: (hidden, channels, width, height)
            weight = weight.transpose(0, 1, 3, 2)
        module.weight.copy_(torch.from_numpy(np.array(weight)))
        module.bias.copy_(torch.from_numpy(np.array(values['bias'])))

    copy(network.stem, params['stem'])
    for i, block in enumerate(network.blocks):
        block_params = params[f'MixerBlock_{i}']
        copy(block.norm_0, block_params['LayerNorm_0'])
        copy(block.norm_1, block_params['LayerNorm_1'])
        for name in ('token_mixing', 'channel_mixing'):
            first, _, second = getattr(block, name)
            copy(first, block_params[name]['Dense_0'])
            copy(second, block_params[name]['Dense_1'])
    copy(network.norm, params['pre_head_layer_norm'])
    copy(network.head, params['head'])
