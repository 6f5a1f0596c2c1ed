"""What the tests of the command line share."""

import pytest

from tests.conftest import GIVEN_FLAGS, ROOT, run_cli

CONFIG = '--config=configs/digits_dilated.py'
SWEEP = '--sweep=configs/sweeps/digits.py'
SMALL = [
    CONFIG,
    '--config.num_epochs=2',
    '--config.batch=32',
    '--config.dataset.train_split=train[:300]',
    '--config.model.num_blocks=1',
    '--config.model.hidden_dim=8',
]


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """The folder of a small run, compiled as a user's is, and its process with what it printed."""
    workdir = tmp_path_factory.mktemp('cli') / 'run'
    return workdir, run_cli(*SMALL, f'--workdir={workdir}', XLA_FLAGS=GIVEN_FLAGS)


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    """Names of configs are relative to the repository."""
    monkeypatch.chdir(ROOT)
