"""Fields of the modules: what is refused, and a network without a head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.models.cpu import CpuMlpMixer
from mixer_dilated.models.mixer import MixerBlock, MlpBlock, Stem
from mixer_dilated.patches.geometry import Patches
from tests.conftest import refuses
from tests.models.test_mixer import DILATED, FORMS, random_images, random_variables, small_mixer


@pytest.mark.parametrize(
    ('module', 'field', 'value', 'allowed'),
    [
        (small_mixer, 'branches', DILATED, 'a tuple of Patches'),
        (small_mixer, 'branches', (), 'a tuple of Patches'),
        (small_mixer, 'branches', ({'size': 4},), 'a tuple of Patches'),
        (small_mixer, 'branch_merge', 'token', "'channels', 'tokens'"),
        (small_mixer, 'gelu', 'auto', "'exact', 'tanh'"),
        (small_mixer, 'num_classes', -1, '0 or None'),
        (small_mixer, 'num_blocks', 0, 'from 1'),
        (small_mixer, 'hidden_dim', 12.0, 'an integer'),
        (small_mixer, 'tokens_mlp_dim', None, 'an integer'),
        (small_mixer, 'dropout_rate', 1.0, '[0, 1)'),
        (small_mixer, 'stoch_depth', -0.1, '[0, 1)'),
        (small_mixer, 'blur', 'yes', 'True or False'),
        (functools.partial(small_mixer, CpuMlpMixer), 'gelu', 'erf', "'exact', 'tanh'"),
        (functools.partial(Stem, hidden_dim=8), 'branches', DILATED, 'a tuple of Patches'),
        (functools.partial(MlpBlock, 8), 'gelu', 'erf', "'exact', 'tanh'"),
        (MlpBlock, 'mlp_dim', '8', 'an integer'),
        (functools.partial(MixerBlock, 4, 8), 'drop_path_rate', 1.5, '[0, 1)'),
    ],
)
def test_a_value_that_a_config_would_refuse_is_refused(module, field, value, allowed):
    with refuses(f'{field} = {value!r}', allowed):
        module(**{field: value})


def test_branches_of_different_grids_cannot_be_merged_by_channels():
    branches = DILATED, Patches(size=4, stride=4)
    model = small_mixer(branches=branches)
    with refuses('4×4', '7×7'):
        model.init(jax.random.key(0), random_images(), train=False)
    by_tokens = small_mixer(branches=branches, branch_merge='tokens')
    variables = by_tokens.init(jax.random.key(0), random_images(), train=False)
    assert variables['params']['MixerBlock_0']['token_mixing']['Dense_0']['kernel'].shape[0] == 65


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('num_classes', [0, None])
def test_without_a_head_the_result_is_its_input(form, num_classes):
    """As in the original; the parameters are those of the network with a head, without it."""
    images, whole = random_images(), small_mixer(form)
    variables = random_variables(whole, images, train=False)
    logits, intermediates = whole.apply(variables, images, train=False, return_intermediates=True)
    params = {name: value for name, value in variables['params'].items() if name != 'head'}
    headless = small_mixer(form, num_classes=num_classes)
    expected = jax.eval_shape(lambda: headless.init(jax.random.key(0), images, train=False))
    assert expected['params'].keys() == params.keys()
    features = headless.apply({'params': params}, images, train=False)
    assert features.dtype == jnp.float32
    np.testing.assert_array_equal(features, intermediates['pre_logits'])
    head = variables['params']['head']
    np.testing.assert_allclose(features @ head['kernel'] + head['bias'], logits, atol=1e-5)
