"""Config and sweep files: where they are found, and what is wrong in them."""

import pytest

from mixer_dilated.cli.config_files import load_config, load_configs
from mixer_dilated.config import is_auto
from tests.cli.conftest import CONFIG
from tests.conftest import refused


def test_shipped_configs_are_found_from_anywhere_after_files_that_are_there(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert 'config.batch = 0' in refused(capsys, CONFIG, '--config.batch=0')
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'digits_dilated.py').write_text('import none')
    assert 'ModuleNotFoundError' in refused(capsys, CONFIG, '--config.batch=0')


BASE = (
    'from mixer_dilated.config import base_config\n'
    'from mixer_dilated.studies.sweep import Sweep, Trial\n'
)
CONFIG_FILE = f'{BASE}def get_config():\n    config = base_config()\n    config.'
SWEEP_FILE = f"{BASE}def get_sweep():\n    return Sweep(title='t', question='q', "


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('def get_config(:', ' line 1: SyntaxError'),
        ('#' * 2**24 + '\n', '16777217 bytes'),
        ('x = 1', 'get_config'),
        ('import nonsense_module', ' line 1: ModuleNotFoundError'),
        ('def get_config():\n    return 1 / 0', ' line 2: ZeroDivisionError'),
        ('def get_config():\n    raise ValueError("so\\nso")', 'ValueError'),
        ('def get_config():\n    return None', 'get_config'),
        (CONFIG_FILE + 'batch_size = 3\n    return config', 'config.batch_size: '),
        (CONFIG_FILE + 'modle.x = 3\n    return config', ' line 5: AttributeError'),
        (CONFIG_FILE + 'model = 3\n    return config', 'config.model is a group of keys'),
        (SWEEP_FILE + 'base=base_config(), trials=7)', 'mine.py: trials = '),
        (SWEEP_FILE + 'base=base_config(), trials=[])', 'mine.py: trials = '),
        (SWEEP_FILE + 'base=3, trials=[])', 'mine.py: base = 3: '),
        (SWEEP_FILE + 'base=base_config())', ' line 4: TypeError'),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(capsys, tmp_path, text, value):
    path = tmp_path / 'mine.py'
    path.write_text(text)
    words = ['sweep', f'--sweep={path}'] if 'get_sweep' in text else [f'--config={path}']
    assert value in refused(capsys, *words, f'--workdir={tmp_path}/new')
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('key', ['num_epochs', 'total_steps'])
def test_epochs_of_a_sweep_whose_time_decides_them_are_refused(key, capsys, tmp_path):
    path = tmp_path / 'sweep.py'
    trials = "trials=[Trial({'method': 'a'}, {'model.patches.size': 2})]"
    path.write_text(f'{SWEEP_FILE}base=base_config(), {trials}, train_seconds=60)')
    flags = f'--sweep={path}', f'--workdir={tmp_path}/study', f'--config.{key}=3'
    error = refused(capsys, 'sweep', *flags)
    assert f'--config.{key}: ' in error and 'train_seconds = 60' in error


def test_configs_that_are_compared_have_names_of_their_own(tmp_path, capsys):
    text = (
        'from mixer_dilated.config import base_config\n\n\ndef get_config(word="3"):\n'
        '    config = base_config()\n    config.batch = int(word)\n    return config\n'
    )
    for folder in ('one', 'two'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'word.py').write_text(text)
    one, two = (str(tmp_path / folder / 'word.py') for folder in ('one', 'two'))

    def names(*paths):
        return {name: config.batch for name, config in load_configs([*paths], {}).items()}

    assert names(one) == {'word': 3}
    assert names(f'{one}:1', f'{one}:2') == {'word:1': 1, 'word:2': 2}
    assert names(f'{one}:1', f'{two}:1', two) == {f'{one}:1': 1, f'{two}:1': 1, 'word': 3}
    line = refused(capsys, 'benchmark', f'--config={one}', f'--config={one}')
    assert f'--config: {one}, {one}' in line


@pytest.mark.filterwarnings('error')
def test_a_preset_beside_patches_auto_is_no_warning():
    overrides = {'model': 'S/16', 'model.patches': 'auto'}
    config = load_config('configs/mnist_dilated.py', overrides)
    assert config.model.hidden_dim == 512 and is_auto(config.model)
