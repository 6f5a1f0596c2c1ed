"""Configs: defaults, refusals by name and value, what makes two runs the same."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer_dilated.config import (
    KEYS,
    base_config,
    changed,
    flat,
    patch_branches,
    pixels_seen,
    resolve,
)
from mixer_dilated.config_differences import differences
from mixer_dilated.config_keys import ALIASES
from mixer_dilated.patches.geometry import Patches
from tests.conftest import CONFIG_FILES, config_of, refuses, warns


@pytest.mark.parametrize('path', CONFIG_FILES, ids=lambda path: path.stem)
def test_config_files_resolve_and_survive_json(path):
    config = resolve(config_of(path))
    assert resolve(json.loads(json.dumps(config.to_dict()))) == config
    assert path.stem in (path.read_text().split('"""')[1])  # its docstring gives the command


def test_the_three_mnist_configs_differ_in_their_patches_alone():
    configs = {path.stem: resolve(config_of(path)) for path in CONFIG_FILES}
    for other in ('mnist_baseline', 'mnist_plain7'):
        differing = differences(configs['mnist_dilated'], configs[other])
        assert differing and all(line.startswith('model.patches.') for line in differing)


def test_a_key_that_is_left_out_takes_its_default():
    config = resolve({'model': {'hidden_dim': 8}})
    assert config.model.hidden_dim == 8
    assert config.batch == KEYS['batch'][0]
    assert resolve(base_config()) == resolve({})


@pytest.mark.parametrize(
    ('path', 'value', 'allowed'),
    [
        ('seed', -1, 'integer from 0'),
        ('seed', 2**31, 'to 2147483647'),
        ('batch', True, 'integer from 1'),
        ('dataset.name', '', 'not empty'),
        ('model.dropout_rate', 1, 'in [0, 1)'),
        ('model.gelu', 'relu', "'auto', 'exact', 'tanh'"),
        ('model.branch_merge', ['channels'], "'channels', 'tokens'"),
        ('optimizer.base_lr', float('nan'), 'above 0'),
        ('optimizer.base_lr', 10**320, 'above 0'),
        ('optimizer.weight_decay', float('inf'), 'at least 0'),
        ('model.patches.stride', 10**30, 'at least 1'),
        ('model.branches', 'dilation', 'tuple of dicts'),
        ('model.branches', ({'dilation': 2}, 3), 'tuple of dicts'),
        ('model.branches', ({'dilation': 0},), 'at least 1'),
        ('model.branches', ({'dilatoin': 1},), 'dilation'),
        ('model.phases', 2, '1 to 1'),
        ('model.blur', 1, 'True or False'),
        ('model.patches', 4, 'set one of model.patches.size, '),
        ('augment.mixup', 1e-9, 'in [0.001, 1000]'),
        ('augment.randaugment.magnitude', 31, 'in [0, 30]'),
        ('augment.random_phase', True, 'dilation to 2 or more'),
        ('optimizer.freeze_blocks', 5, 'at most model.num_blocks, 4'),
        ('optimizer.end_lr', 0.02, 'at most optimizer.base_lr, 0.01'),
        (1, 2, 'config.1'),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_key_and_value(path, value, allowed):
    with refuses(path, allowed):
        resolve({path: value})


def test_numbers_of_the_right_kind_are_taken():
    config = resolve({'optimizer': {'base_lr': 1}, 'model': {'patches': {'size': [4, 2]}}})
    assert type(config.optimizer.base_lr) is float
    assert patch_branches(config.model) == (Patches(size=(4, 2), stride=4),)


def test_phases_multiply_every_branch_which_differs_in_what_it_names():
    branches = ({'dilation': 2}, {'dilation': (3, 2), 'offset': (0, 5), 'padding': 'SAME'})
    config = resolve({'model': {'branches': branches, 'phases': (2, 1), 'patches': {'stride': 7}}})
    one = {'size': 4, 'stride': 7, 'dilation': 2}
    other = {'size': 4, 'stride': 7, 'dilation': (3, 2), 'padding': 'SAME'}
    assert patch_branches(config.model) == (
        Patches(**one),
        Patches(**one, offset=(1, 0)),
        Patches(**other, offset=(0, 5)),
        Patches(**other, offset=(1, 5)),
    )
    with refuses('config.model.phases = 3', '1 to 3', '1 to 2'):
        resolve({'model': {'branches': branches[1:] + ({'dilation': 3},), 'phases': 3}})


@given(
    st.integers(2, 3), st.tuples(st.integers(1, 4), st.integers(2, 3)), st.sampled_from(('SAME', 1))
)
def test_pixels_seen_are_those_of_every_phase_that_images_are_shown_at(size, dilation, padding):
    padding = 'SAME' if padding == 'SAME' else ((padding, padding),) * 2
    patches = {'size': size, 'dilation': dilation, 'stride': 5, 'padding': padding}
    one = resolve({'model': {'patches': patches}})
    every = resolve({'model': {'patches': patches}, 'augment': {'random_phase': True}})
    seen = pixels_seen(one, (9, 9))
    np.testing.assert_array_equal(seen, Patches(**patches).coverage((9, 9)) > 0)
    expected = np.zeros((9, 9), bool)
    for down in range(dilation[0]):  # an image that is moved up shows what was further down
        for right in range(dilation[1]):
            expected[down:, right:] |= seen[: 9 - down, : 9 - right]
    np.testing.assert_array_equal(pixels_seen(every, (9, 9)), expected)


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'augment.random_phase': True, 'model.branches': ({},)}, 'config.model.branches'),
        ({'augment.random_phase': True, 'model.phases': (1, 2)}, 'config.model.phases'),
        ({'optimizer.momentum_dtype': 'bfloat16', 'optimizer.name': 'lamb'}, "'float32'"),
    ],
)
def test_values_that_are_not_allowed_together_are_refused(values, words):
    path, value = next(iter(values.items()))
    with refuses(f'config.{path} = {value!r}', words):
        resolve({'model.patches.dilation': 2, **values})


