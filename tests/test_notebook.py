"""The notebook runs top to bottom on a plain CPU machine, with the embedded digits."""

import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import GIVEN_FLAGS, ROOT

pytestmark = pytest.mark.slow


def test_the_notebook_runs_top_to_bottom(monkeypatch, tmp_path):
    notebook = nbformat.read(ROOT / 'colab.ipynb', as_version=4)
    nbformat.validate(notebook)
    for name in ('configs', 'mixer_dilated', 'run.py'):
        os.symlink(ROOT / name, tmp_path / name)
    monkeypatch.setenv('QUICK', '1')
    monkeypatch.setenv('XLA_FLAGS', GIVEN_FLAGS)
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'none'))
    resources = {'metadata': {'path': str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name='python3', resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', ())]
    text = ''.join(output.get('text', '') for output in outputs)
    plots = [output for output in outputs if 'image/png' in output.get('data', {})]
    assert 'configs/digits_dilated.py' in text and 'epoch 1/1' in text
    assert 'report: ' in text and len(plots) == 3
    assert list(tmp_path.glob('runs/*-table1/report.html'))
