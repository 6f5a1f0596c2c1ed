"""Weights adapted to a network: what is resampled, reported and refused."""

import warnings

import chex
import numpy as np
import pytest

from mixer_dilated.config import resolve
from mixer_dilated.errors import ShapeMismatchError
from mixer_dilated.pretrained.adapt import adapt_params, param_shapes
from mixer_dilated.pretrained.weight_files import Weights
from mixer_dilated.training.state import create_model
from tests.conftest import refuses, warns

SMALL = {
    'patches': {'size': 4, 'stride': 4},
    'num_blocks': 2,
    'hidden_dim': 6,
    'tokens_mlp_dim': 5,
    'channels_mlp_dim': 7,
    'gelu': 'tanh',
}
SHAPE, LARGER = (16, 16, 3), (24, 24, 3)
MIXING = 'MixerBlock_1/token_mixing/Dense_0'
TOKENS = {'branches': ({'dilation': 1}, {'stride': 6}), 'branch_merge': 'tokens'}


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


def test_what_does_not_fit_is_in_the_table():
    rows = mismatches(random_arrays(), make_network(hidden_dim=8, num_blocks=3), head='new')
    remedy = 'model.num_blocks=2, model.hidden_dim=6'
    assert rows == [('MixerBlock_…/LayerNorm_0/bias and 22 more', '6', '8', remedy)]


@pytest.mark.parametrize(('name', 'shape'), [('kernel', (7, 5)), ('bias', ()), ('bias', (2, 3))])
def test_a_block_of_another_shape_than_the_rest_is_in_the_table(name, shape):
    arrays = random_arrays() | {f'{MIXING}/{name}': np.ones(shape, np.float32)}
    rows = mismatches(arrays, make_network(), LARGER)
    assert any(f'token_mixing/Dense_0/{name}' in row[0] for row in rows)


@pytest.mark.parametrize(
    ('changes', 'shape', 'transfer', 'remedies'),
    [
        ({}, (32, 32, 3), {'tokens': 'block_diagonal'}, ['model.tokens_mlp_dim=20']),
        ({'channels_mlp_dim': 6}, SHAPE, {}, ['model.channels_mlp_dim=7']),
        (
            {'hidden_dim': 8, 'channels_mlp_dim': 6}, SHAPE, {},
            ['model.hidden_dim=6, model.channels_mlp_dim=7'],
        ),
        (
            {'hidden_dim': 8, 'num_blocks': 3, 'classes': 9}, SHAPE, {},
            ['model.num_blocks=2, model.hidden_dim=6', 'transfer.head=new'],
        ),
    ],
)  # fmt: skip
def test_the_table_names_the_keys_that_differ_and_leads_out(changes, shape, transfer, remedies):
    rows = mismatches(random_weights(), make_network(**changes), shape, **transfer)
    assert {row[3] for row in rows} == {*remedies}
    settings = dict(word.split('=') for remedy in remedies for word in remedy.split(', '))
    head = settings.pop('transfer.head', 'keep')
    changes |= {key.removeprefix('model.'): int(value) for key, value in settings.items()}
    adapt(random_weights(), make_network(**changes), shape, head=head, **transfer)


def test_stems_that_cannot_be_resampled_ask_for_a_new_one():
    weights = random_weights(branches=({}, {'size': 2}))
    remedies = {row[3] for row in mismatches(weights, make_network())}
    assert remedies == {'transfer.stem=new', "the weights' patches, or transfer.stem=new"}
    params, notes = adapt(weights, make_network(), stem='new', head='new')
    assert not any(name.startswith(('stem', 'head')) for name in params)
    assert 'stem new: random' in notes
    dilated = make_network(patches={'size': 4, 'stride': 4, 'dilation': 2, 'padding': 'SAME'})
    assert adapt(random_weights(), dilated, stem='new')[1] == ['stem new: random']


def test_an_array_that_is_missing_asks_for_another_file_or_a_new_head():
    arrays = random_arrays()
    without_mixing = {name: array for name, array in arrays.items() if name != f'{MIXING}/kernel'}
    assert [row[3] for row in mismatches(without_mixing, make_network())] == ['another file']
    without_head = {name: array for name, array in arrays.items() if 'head/' not in name}
    rows = mismatches(without_head, make_network())
    assert [row[1:] for row in rows] == [('not there', '3', 'transfer.head=new')]
    for weights in (arrays, without_head):
        params, notes = adapt(weights, make_network(classes=9), head='new')
        chex.assert_trees_all_equal(params, without_head)
        assert notes == ['head new: zeros, for 9 classes']
    params, notes = adapt(arrays, make_network())
    chex.assert_trees_all_equal(params, arrays)
    assert notes == []


def test_a_grid_that_is_not_of_the_arrays_is_not_used():
    """Recorded are 2×2 tokens, the arrays have 16: they fit as they are, or are in the table."""
    weights = Weights(random_weights().arrays, random_weights().model, (9, 9))
    assert adapt(weights, make_network())[1] == []
    assert mismatches(weights, make_network(), LARGER)


def test_recorded_grids_of_several_branches_are_used():
    several, network = random_weights(**TOKENS), make_network(**TOKENS)
    assert adapt(several, network, LARGER)[1] == [
        'token mixing of 4×4 and 3×3 tokens made for 6×6 and 4×4 by config.transfer.tokens = '
        "'interpolate'"
    ]
    with refuses('f.npz', '25 tokens', '.safetensors'):  # of unknown grids
        adapt(several.arrays, network, LARGER)
    adapt(several.arrays, network)
    with refuses('1 that add tokens', '2'):
        adapt(several, make_network())
    for weights, other in ((random_weights(), make_network()), (several, network)):
        with refuses("config.transfer.tokens = 'block_diagonal'", '4×4', '6×6', "'interpolate'"):
            adapt(weights, other, LARGER, tokens='block_diagonal')


