"""The paper's second claim, less compute and memory: what a step costs on larger images.

python run.py sweep --sweep=configs/sweeps/resolution.py
"""

from mixer_dilated.config import base_config
from mixer_dilated.studies.methods import BASELINE, TABLE1_METHODS
from mixer_dilated.studies.sweep import Sweep


def get_sweep():
    base = base_config()
    base.batch = 32
    return Sweep(
        title='Cost against resolution',
        question='How do tokens, compute, time and memory of a training step grow with the image?',
        base=base,
        trials=TABLE1_METHODS,
        reference=BASELINE.settings,
        kind='resolution',
        image_sizes=(28, 56, 84, 112, 168, 224),
    )
