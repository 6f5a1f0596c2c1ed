"""`python run.py convert`: weights in other formats."""

import numpy as np
import pytest

from mixer_dilated.inference import conversion
from tests.conftest import refused


@pytest.fixture
def weights(tmp_path):
    """A file of two arrays."""
    (tmp_path / 'in').mkdir()
    path = tmp_path / 'in' / 'weights.npz'
    np.savez(path, **{'stem/kernel': np.ones((2, 2, 1, 8), np.float32), 'stem/bias': np.ones(8)})
    return path


@pytest.mark.parametrize('name', ['out.exe', 'no/where.npz', 'in'])
def test_a_target_that_cannot_be_is_refused(weights, tmp_path, capsys, name):
    line = refused(capsys, 'convert', str(weights), str(tmp_path / name))
    assert line.startswith(f'error: {tmp_path / name}: ')
    assert [path.name for path in tmp_path.iterdir()] == ['in']


def test_a_folder_that_cannot_be_written_is_refused_and_leaves_nothing(
    weights, tmp_path, monkeypatch, capsys
):
    def full(_, folder):
        folder.mkdir()
        raise ValueError("RESOURCE: os_error_code='28'")

    monkeypatch.setattr(conversion, 'write_orbax', full)
    line = refused(capsys, 'convert', str(weights), str(tmp_path / 'out'))
    assert line.startswith(f'error: {tmp_path / "out"}: ') and 'No space left on device' in line
    assert [path.name for path in tmp_path.iterdir()] == ['in']
