"""Sweeps: grids of trials, what is refused, the shipped sweep files."""

import dataclasses
import os
import pathlib

import pytest

from mixer_dilated.config import base_config, resolve
from mixer_dilated.studies.sweep import Sweep, Trial, check_sweep, grid, prepare, product
from mixer_dilated.training.state import create_model
from tests.conftest import ROOT, config_of, refuses
from tests.studies.conftest import METHODS, small_sweep


def test_grid_is_every_combination_and_product_joins_groups():
    trials = grid({'model.patches.size': (2, 3), 'batch': (8,)})
    assert [trial.settings for trial in trials] == [
        {'size': 2, 'batch': 8},
        {'size': 3, 'batch': 8},
    ]
    assert trials[1].changes == {'model.patches.size': 3, 'batch': 8}
    both = product(METHODS[:2], trials)
    assert [(trial.settings['method'], trial.settings['size']) for trial in both] == [
        ('plain', 2), ('plain', 3), ('dilated', 2), ('dilated', 3),
    ]  # fmt: skip
    assert both[3].changes == {
        'model.patches.dilation': 2, 'model.patches.size': 3, 'batch': 8,
    }  # fmt: skip
    for value in (2, 'SAME'):
        with refuses(f'model.patches.padding = {value!r}'):
            grid({'model.patches.padding': value})


def test_invalid_trials_keep_their_reason_and_others_are_compared():
    valid = {'model.patches.padding': 'VALID'}
    trials = grid({'model.patches.size': (2, 8), 'model.patches.dilation': (1, 2)})
    trials = prepare(small_sweep(trials, reference={'dilation': 1}, **valid))
    assert [bool(trial.invalid) for trial in trials] == [False, False, False, True]
    assert '15' in trials[3].invalid and trials[3].setup is None
    assert trials[1].name == 'size=2_dilation=2' and trials[1].label == 'size 2, dilation 2'
    assert [trial.reference for trial in trials] == ['', 'size=2_dilation=1', '', '']
    with refuses('size 9×9'):
        prepare(small_sweep(grid({'model.patches.size': (9,)}), **valid))
    with refuses("'auto'"):
        prepare(small_sweep(kind='resolution', **{'model.patches': 'auto'}))


@pytest.mark.parametrize(
    ('changes', 'value'),
    [
        ({'kind': 'contest'}, "kind = 'contest'"),
        ({'trials': ()}, 'trials = ()'),
        ({'trials': ({'method': 'plain'},)}, "trials = ({'method': 'plain'},)"),
        ({'trials': (METHODS[0], Trial({'size': 3}, {}))}, 'the same settings'),
        ({'trials': (Trial({'seed': 1}, {}),)}, "'seed'"),
        ({'trials': grid({'num_seeds': (1, 2)})}, 'config.num_seeds'),
        ({'trials': (Trial({'method': 'x' * 201}, {}),)}, '208'),
        ({'trials': (METHODS[0], METHODS[0])}, 'method=plain'),
        ({'reference': {'method': 'none'}}, "reference = {'method': 'none'}"),
        ({'reference': {'metod': 'plain', 'a': 1, 'b': 2, 'c': 3}}, "'metod'"),
        ({'reference': {'dataset': 'digits'}}, "leave 'dataset' out"),
        ({'train_seconds': 0}, 'train_seconds = 0'),
        ({'train_seconds': '60'}, "train_seconds = '60'"),
        ({'trials': grid({'model.patches.dilatoin': (1, 2)})}, 'dilatoin'),
        ({'trials': grid({'model.patches.dilation': (1, 0)})}, 'patches.dilation = 0'),
        ({'kind': 'little_data'}, "kind = 'little_data'"),
        ({'title': 3}, 'title = 3'),
        ({'base': {}}, 'base = {}'),
        ({'reference': 'plain'}, "reference = 'plain'"),
        ({'trials': (Trial({'method': 'a'}, None),)}, 'trials = '),
        ({'trials': (Trial('a', {}),)}, 'trials = '),
        ({'kind': 'resolution'}, 'image_sizes = ()'),
        ({'kind': 'resolution', 'image_sizes': 28}, 'image_sizes = 28'),
        ({'kind': 'resolution', 'image_sizes': (28, 28)}, 'image_sizes = (28, 28)'),
        ({'kind': 'resolution', 'image_sizes': (28, 0)}, 'image_sizes = (28, 0)'),
    ],
    ids=str,
)
def test_an_invalid_sweep_is_refused_by_key_and_value(changes, value):
    with refuses(value):
        prepare(dataclasses.replace(small_sweep(), **changes))


@pytest.mark.slow
@pytest.mark.parametrize('path', sorted((ROOT / 'configs' / 'sweeps').glob('*.py')), ids=str)
def test_every_sweep_file_can_be_prepared(path, mnist):
    sweep = config_of(path, 'get_sweep')
    sweep.base.dataset.data_dir = mnist
    names = {trial.changes.get('dataset.name', 'mnist') for trial in sweep.trials}
    if missing := [name for name in names if not pathlib.Path(mnist, name).is_dir()]:
        reason = f'no prepared {missing[0]} in {mnist}'
        pytest.fail(reason) if os.environ.get('REQUIRE_MNIST') else pytest.skip(reason)
    trials = prepare(sweep)
    assert len({trial.name for trial in trials}) == len(trials) > 1
    reasons = [trial.invalid for trial in trials if trial.invalid]
    assert all('window' in reason or 'phases' in reason for reason in reasons)
    if path.stem == 'table1':
        networks = [create_model(trial.setup.config, 10) for trial in trials]
        files = ('mnist_baseline', 'mnist_dilated', 'mnist_plain7')
        configs = [resolve(config_of(ROOT / f'configs/{name}.py')) for name in files]
        assert networks == [create_model(config, 10) for config in configs]


def test_trials_of_a_sweep_may_be_presets():
    changes = {'model.patches.dilation': 2}
    trials = [Trial({'network': name}, {**changes, 'model': name}) for name in ('S/16', 'S/32')]
    check_sweep(Sweep('title', 'question', base_config(), trials))
    with refuses("'S/17'", 'S/32'):
        unknown = Trial({'network': 1}, {'model': 'S/17'})
        check_sweep(Sweep('title', 'question', base_config(), [unknown]))
