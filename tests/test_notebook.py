"""The notebook runs top to bottom on a plain CPU machine; on a TPU it installs what that needs."""

import os
import pathlib
import subprocess
import sys
import types

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


@pytest.mark.parametrize(
    ('variables', 'extra'),
    [
        ({'COLAB_TPU_1VM': '1', 'TPU_ACCELERATOR_TYPE': 'v5e-1'}, 'jax[tpu]'),
        ({'COLAB_TPU_1VM': '', 'TPU_ACCELERATOR_TYPE': 'v6e-1'}, 'jax[tpu]'),
        ({'COLAB_TPU_1VM': '', 'TPU_ACCELERATOR_TYPE': ''}, None),
    ],
)
def test_colab_installs_the_jax_of_its_accelerator_last(variables, extra, monkeypatch, tmp_path):
    commands = []
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, 'google.colab', types.ModuleType('google.colab'))
    monkeypatch.setattr(subprocess, 'run', lambda command, check: commands.append(command))
    monkeypatch.setattr(pathlib.Path, 'exists', lambda path: path.name == 'run.py')
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(ROOT / 'colab.ipynb', as_version=4)
    install = next(cell.source for cell in notebook.cells if 'google.colab' in cell.source)
    exec(install, {})
    packages = [command[command.index('--quiet') + 1 :] for command in commands]
    expected = [['-r', 'requirements.txt'], *([['-U', extra]] if extra else [])]
    assert packages == expected
    assert all(command[:4] == [sys.executable, '-m', 'pip', 'install'] for command in commands)
