"""Plain Mixer patches on MNIST: 4×4 pixels, 7×7 = 49 tokens (the paper's 従来手法).

python run.py --config=configs/mnist_baseline.py
"""

from mixer_dilated.config import base_config


def get_config():
    config = base_config()
    config.devices = 'v5e:1, h100:1'
    config.model.patches.size = 4
    config.model.patches.stride = 4
    return config
