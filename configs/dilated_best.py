"""The best dilated patches of a search on MNIST and CIFAR-10 together, for images of any size.

python run.py --config=configs/dilated_best.py

Solid patches with dilated ones beside them, at most 49 tokens: `mixer_dilated.patches.auto` fits
them to the size of the images. They are not better than plain patches of their cost, with which
configs/sweeps/data_sets.py compares them.
"""

from mixer_dilated.config import base_config


def get_config():
    config = base_config()
    config.devices = 'v5e:1, h100:1'
    config.model.patches = 'auto'
    return config