def test_a_config_of_an_earlier_run_is_the_same_run_with_the_new_keys_at_their_defaults():
    now = resolve({})
    earlier = json.loads(json.dumps(now.to_dict()))
    del earlier['model']['phases'], earlier['model']['patches']['offset'], earlier['augment']
    assert resolve(earlier) == now


@pytest.mark.parametrize(
    ('one', 'other', 'expected'),
    [
        ({}, {'dataset.data_dir': '/elsewhere'}, []),
        ({}, {'seed': 1}, ['seed: 0, 1']),
        ({'model.patches.size': 4}, {'model.patches.size': (4, 4)}, []),
        ({'model.patches.padding': 'VALID'}, {'model.patches.padding': 'valid'}, []),
        ({}, {'mesh.data': 4, 'mesh.model': 2, 'mesh.seed': 1, 'mesh.fsdp': True}, []),
        ({}, {'accum_steps': 2}, ['accum_steps: 1, 2']),
    ],
)
def test_places_devices_and_other_words_do_not_make_another_run(one, other, expected):
    assert differences(resolve(one), resolve(other)) == expected


OLD_NAMES = {
    'model.join': ('model.branch_merge', 'tokens'),
    'dataset.on_broken': ('dataset.on_corrupt', 'skip'),
    'dataset.test_share': ('dataset.test_fraction', 0.5),
    'augment.shift': ('augment.translate', 2),
    'augment.crop': ('augment.min_crop_area', 0.25),
}


@pytest.mark.parametrize('old', sorted({*OLD_NAMES, *(old for old, new in ALIASES.items() if new)}))
def test_the_old_name_of_a_key_sets_it_with_a_warning(old):
    new, value = OLD_NAMES[old]
    config = base_config()
    section, name = old.split('.')
    config[section][name] = value
    for resolve_old in (lambda: resolve(config), lambda: changed(resolve({}), {old: value})):
        with warns(f'config.{old}', f'config.{new}'):
            assert flat(resolve_old())[new] == value
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # files of earlier versions have all old names
        recorded = resolve({old: value}, warn=False)
    assert differences(recorded, resolve({new: value})) == []


def test_what_is_no_number_stays_what_it_is_until_it_is_refused():
    config = base_config()
    config.optimizer.base_lr = True
    with refuses('config.optimizer.base_lr = True'):
        resolve(config)


def test_a_key_under_both_names_is_refused():
    with pytest.warns(UserWarning), refuses('config.augment.shift = 2', 'config.augment.translate'):
        resolve({'augment': {'shift': 2, 'translate': 1}})


def test_a_key_that_is_gone_is_a_warning():
    with warns('config.checkpoints.other_versions'):
        config = resolve({'checkpoints': {'other_versions': True}})
    assert 'other_versions' not in config.checkpoints
