"""Presets of the Mixer paper: their sizes, and every way to name one."""

import warnings

import pytest

from mixer_dilated.cli.arguments import parse
from mixer_dilated.config import base_config, changed, preset, resolve
from mixer_dilated.config_keys import PRESETS
from mixer_dilated.errors import UserError
from mixer_dilated.experiments.sweep import Cell, Sweep, check_sweep
from mixer_dilated.models.costs import layers, num_params
from mixer_dilated.training.state import create_model

# At 224×224 pixels with 1 000 classes. The paper's millions (Table 1) are without the head.
PARAMETERS = {
    'S/32': (19_104_624, 19),
    'S/16': (18_528_264, 18),
    'B/32': (60_293_428, 60),
    'B/16': (59_880_472, 59),
    'L/32': (206_939_264, 206),
    'L/16': (208_196_168, 207),
    'H/14': (432_350_952, 431),
}


@pytest.mark.parametrize('name', PRESETS)
def test_parameters_are_those_of_the_papers_table(name):
    config = resolve({'model': name})
    found = num_params(layers(create_model(config, 1000), (224, 224, 3)))
    total, millions_without_head = PARAMETERS[name]
    assert found == total
    assert round((found - 1000 * (config.model.hidden_dim + 1)) / 1e6) == millions_without_head


@pytest.mark.parametrize('name', PRESETS)
def test_every_preset_takes_dilation_stride_and_branches(name):
    model = preset(name)
    model.patches.size = 4
    model.patches.stride = 16
    model.patches.padding = 'SAME'
    model.branches = ({'dilation': 1}, {'dilation': 3})
    config = resolve({'model': model})
    assert config.model.gelu == 'tanh'
    found = {each.path: each for each in layers(create_model(config, 10), (64, 64, 3))}
    stem = found[('stem',)]
    assert stem.output_shape == (16, config.model.hidden_dim)
    assert stem.params == (2 * 4 * 4 * 3 + 1) * config.model.hidden_dim


def test_a_preset_is_named_in_a_file_or_on_the_command_line(tmp_path):
    config = base_config()
    config.model = 'B/16'
    assert resolve(config) == resolve({'model': preset('B/16')})
    file = tmp_path / 'plain.py'
    file.write_text(
        'from mixer_dilated.config import base_config\n\n\ndef get_config():\n'
        '    config = base_config()\n    config.model = "B/16"\n    return config\n'
    )
    # The keys beside it change the preset, whatever comes first.
    words = [f'--config={file}', '--config.model.patches.dilation=2', '--config.model=S/32']
    model = parse(words, ('config',)).config.model
    assert (model.hidden_dim, model.patches.size, model.patches.dilation) == (512, (32, 32), (2, 2))


def test_a_change_of_a_key_keeps_the_preset_that_a_config_names():
    model = changed({'model': 'S/16'}, {'model.patches.dilation': 2}).model
    assert (model.hidden_dim, model.patches.size, model.patches.dilation) == (512, (16, 16), (2, 2))


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="'B/17': no such preset; allowed are S/32"):
        resolve({'model': 'B/17'})


def test_a_preset_on_the_command_line_says_what_of_the_file_it_does_away_with():
    words = ['--config=configs/mnist_dilated.py', '--config.model=S/16']
    with pytest.warns(UserWarning, match='takes the place of config.model.patches.dilation = 2 in'):
        parse(words, ('config',))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        parse(['--config=configs/mnist_baseline.py', '--config.model=S/16'], ('config',))
        parse([*words, '--config.model.patches.dilation=3'], ('config',))


def test_cells_of_a_sweep_may_be_presets():
    changes = {'model.patches.dilation': 2, 'model': 'S/16'}
    cells = [Cell({'network': name}, {**changes, 'model': name}) for name in ('S/16', 'S/32')]
    check_sweep(Sweep('title', 'question', base_config(), cells))
    found = changed(base_config(), cells[0].changes)
    expected = preset('S/16')
    expected.patches.dilation = 2
    assert found == resolve({'model': expected})
    with pytest.raises(UserError, match="'S/17': no such preset"):
        check_sweep(Sweep('t', 'q', base_config(), [Cell({'network': 1}, {'model': 'S/17'})]))
