"""Patches whose numbers follow from the size of the images."""

import dataclasses
import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer_dilated.cli.main import main
from mixer_dilated.config import base_config, changed, fit_patches, patch_branches, resolve
from mixer_dilated.patches.auto import auto_patches
from mixer_dilated.studies.sweep import Sweep, Trial, prepare
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import refuses, small_config

AUTO = {'model.patches': 'auto'}
SIDES = st.integers(8, 64)


def geometries(image, max_tokens):
    config = resolve({**AUTO, 'model.max_tokens': max_tokens})
    return patch_branches(fit_patches(config, image).model)


@given(st.tuples(SIDES, SIDES), st.integers(1, 256))
def test_the_stride_is_the_smallest_odd_one_of_few_enough_tokens(image, max_tokens):
    def tokens(stride):  # of padding 'SAME'
        return math.prod(-(-side // stride) for side in image)

    stride = next(s for s in itertools.count(3, 2) if tokens(s) <= max_tokens)
    solid, dilated = geometries(image, max_tokens)
    assert solid.stride == dilated.stride == (stride, stride)
    assert solid.dilation == (1, 1) and dilated.dilation == (2, 2)
    assert solid.num_tokens(image) == dilated.num_tokens(image) == tokens(stride)


@given(st.integers(1, 40))
def test_two_patches_have_the_weights_of_a_plain_one_of_the_stride(half):
    stride = 2 * half + 1
    values = auto_patches((6 * stride, 6 * stride), 36)
    solid, dilated = values['model.patches.size'], values['model.branches'][1]['size']
    assert abs(solid - 0.6 * stride) <= 0.5 and abs(dilated - 0.8 * stride) <= 0.5
    assert abs(solid**2 + dilated**2 - stride**2) <= 1.4 * stride + 0.5


def test_the_patches_of_mnist_and_cifar10_are_those_of_the_study():
    for side, tokens in (28, 36), (32, 49):
        solid, dilated = geometries((side, side), 49)
        assert (solid.size, dilated.size, solid.stride) == ((3, 3), (4, 4), (5, 5))
        assert solid.num_tokens((side, side)) == tokens


def test_a_run_records_numbers_and_is_finished_without_its_data(tmp_path):
    config = changed(small_config(num_epochs=1), AUTO)
    summary = train_and_evaluate(config, tmp_path / 'run')
    recorded = json.loads((tmp_path / 'run' / 'config.json').read_text())
    expected = fit_patches(config, (8, 8))
    assert resolve(recorded) == expected == create_setup(config).config
    assert expected.model.patches.stride != 'auto'
    gone = changed(config, {'dataset.name': 'npz:gone.npz'})
    with refuses('dataset.name'):  # what differs from the run; the data are not opened
        train_and_evaluate(gone, tmp_path / 'run')
    assert train_and_evaluate(config, tmp_path / 'run') == summary


def test_auto_takes_the_place_of_other_patches():
    config = resolve({'model': {'patches': {'dilation': 3}, 'branches': ({'size': 2}, {})}})
    assert changed(config, AUTO) == resolve(AUTO)
    config = base_config()
    config.model.patches = 'auto'
    assert resolve(config) == resolve(AUTO)
    small = resolve({'model': 'S/16', **AUTO, 'model.max_tokens': 196})
    solid, dilated = patch_branches(fit_patches(small, (224, 224)).model)
    assert small.model.hidden_dim == 512 and solid.num_tokens((224, 224)) == 196
    assert (solid.size, dilated.size, solid.stride) == ((10, 10), (14, 14), (17, 17))


@pytest.mark.parametrize(
    'changes',
    [
        {'model.patches.dilation': 3},
        {'model.patches.size': 8},
        {'model.branches': ({'size': 2},)},
        {'model.branch_merge': 'tokens'},
        {'augment.random_phase': True},
    ],
)
def test_what_auto_sets_is_not_set_beside_it(changes):
    (path,) = changes
    with refuses(f'config.{path}', "'auto'"):
        resolve({**AUTO, **changes})


def test_the_command_line_takes_the_word(capsys):
    words = ['summary', '--config=configs/digits_dilated.py', '--config.model.patches=auto']
    assert main(words, 0.0) == 0
    assert '8×8×1, 9 tokens' in capsys.readouterr().out


def test_a_sweep_has_automatic_patches_beside_others(tmp_path):
    trials = [Trial({'method': 'auto'}, AUTO), Trial({'method': 'plain'}, {})]
    sweep = Sweep(title='a', question='b', base=small_config(), trials=trials)
    auto, plain = prepare(sweep)
    assert auto.setup.config.model.patches.stride == (3, 3)
    assert auto.setup.config.model.branches and not plain.setup.config.model.branches
    sized = dataclasses.replace(sweep, kind='resolution', image_sizes=(28, 56))
    with refuses("'auto'", 'resolution'):
        prepare(sized)
