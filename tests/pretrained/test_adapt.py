"""Weights adapted to a network: what is resampled, reported and refused."""

import chex
import numpy as np
import pytest

from mixer_dilated.config import resolve
from mixer_dilated.errors import ShapeMismatchError
from mixer_dilated.pretrained.adapt import adapt_params, param_shapes
from mixer_dilated.pretrained.weight_files import Weights
from mixer_dilated.training.state import create_model
from tests.conftest import refuses

SMALL = {
    'patches': {'size': 4, 'stride': 4},
    'num_blocks': 2,
    'hidden_dim': 6,
    'tokens_mlp_dim': 5,
    'channels_mlp_dim': 7,
    'gelu': 'tanh',
}
SHAPE = (16, 16, 3)
MIXING = 'MixerBlock_1/token_mixing/Dense_0/kernel'


def make_network(classes=3, **changes):
    return create_model(resolve({'model': {**SMALL, **changes}}), classes)


def random_arrays(**changes):
    """Random parameters by Linen name."""
    rng = np.random.default_rng(0)
    shapes = param_shapes(make_network(**changes), SHAPE)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def random_weights(**changes):
    """Random weights of a network that their file records."""
    model = resolve({'model': {**SMALL, **changes}}).model.to_dict()
    return Weights(random_arrays(**changes), model, SHAPE[:2])


def adapt(weights, network, shape=SHAPE, *, head='keep', **transfer):
    """Parameters and notes; `weights` may be arrays alone."""
    transfer = resolve({'transfer': {'head': head, **transfer}}).transfer
    weights = Weights(weights) if isinstance(weights, dict) else weights
    return adapt_params(weights, network, shape, transfer, 'f.npz')


def mismatches(*args, **kwargs):
    """The rows of the table of what does not fit."""
    with refuses('f.npz', error=ShapeMismatchError) as refusal:
        adapt(*args, **kwargs)
    return refusal.value.rows


LARGER = (24, 24, 3)


def test_what_does_not_fit_is_in_the_table():
    rows = mismatches(random_arrays(), make_network(hidden_dim=8, num_blocks=3), head='new')
    assert rows == [
        ('MixerBlock_…/LayerNorm_0/bias and 10 more', '6', '8', 'model.hidden_dim=6'),
        ('MixerBlock_…/LayerNorm_0/bias and 11 more', 'not there', '8', 'model.num_blocks=2'),
    ]  # fmt: skip


@pytest.mark.parametrize(('name', 'shape'), [('kernel', (7, 5)), ('bias', ()), ('bias', (2, 3))])
def test_a_block_of_another_shape_than_the_rest_is_in_the_table(name, shape):
    name = f'token_mixing/Dense_0/{name}'
    arrays = random_arrays() | {f'MixerBlock_1/{name}': np.ones(shape, np.float32)}
    assert any(name in row[0] for row in mismatches(arrays, make_network(), LARGER))


@pytest.mark.parametrize(
    ('changes', 'shape', 'transfer', 'remedies'),
    [
        ({}, (32, 32, 3), {'tokens': 'block_diagonal'}, {'model.tokens_mlp_dim=20'}),
        ({'channels_mlp_dim': 6}, SHAPE, {}, {'model.channels_mlp_dim=7'}),
        ({'classes': 9}, SHAPE, {}, {'transfer.head=new'}),
        (
            {'hidden_dim': 8, 'channels_mlp_dim': 6}, SHAPE, {},
            {
                'model.hidden_dim=6',
                'model.channels_mlp_dim=7',
                'model.hidden_dim=6, model.channels_mlp_dim=7',
            },
        ),
    ],
)  # fmt: skip
def test_the_table_names_the_keys_that_differ_and_no_others(changes, shape, transfer, remedies):
    rows = mismatches(random_weights(), make_network(**changes), shape, **transfer)
    assert {row[3] for row in rows} == remedies


def test_the_table_asks_for_another_file_where_an_array_is_missing():
    arrays = random_arrays()
    del arrays[MIXING]
    assert [row[3] for row in mismatches(arrays, make_network())] == ['another file']


def test_a_head_is_new_unless_it_is_kept():
    arrays = random_arrays()
    params, notes = adapt(arrays, make_network(classes=9), head='new')
    assert not any(name.startswith('head/') for name in params)
    assert notes == ['head new: zeros, for 9 classes']
    params, notes = adapt(arrays, make_network())
    chex.assert_trees_all_equal(params, arrays)
    assert notes == []


def test_a_grid_that_is_not_of_the_arrays_is_not_used():
    """Recorded are 2×2 tokens, the arrays have 16: they fit as they are, or are in the table."""
    weights = Weights(random_weights().arrays, random_weights().model, (9, 9))
    assert adapt(weights, make_network())[1] == []
    assert mismatches(weights, make_network(), LARGER)


TOKENS = {'branches': ({'dilation': 1}, {'stride': 6}), 'branch_merge': 'tokens'}


def test_recorded_grids_of_several_branches_are_used():
    _, notes = adapt(random_weights(**TOKENS), make_network(**TOKENS), LARGER)
    assert notes == [
        'token mixing of 4×4 and 3×3 tokens made for 6×6 and 4×4 by config.transfer.tokens = '
        "'interpolate'"
    ]
    with refuses('25 tokens'):  # of unknown grids
        adapt(random_arrays(**TOKENS), make_network(**TOKENS), LARGER)
    with refuses('1 that add tokens', '2'):
        adapt(random_weights(**TOKENS), make_network())


@pytest.mark.parametrize(
    ('before', 'now', 'note'),
    [
        ({}, {'blur': True}, 'trained with config.model.blur = False, here True'),
        ({}, {'gelu': 'exact'}, "trained with config.model.gelu = 'tanh', here 'exact'"),
        (
            {'patches': {'size': 2, 'stride': 4}},
            {'patches': {'size': 2, 'stride': 4, 'dilation': 3}},
            'stem kernel trained on patches (size 2×2, dilation 1×1, stride 4×4, padding '
            'VALID), here (size 2×2, dilation 3×3, stride 4×4, padding VALID)',
        ),
    ],
)
def test_differences_that_no_shape_shows_are_noted(before, now, note):
    assert adapt(random_weights(**before), make_network(**now))[1] == [note]
    assert adapt(random_weights(**now), make_network(**now))[1] == []


@pytest.mark.parametrize('merge', ['channels', 'tokens'])
def test_branches_that_changed_places_are_noted(merge):
    one, other = {'size': 2, 'dilation': 2}, {'size': 2, 'dilation': 3}
    weights = random_weights(branches=(one, other), branch_merge=merge)
    _, notes = adapt(weights, make_network(branches=(other, one), branch_merge=merge))
    assert [text.split(' trained')[0] for text in notes] == [
        'stem kernel of branch 0', 'stem kernel of branch 1',
    ]  # fmt: skip


def test_every_part_of_a_network_of_several_stems_is_adapted():
    """Branches that add tokens: a stem each, and token mixing over both grids."""
    arrays = random_arrays()
    branches = ({'dilation': 1}, {'size': 2, 'dilation': 2, 'stride': 8})
    network = make_network(branches=branches, branch_merge='tokens')
    params, notes = adapt(arrays, network, head='new')
    shapes = {name: array.shape for name, array in params.items()}
    expected = param_shapes(network, SHAPE)
    assert shapes == {k: shape for k, shape in expected.items() if not k.startswith('head/')}
    np.testing.assert_array_equal(params['stem_0/kernel'], arrays['stem/kernel'])
    assert len(notes) == 3
