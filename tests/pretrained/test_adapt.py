"""Weights adapted to a network: what is resampled, reported and refused."""

import chex
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from mixer_dilated.config import resolve
from mixer_dilated.errors import ShapeMismatchError, UserError
from mixer_dilated.pretrained.adapt import adapt_params, param_shapes
from mixer_dilated.pretrained.weight_files import Weights
from mixer_dilated.training.state import create_model

SMALL = {
    'patches': {'size': 4, 'stride': 4},
    'num_blocks': 2,
    'hidden_dim': 6,
    'tokens_mlp_dim': 5,
    'channels_mlp_dim': 7,
    'gelu': 'tanh',
}
SHAPE = (16, 16, 3)
TRANSFER = resolve({}).transfer


def make_network(classes=3, **changes):
    return create_model(resolve({'model': {**SMALL, **changes}}), classes)


MIXING = 'MixerBlock_1/token_mixing/Dense_0/kernel'
KEEP_HEAD = resolve({'transfer': {'head': 'keep'}}).transfer


def random_arrays(network):
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in param_shapes(network, SHAPE).items()
    }


def random_weights(**changes):
    """Random weights of a network that their file records."""
    model = resolve({'model': {**SMALL, **changes}}).model.to_dict()
    return Weights(random_arrays(make_network(**changes)), model, SHAPE[:2])


@pytest.fixture(scope='module')
def arrays():
    """Random parameters by Linen name."""
    return random_arrays(make_network())


def test_what_does_not_fit_is_in_the_table(arrays):
    with pytest.raises(ShapeMismatchError, match='does not fit') as error:
        adapt_params(
            Weights(arrays), make_network(hidden_dim=8, num_blocks=3), SHAPE, TRANSFER, 'f.npz'
        )
    rows = error.value.rows
    assert rows == [
        ('MixerBlock_…/LayerNorm_0/bias and 10 more', '6', '8', 'model.hidden_dim=6'),
        ('MixerBlock_…/LayerNorm_0/bias and 11 more', 'not there', '8', 'model.num_blocks=2'),
    ]  # fmt: skip
    with pytest.raises(ShapeMismatchError) as error:
        adapt_params(Weights(arrays), make_network(classes=9), SHAPE, KEEP_HEAD, 'f.npz')
    assert {row[3] for row in error.value.rows} == {'transfer.head=new'}


def test_a_head_is_new_unless_it_is_kept(arrays):
    params, notes = adapt_params(Weights(arrays), make_network(classes=9), SHAPE, TRANSFER, 'f')
    assert not any(name.startswith('head/') for name in params)
    assert notes == ['head new: zeros, for 9 classes']
    params, notes = adapt_params(Weights(arrays), make_network(), SHAPE, KEEP_HEAD, 'f')
    chex.assert_trees_all_equal(params, arrays)
    assert notes == []


@pytest.mark.parametrize('shape', [(7,), (7, 5), (16, 5, 1)])
def test_a_block_of_another_shape_than_the_rest_is_in_the_table(shape):
    arrays = random_arrays(make_network()) | {MIXING: np.ones(shape, np.float32)}
    with pytest.raises(ShapeMismatchError) as error:
        adapt_params(Weights(arrays), make_network(), (24, 24, 3), TRANSFER, 'f')
    assert ('×'.join(map(str, shape)), '36×5') in [row[1:3] for row in error.value.rows]


@pytest.mark.parametrize('width', [(), (2, 3)])
def test_a_bias_that_is_no_vector_is_in_the_table(width):
    mlp = 'MixerBlock_1/token_mixing/'
    arrays = random_arrays(make_network()) | {
        f'{mlp}Dense_0/kernel': np.ones((16, *width), np.float32),
        f'{mlp}Dense_0/bias': np.ones(width, np.float32),
        f'{mlp}Dense_1/kernel': np.ones((*width, 16), np.float32),
    }
    with pytest.raises(ShapeMismatchError) as error:
        adapt_params(Weights(arrays), make_network(), (24, 24, 3), TRANSFER, 'f')
    assert 'token_mixing/Dense_0/bias' in error.value.rows[0][0]


def test_a_grid_that_is_not_of_the_arrays_is_not_used():
    """Recorded are 2×2 tokens, the arrays have 16: they fit as they are, or are in the table."""
    weights = Weights(random_weights().arrays, random_weights().model, (9, 9))
    assert adapt_params(weights, make_network(), SHAPE, KEEP_HEAD, 'f')[1] == []
    with pytest.raises(ShapeMismatchError, match='does not fit'):
        adapt_params(weights, make_network(), (24, 24, 3), KEEP_HEAD, 'f')


TOKENS = {'branches': ({'dilation': 1}, {'stride': 6}), 'branch_merge': 'tokens'}


def test_recorded_grids_of_several_branches_are_used():
    _, notes = adapt_params(
        random_weights(**TOKENS), make_network(**TOKENS), (24, 24, 3), KEEP_HEAD, 'f'
    )
    assert notes == [
        'token mixing of 4×4 and 3×3 tokens made for 6×6 and 4×4 by config.transfer.tokens = '
        "'interpolate'"
    ]
    unknown = Weights(random_weights(**TOKENS).arrays)
    with pytest.raises(UserError, match='25 tokens, which are of several branches'):
        adapt_params(unknown, make_network(**TOKENS), (24, 24, 3), KEEP_HEAD, 'f')
    with pytest.raises(UserError, match='1 that add tokens, where'):
        adapt_params(random_weights(**TOKENS), make_network(), SHAPE, KEEP_HEAD, 'f')


