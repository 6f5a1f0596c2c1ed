"""The command `benchmark`: its files and configs are checked before anything is measured."""

import pytest

from mixer_dilated.benchmark import measure
from mixer_dilated.cli.config_files import load_configs
from mixer_dilated.cli.main import main
from tests.conftest import ROOT

DIGITS = f'--config={ROOT / "configs" / "digits_dilated.py"}'


@pytest.mark.parametrize(
    'place',
    ['.', '/proc/a.json', 'file/a.json', 'x' * 300],
    ids=['folder', 'proc', 'under a file', 'long'],
)  # fmt: skip
def test_a_json_file_that_cannot_be_written_is_refused_first(monkeypatch, capsys, tmp_path, place):
    monkeypatch.setattr(measure, 'benchmark', lambda *_, **__: pytest.fail('it was measured'))
    (tmp_path / 'file').write_text('')
    json_file = tmp_path / place
    assert main(['benchmark', DIGITS, f'--json={json_file}'], 0.0) == 2
    out, error = capsys.readouterr()
    assert not out and error.startswith(f'error: --json={json_file}: ') and error.count('\n') == 1


def test_a_json_file_is_left_alone_until_there_is_something_to_write(capsys, tmp_path):
    old, new = tmp_path / 'old.json', tmp_path / 'new.json'
    old.write_text('{}')
    for file in (old, new):
        # Refused after the file is checked, before anything is measured.
        words = [DIGITS, '--config.model.remat=True', '--against=torch', f'--json={file}']
        assert main(['benchmark', *words], 0.0) == 2
        assert 'config.model.remat = True' in capsys.readouterr().err
    assert old.read_text() == '{}' and not new.exists()


@pytest.mark.parametrize('words', [['--config='], ['--config'], ['--config=', '--json=x']], ids=str)
@pytest.mark.parametrize('command', [['benchmark'], []], ids=['benchmark', 'train'])
def test_an_empty_config_is_refused(capsys, command, words):
    assert main([*command, *words], 0.0) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and '--config' in error and error.count('\n') == 1


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
    assert main(['benchmark', f'--config={one}', f'--config={one}'], 0.0) == 2
    assert f'--config: {one}, {one}' in capsys.readouterr().err
