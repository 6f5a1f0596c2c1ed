"""Accuracy under corruptions of the test images: translation, noise, occlusion, lower contrast.

python run.py sweep --sweep=configs/sweeps/robustness.py
"""

from mixer_dilated.config import base_config
from mixer_dilated.studies.methods import BASELINE, TABLE1_METHODS
from mixer_dilated.studies.sweep import Sweep


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
        trials=TABLE1_METHODS,
        reference=BASELINE.settings,
        kind='robustness',
    )
