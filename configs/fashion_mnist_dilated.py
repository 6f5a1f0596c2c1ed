"""The paper's dilated patches on Fashion-MNIST, whose images have the shape of MNIST's.

python run.py --config=configs/fashion_mnist_dilated.py

Only a few steps were run, on random images of this shape; the accuracy is not known. The settings
are those of MNIST, but for horizontal flips and the larger training set.
"""

from mixer_dilated.config import base_config


def get_config():
    config = base_config()
    config.devices = 'v5e:1, h100:1'
    config.dataset.name = 'fashion_mnist'
    config.dataset.train_split = 'train[:55000]'  # the rest is for choosing settings
    config.dataset.test_split = 'test'
    config.augment.flip = True
    config.model.patches.size = 4
    config.model.patches.dilation = 2
    config.model.patches.stride = 7
    return config
