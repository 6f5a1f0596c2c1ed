"""Fields of the modules: what is refused, and a network without a head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_dilated.errors import UserError
from mixer_dilated.models.mixer import MixerBlock, MlpBlock, Stem
from mixer_dilated.patches.geometry import Patches
from tests.models.test_mixer import DILATED, FORMS, random_images, random_variables, small_mixer


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize(
    ('field', 'value', 'allowed'),
    [
        ('branches', DILATED, 'a tuple of Patches'),
        ('branches', (), 'a tuple of Patches'),
        ('branches', ({'size': 4},), 'a tuple of Patches'),
        ('branch_merge', 'token', "'channels', 'tokens'"),
        ('gelu', 'approximate', "'exact', 'tanh'"),
        ('gelu', 'auto', "'exact', 'tanh'"),
        ('num_classes', -1, '0 or None'),
        ('num_blocks', 0, 'from 1'),
        ('hidden_dim', 12.0, 'an integer'),
        ('tokens_mlp_dim', None, 'an integer'),
        ('dropout_rate', 1.0, '[0, 1)'),
        ('stoch_depth', -0.1, '[0, 1)'),
        ('blur', 'yes', 'True or False'),
    ],
)
def test_a_value_that_a_config_would_refuse_is_refused(form, field, value, allowed):
    with pytest.raises(UserError) as error:
        small_mixer(form, **{field: value})
    message = str(error.value)
    assert f'{field} = {value!r}' in message and allowed in message and '\n' not in message


@pytest.mark.parametrize(
    ('module', 'arguments', 'field'),
    [
        (Stem, {'branches': DILATED, 'hidden_dim': 8}, 'branches'),
        (MlpBlock, {'mlp_dim': 8, 'gelu': 'erf'}, 'gelu'),
        (MlpBlock, {'mlp_dim': '8'}, 'mlp_dim'),
        (
            MixerBlock,
            {'tokens_mlp_dim': 4, 'channels_mlp_dim': 8, 'drop_path_rate': 1.5},
            'drop_path_rate',
        ),
    ],
)
def test_the_parts_refuse_them_too(module, arguments, field):
    with pytest.raises(UserError) as error:
        module(**arguments)
    assert f'{module.__name__}: {field} = {arguments[field]!r}' in str(error.value)


def test_branches_of_different_grids_cannot_be_merged_by_channels():
    branches = DILATED, Patches(size=4, stride=4)
    model = small_mixer(branches=branches)
    with pytest.raises(UserError) as error:
        model.init(jax.random.key(0), random_images(), train=False)
    assert '4×4' in str(error.value) and '7×7' in str(error.value)
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
