"""Finished runs that the tests of this room share; whoever changes one copies it."""

import shutil

import pytest

from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.training.runs import OF_SEEDS, RUN


@pytest.fixture(scope='session')
def run(tmp_path_factory):
    """A run: its config, folder and summary."""
    config = small_config(**RUN)
    workdir = tmp_path_factory.mktemp('runs') / 'first'
    return config, workdir, train_and_evaluate(config, workdir, name='small')


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run of which all but the summary is there."""
    folder = shutil.copytree(run[1], tmp_path / 'copy')
    (folder / 'summary.json').unlink()
    return folder


@pytest.fixture(scope='session')
def run_of_seeds(tmp_path_factory):
    """A run of two seeds on data in memory: its config, folder and summary."""
    config = small_config(**OF_SEEDS)
    workdir = tmp_path_factory.mktemp('seeds') / 'run'
    return config, workdir, train_and_evaluate(config, workdir)
