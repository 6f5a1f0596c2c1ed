"""The command `benchmark`: its files and configs are checked before anything is measured."""

import pytest

from mixer_dilated.benchmark import measure
from tests.conftest import ROOT, refused

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
    line = refused(capsys, 'benchmark', DIGITS, f'--json={json_file}')
    assert line.startswith(f'error: --json={json_file}: ')


def test_a_json_file_is_left_alone_until_there_is_something_to_write(capsys, tmp_path):
    old, new = tmp_path / 'old.json', tmp_path / 'new.json'
    old.write_text('{}')
    for file in (old, new):
        # Refused after the file is checked, before anything is measured.
        words = [DIGITS, '--config.model.remat=True', '--against=torch', f'--json={file}']
        assert 'config.model.remat = True' in refused(capsys, 'benchmark', *words)
    assert old.read_text() == '{}' and not new.exists()