def test_grids_are_compared_not_their_numbers_of_tokens():
    """16 tokens of 4×4 on a grid of 2×8: recorded, stated, or taken for a square, which is said."""
    flat, note = (8, 32, 3), 'token mixing of 4×4 tokens made for 2×8 by config.transfer.tokens'
    recorded, notes = adapt(random_weights(), make_network(), flat)
    assert notes == [f"{note} = 'interpolate'"]
    with warns('f.npz', '4×4', 'config.transfer.grid'):
        assumed, _ = adapt(random_arrays(), make_network(), flat)
    chex.assert_trees_all_equal(assumed, recorded)
    stated, notes = adapt(random_arrays(), make_network(), flat, grid=(2, 8))
    chex.assert_trees_all_equal(stated, random_arrays())
    assert notes == []
    _, (note,) = adapt(random_arrays(), make_network(), grid=(2, 8))
    assert '2×8 tokens made for 4×4' in note
    with refuses('config.transfer.grid = (3, 8)', 'f.npz', '16 tokens'):
        adapt(random_arrays(), make_network(), flat, grid=(3, 8))


def test_a_grid_that_is_no_square_is_asked_for():
    patches = {'patches': {'size': 4, 'stride': (4, 8)}}  # 4×2 tokens
    arrays = random_arrays(**patches)
    with refuses('f.npz', '8 tokens', '--config.transfer.grid'):
        adapt(arrays, make_network())
    _, (note,) = adapt(arrays, make_network(), grid=(4, 2))
    assert '4×2 tokens made for 4×4' in note
    assert adapt(arrays, make_network(**patches))[1] == []


def test_patches_that_nobody_set_are_said_with_the_ways_on():
    arrays = random_arrays(patches={'size': 8, 'stride': 8})
    with warns('f.npz', '8×8', '.patches.size=8', '.patches.stride=8', 'transfer.stem=new'):
        adapt(arrays, make_network())
    with warnings.catch_warnings(action='error'):
        assert adapt(arrays, make_network(patches={'size': 8, 'stride': 8}))[1] == []
        smaller = make_network(patches={'size': 2, 'stride': 4})
        assert len(adapt(arrays, smaller, stem='resize', grid=2)[1]) == 2
        adapt(arrays, make_network(), stem='new', grid=2)
    with warns('.patches.size="(4, 8)"'):
        adapt(random_arrays(patches={'size': (4, 8), 'stride': 8}), make_network())


def test_a_dilated_kernel_is_resampled_from_the_pixels_that_it_saw():
    """Of a run, whose patches are recorded: every image has the stem that it had."""
    weights = random_weights(patches={'size': 2, 'dilation': 3, 'stride': 4})
    with warns('.patches.dilation=3'):
        params, _ = adapt(weights, make_network(), stem='resize')
    expected = np.zeros((4, 4, 3, 6), np.float32)
    expected[::3, ::3] = weights.arrays['stem/kernel']
    np.testing.assert_allclose(params['stem/kernel'], expected, atol=1e-6)


@pytest.mark.parametrize('gelu', ['tanh', 'exact', None])
def test_another_gelu_is_said_with_the_key_to_set(gelu):
    weights = Weights(random_arrays(), gelu=gelu)
    other, same = ('tanh', 'exact') if gelu == 'exact' else ('exact', 'tanh')
    with warns('f.npz', f"config.model.gelu = '{other}'", f'--config.model.gelu={same}'):
        adapt(weights, make_network(gelu=other))
    with warnings.catch_warnings(action='error'):
        assert adapt(weights, make_network(gelu=same))[1] == []


def patches_of(dilation):
    """Settings of patches, and how they are written."""
    written = f'(size 2×2, dilation {dilation}×{dilation}, stride 4×4, padding VALID)'
    return {'patches': {'size': 2, 'stride': 4, 'dilation': dilation}}, written


def test_differences_that_no_shape_shows_are_noted():
    (plain, plain_text), (dilated, dilated_text) = map(patches_of, (1, 3))
    blurred = {**dilated, 'blur': True}
    _, notes = adapt(random_weights(**plain), make_network(**blurred))
    assert notes == [
        'trained with config.model.blur = False, here True',
        f'stem kernel trained on patches {plain_text}, here {dilated_text}',
    ]
    _, (note,) = adapt(random_arrays(**plain), make_network(**dilated))  # nothing is recorded
    assert note.startswith('stem kernel taken for one of') and note.endswith(dilated_text)
    for changes in (plain, blurred):
        assert adapt(random_weights(**changes), make_network(**changes))[1] == []


@pytest.mark.parametrize('merge', ['channels', 'tokens'])
def test_branches_that_changed_places_are_noted(merge):
    one, other = {'size': 2, 'dilation': 2}, {'size': 2, 'dilation': 3}
    weights = random_weights(branches=(one, other), branch_merge=merge)
    _, notes = adapt(weights, make_network(branches=(other, one), branch_merge=merge))
    branches = [text.split(' trained')[0] for text in notes]
    assert branches == ['stem kernel of branch 0', 'stem kernel of branch 1']


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