@pytest.mark.parametrize(
    ('before', 'now', 'expected'),
    [
        ({}, {'blur': True}, ['trained with config.model.blur = False, here True']),
        ({}, {'gelu': 'exact'}, ["trained with config.model.gelu = 'tanh', here 'exact'"]),
        (
            {'patches': {'size': 2, 'stride': 4}},
            {'patches': {'size': 2, 'stride': 4, 'dilation': 3}},
            [
                'stem kernel trained on patches (size 2×2, dilation 1×1, stride 4×4, padding '
                'VALID), here (size 2×2, dilation 3×3, stride 4×4, padding VALID)'
            ],
        ),
    ],
)
def test_differences_that_no_shape_shows_are_noted(before, now, expected):
    assert (
        adapt_params(random_weights(**before), make_network(**now), SHAPE, KEEP_HEAD, 'f')[1]
        == expected
    )
    assert adapt_params(random_weights(**now), make_network(**now), SHAPE, KEEP_HEAD, 'f')[1] == []


@pytest.mark.parametrize('merge', ['channels', 'tokens'])
def test_branches_that_changed_places_are_noted(merge):
    one, other = {'size': 2, 'dilation': 2}, {'size': 2, 'dilation': 3}
    notes = adapt_params(
        random_weights(branches=(one, other), branch_merge=merge),
        make_network(branches=(other, one), branch_merge=merge),
        SHAPE, KEEP_HEAD, 'f',
    )[1]  # fmt: skip
    assert [text.split(' trained')[0] for text in notes] == [
        'stem kernel of branch 0', 'stem kernel of branch 1',
    ]  # fmt: skip


def test_the_table_names_the_keys_that_differ_and_no_others():
    grown = resolve({'transfer': {'tokens': 'block_diagonal', 'head': 'keep'}}).transfer
    cases = [
        (make_network(), (32, 32, 3), grown, {'model.tokens_mlp_dim=20'}),
        (make_network(channels_mlp_dim=6), SHAPE, KEEP_HEAD, {'model.channels_mlp_dim=7'}),
        (
            make_network(hidden_dim=8, channels_mlp_dim=6), SHAPE, KEEP_HEAD,
            {
                'model.hidden_dim=6',
                'model.channels_mlp_dim=7',
                'model.hidden_dim=6, model.channels_mlp_dim=7',
            },
        ),
    ]  # fmt: skip
    for network, shape, transfer, remedies in cases:
        with pytest.raises(ShapeMismatchError) as error:
            adapt_params(random_weights(), network, shape, transfer, 'f')
        assert {row[3] for row in error.value.rows} == remedies
    short = {name: array for name, array in random_weights().arrays.items() if name != MIXING}
    with pytest.raises(ShapeMismatchError) as error:
        adapt_params(Weights(short), make_network(), SHAPE, KEEP_HEAD, 'f')
    assert [row[3] for row in error.value.rows] == ['another file']


def mixer_in_numpy(arrays, images, size, blocks):
    """Mixer of square plain patches and tanh GELU, in float64, from the equations."""
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}

    def dense(name, x):
        return x @ arrays[f'{name}/kernel'] + arrays[f'{name}/bias']

    def mlp(name, x):
        x = dense(f'{name}/Dense_0', x)
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return dense(f'{name}/Dense_1', x)

    def norm(name, x):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        x = (x - mean) / np.sqrt(variance + 1e-6)
        return x * arrays[f'{name}/scale'] + arrays[f'{name}/bias']

    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // size, size, width // size, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)
    kernel = arrays['stem/kernel']
    x = x @ kernel.reshape(-1, kernel.shape[-1]) + arrays['stem/bias']
    for i in range(blocks):
        block = f'MixerBlock_{i}'
        y = norm(f'{block}/LayerNorm_0', x).swapaxes(1, 2)
        x = x + mlp(f'{block}/token_mixing', y).swapaxes(1, 2)
        x = x + mlp(f'{block}/channel_mixing', norm(f'{block}/LayerNorm_1', x))
    return dense('head', norm('pre_head_layer_norm', x).mean(axis=1))


def test_weights_of_the_original_give_the_logits_of_the_equations(arrays):
    images = np.random.default_rng(3).normal(size=(2, *SHAPE))
    network = make_network()
    adapted, _ = adapt_params(Weights(arrays), network, SHAPE, KEEP_HEAD, 'f')
    params = unflatten_dict(adapted, sep='/')
    logits = network.apply({'params': params}, images.astype(np.float32), train=False)
    expected = mixer_in_numpy(arrays, images, 4, 2)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_every_part_of_a_network_of_several_stems_is_adapted(arrays):
    """Branches that add tokens: a stem each, and token mixing over both grids."""
    network = make_network(
        branches=({'dilation': 1}, {'size': 2, 'dilation': 2, 'stride': 8}), branch_merge='tokens'
    )
    params, notes = adapt_params(Weights(arrays), network, SHAPE, TRANSFER, 'f')
    expected = param_shapes(network, SHAPE)
    head = ('head/kernel', 'head/bias')
    shapes = {name: array.shape for name, array in params.items()}
    assert shapes == {name: shape for name, shape in expected.items() if name not in head}
    np.testing.assert_array_equal(params['stem_0/kernel'], arrays['stem/kernel'])
    assert len(notes) == 3
