"""The control the paper lacks: plain 7×7 patches on MNIST, 16 tokens that see every pixel.

python run.py --config=configs/mnist_plain7.py
"""

from mixer_dilated.config import base_config


def get_config():
    config = base_config()
    config.devices = 'v5e:1, h100:1'
    config.model.patches.size = 7
    config.model.patches.stride = 7
    return config
