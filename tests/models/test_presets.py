"""Presets of the Mixer paper: their sizes, and every way to name one."""

import warnings

import pytest

from mixer_dilated.cli.arguments import parse
from mixer_dilated.cli.commands import COMMANDS
from mixer_dilated.cli.config_files import load_config
from mixer_dilated.config import base_config, changed, preset, resolve
from mixer_dilated.models.costs import layers, num_params
from mixer_dilated.training.state import create_model
from tests.conftest import refuses, warns

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


def config_of_words(*words):
    """The config that `python run.py WORDS` trains."""
    arguments = parse(COMMANDS['train'], words)
    return load_config(arguments.config, arguments.overrides)


@pytest.mark.parametrize('name', PARAMETERS)
def test_parameters_are_those_of_the_papers_table(name):
    config = resolve({'model': name})
    total, millions_without_head = PARAMETERS[name]
    assert config.model.gelu == 'tanh'
    assert num_params(layers(create_model(config, 1000), (224, 224, 3))) == total
    assert round((total - 1000 * (config.model.hidden_dim + 1)) / 1e6) == millions_without_head


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
    model = config_of_words(*words).model
    assert (model.hidden_dim, model.patches.size, model.patches.dilation) == (512, (32, 32), (2, 2))
    dilated = preset('S/16')
    dilated.patches.dilation = 2
    for config, changes in (
        ({'model': 'S/16'}, {'model.patches.dilation': 2}),
        (base_config(), {'model.patches.dilation': 2, 'model': 'S/16'}),
    ):
        assert changed(config, changes) == resolve({'model': dilated})
    with refuses("'B/17'", 'S/32'):
        resolve({'model': 'B/17'})


def test_a_preset_on_the_command_line_warns_of_what_it_replaces_in_the_file():
    words = ['--config=configs/mnist_dilated.py', '--config.model=S/16']
    with warns('config.model.patches.dilation = 2'):
        config_of_words(*words)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        config_of_words('--config=configs/mnist_baseline.py', '--config.model=S/16')
        config_of_words(*words, '--config.model.patches.dilation=3')
