"""Dilated patches on scikit-learn's embedded 8×8 digits: no download, a minute on a laptop.

    python run.py --config=configs/digits_dilated.py
"""

from mixer_dilated.config import base_config


def get_config():
    config = base_config()
    config.dataset.name = 'digits'
    config.dataset.train_split = 'train'
    config.dataset.test_split = 'test'
    config.model.patches.size = 4
    config.model.patches.dilation = 2
    config.model.patches.stride = 1
    return config
