"""The paper's dilated patches on MNIST: 4×4 pixels 2 apart, windows of 7×7, 16 tokens.

python run.py --config=configs/mnist_dilated.py
"""

from mixer_dilated.config import base_config


def get_config():
    config = base_config()
    config.devices = 'v5e:1, h100:1'
    config.model.patches.size = 4
    config.model.patches.dilation = 2
    config.model.patches.stride = 7
    return config
