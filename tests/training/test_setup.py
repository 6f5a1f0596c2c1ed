"""What a run needs before it trains: a config that fits its data, and which split streams."""

import pytest

from mixer_dilated.training.setup import create_setup
from tests.conftest import refuses, small_config


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'batch': 301}, ['config.batch = 301', '300']),
        ({'augment.translate': 8}, ['config.augment.translate = 8']),
        ({'optimizer.warmup_steps': 27}, ['config.optimizer.warmup_steps = 27', '27 steps']),
        ({'model.patches.dilation': 9, 'model.patches.padding': 'VALID'}, ['10 pixels']),
        ({'dataset.train_split': 'train[:9999]'}, ["dataset.train_split = 'train[:9999]'"]),
        ({'dataset.test_split': 'validation'}, ["test_split = 'validation'", 'train (1433']),
        ({'dataset.test_split': 'test+train[299:310]'}, ['config.dataset.test_split', ': 1 of']),
        ({'dataset.name': 'mnits'}, ["config.dataset.name = 'mnits'"]),
        ({'dataset.image_size': 7}, ["'digits'", '8×8']),  # which can only be larger
        ({'dataset.image_size': (8, 9)}, ["'digits'", '8×8']),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_its_data_is_refused(changes, words):
    with refuses(*words):
        create_setup(small_config(**changes))


@pytest.mark.parametrize(
    ('changes', 'train', 'test'),
    [
        ({}, False, False),
        ({'input.mode': 'stream'}, True, True),
        ({'input.memory_gib': 6400 / 2**30}, True, False),  # 300 and 100 images of 64 bytes
        ({'input.memory_gib': 0, 'input.mode': 'memory'}, False, False),
    ],
)
def test_each_split_streams_by_its_own_size(changes, train, test):
    setup = create_setup(small_config(**changes))
    assert (setup.streams('train'), setup.streams('test')) == (train, test)
