"""Accuracy under corruptions of the test images: translation, noise, occlusion, lower contrast.

python run.py sweep --sweep=configs/sweeps/robustness.py
"""

from mixer_dilated.config import base_config
from mixer_dilated.experiments.methods import BASELINE, TABLE1_METHODS
from mixer_dilated.experiments.sweep import Sweep


def get_sweep():
    base = base_config()
    base.num_seeds = 10
    return Sweep(
        title='Robustness',
        question=(
            'Does it show under corruptions of test images that dilated patches skip two thirds '
            'of the pixels?'
        ),
        base=base,
        cells=TABLE1_METHODS,
        reference=BASELINE.settings,
        kind='robustness',
    )
