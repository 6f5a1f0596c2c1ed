"""A run that the tests of this room share; whoever changes it copies it."""

import shutil

import numpy as np
import pytest
from PIL import Image

from mixer_dilated.data.datasets import Digits
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import small_config

BATCH = 16


@pytest.fixture(scope='session')
def run(tmp_path_factory):
    """The folder of a run of two seeds whose evaluation averages over two phases.

    It takes image files of the size of its images as they are.
    """
    workdir = tmp_path_factory.mktemp('inference') / 'run'
    config = small_config(**{
        'num_seeds': 2, 'batch_eval': BATCH, 'dataset.preprocess': 'resize',
        'optimizer.base_lr': 0.03, 'checkpoints.every_steps': 9,
        'dataset.val_split': 'train[300:400]', 'checkpoints.keep_best': True,
        'augment.random_phase': True, 'model.patches.dilation': (1, 2),
    })  # fmt: skip
    train_and_evaluate(config, workdir)
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / 'run')


@pytest.fixture(scope='session')
def image_files(tmp_path_factory):
    """A folder of the first 40 test digits as files, some in a folder below."""
    folder = tmp_path_factory.mktemp('image_files')
    (folder / 'more').mkdir()
    for k, image in enumerate(Digits().read('test[:40]').images[..., 0]):
        Image.fromarray(image).save((folder / 'more' if k % 4 else folder) / f'{k:02d}.png')
    return folder


@pytest.fixture(scope='session')
def expected(run):
    """Mean probabilities of those digits over seeds and phases, as the run kept them."""
    with np.load(run / 'predictions.npz') as kept:
        return kept['probabilities'].mean(axis=0)[:40]
