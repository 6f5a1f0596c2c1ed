"""Weights of networks unlike the one they are for: what is adapted, told and refused."""

import json
import zlib

import numpy as np
import pytest
from safetensors.numpy import save

from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.errors import ShapeMismatchError, UserError
from mixer_dilated.pretrained.adapt import adapt_params, param_shapes
from mixer_dilated.pretrained.token_grid import interpolate
from mixer_dilated.pretrained.weight_files import Weights, read_weights, write_orbax
from tests.test_pretrained import SHAPE, SMALL, TRANSFER, mix, mixing_of, network_of

MIXING = 'MixerBlock_1/token_mixing/Dense_0/kernel'
KEPT = resolve({'transfer': {'head': 'keep'}}).transfer


def arrays_of(network):
    draw = np.random.default_rng(0)
    return {
        name: draw.normal(size=shape).astype(np.float32)
        for name, shape in param_shapes(network, SHAPE).items()
    }


def weights_of(**changes):
    """Random weights of a network that their file tells."""
    model = resolve({'model': {**SMALL, **changes}}).model.to_dict()
    return Weights(arrays_of(network_of(**changes)), model, SHAPE[:2])


UNTRUE = [
    [1],
    {'model': [1]},
    {'model': 'B/16'},
    {'model': {'patches': {'padding': [[2000000000, 2000000000]] * 2}}, 'image_size': [16, 16]},
    {'model': {'gelu': ['tanh']}},
    {'model': {'a\nb': 1}},
    {'image_size': 5},
    {'image_size': ['a', 'b']},
    {'image_size': [16]},
    {'image_size': [2e8, 16]},
    {'image_size': [1000000000, 1000000000]},
]


@pytest.mark.parametrize('said', UNTRUE, ids=str)
def test_a_file_that_says_what_no_run_had_is_told_in_one_line(said, tmp_path, capsys):
    content = save({'stem/bias': np.ones(3, np.float32)}, {'mixer_dilated': json.dumps(said)})
    (tmp_path / 'w.safetensors').write_bytes(content)
    assert main(['convert', str(tmp_path / 'w.safetensors'), str(tmp_path / 'o.npz')], 0.0) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and 'w.safetensors: cannot be read: ' in line
    assert 'defect' not in line


def test_a_folder_that_says_what_no_run_had_is_refused(tmp_path):
    array = np.ones(3, np.float32)
    write_orbax(Weights({'stem/bias': array}), tmp_path / 'w')
    said = {'image_size': [16], 'checksums': {'stem/bias': zlib.crc32(array)}}
    (tmp_path / 'w' / 'model.json').write_text(json.dumps(said))
    with pytest.raises(UserError, match=r'image_size = \[16\], not two integers'):
        read_weights(tmp_path / 'w')


@pytest.mark.parametrize('shape', [(7,), (7, 5), (16, 5, 1)])
def test_a_block_of_another_shape_than_the_rest_is_in_the_table(shape):
    arrays = arrays_of(network_of()) | {MIXING: np.ones(shape, np.float32)}
    with pytest.raises(ShapeMismatchError) as error:
        adapt_params(Weights(arrays), network_of(), (24, 24, 3), TRANSFER, 'f')
    assert ('×'.join(map(str, shape)), '36×5') in [row[1:3] for row in error.value.rows]


def test_a_grid_that_is_not_of_the_arrays_is_not_used():
    """Told 2×2 tokens, arrays of 16: they fit as they are, or are in the table."""
    said = Weights(weights_of().arrays, weights_of().model, (9, 9))
    assert adapt_params(said, network_of(), SHAPE, KEPT, 'f')[1] == []
    with pytest.raises(ShapeMismatchError, match='does not fit'):
        adapt_params(said, network_of(), (24, 24, 3), KEPT, 'f')


TOKENS = {'branches': ({'dilation': 1}, {'stride': 6}), 'branch_merge': 'tokens'}


def test_grids_of_branches_that_add_tokens_are_interpolated_each_from_its_own():
    draw = np.random.default_rng(1)
    mixing = mixing_of(draw, 4 * 4 + 3 * 3)
    found = interpolate(mixing, ((4, 4), (3, 3)), ((6, 6), (3, 3)))
    even = np.concatenate([np.full((36, 1), 2.0), draw.normal(size=(9, 1))])
    before = np.concatenate([np.full((16, 1), 2.0), even[36:]])
    after, expected = mix(found, even), mix(mixing, before)
    np.testing.assert_allclose(after[36:], expected[16:], atol=1e-4)
    # Linear interpolation keeps the corners' cells nearest to the old corners'.
    large, small = after[:36].reshape(6, 6), expected[:16].reshape(4, 4)
    np.testing.assert_allclose(large[0, 0], small[0, 0], atol=1e-4)
    with pytest.raises(UserError, match=r'3 that add tokens, where .* is of 2'):
        interpolate(mixing, ((4, 4), (3, 3)), ((2, 2),) * 3)


def test_known_grids_of_several_branches_are_those_of_the_weights():
    _, adapted = adapt_params(weights_of(**TOKENS), network_of(**TOKENS), (24, 24, 3), KEPT, 'f')
    assert adapted == [
        'token mixing of 4×4 and 3×3 tokens made for 6×6 and 4×4 by config.transfer.tokens = '
        "'interpolate'"
    ]
    unknown = Weights(weights_of(**TOKENS).arrays)
    with pytest.raises(UserError, match='25 tokens, which are of several branches'):
        adapt_params(unknown, network_of(**TOKENS), (24, 24, 3), KEPT, 'f')
    with pytest.raises(UserError, match='1 that add tokens, where'):
        adapt_params(weights_of(**TOKENS), network_of(), SHAPE, KEPT, 'f')


@pytest.mark.parametrize(
    ('before', 'now', 'told'),
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
def test_what_shapes_do_not_tell_is_told(before, now, told):
    assert adapt_params(weights_of(**before), network_of(**now), SHAPE, KEPT, 'f')[1] == told
    assert adapt_params(weights_of(**now), network_of(**now), SHAPE, KEPT, 'f')[1] == []


@pytest.mark.parametrize('join', ['channels', 'tokens'])
def test_branches_that_changed_places_are_told(join):
    one, other = {'size': 2, 'dilation': 2}, {'size': 2, 'dilation': 3}
    found = adapt_params(
        weights_of(branches=(one, other), branch_merge=join),
        network_of(branches=(other, one), branch_merge=join),
        SHAPE, KEPT, 'f',
    )[1]  # fmt: skip
    assert [text.split(' trained')[0] for text in found] == [
        'stem kernel of branch 0', 'stem kernel of branch 1',
    ]  # fmt: skip


def test_the_table_names_the_keys_that_differ_and_no_others():
    grown = resolve({'transfer': {'tokens': 'block_diagonal', 'head': 'keep'}}).transfer
    cases = [
        (network_of(), (32, 32, 3), grown, {'model.tokens_mlp_dim=20'}),
        (network_of(channels_mlp_dim=6), SHAPE, KEPT, {'model.channels_mlp_dim=7'}),
        (
            network_of(hidden_dim=8, channels_mlp_dim=6), SHAPE, KEPT,
            {
                'model.hidden_dim=6',
                'model.channels_mlp_dim=7',
                'model.hidden_dim=6, model.channels_mlp_dim=7',
            },
        ),
    ]  # fmt: skip
    for network, shape, transfer, cures in cases:
        with pytest.raises(ShapeMismatchError) as error:
            adapt_params(weights_of(), network, shape, transfer, 'f')
        assert {row[3] for row in error.value.rows} == cures
    short = {name: array for name, array in weights_of().arrays.items() if name != MIXING}
    with pytest.raises(ShapeMismatchError) as error:
        adapt_params(Weights(short), network_of(), SHAPE, KEPT, 'f')
    assert [row[3] for row in error.value.rows] == ['another file']
