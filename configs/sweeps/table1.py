"""The paper's Table 1 again: baseline, dilated patches and a control, ten seeds each.

python run.py table1
"""

from mixer_dilated.config import base_config
from mixer_dilated.studies.methods import BASELINE, TABLE1_METHODS
from mixer_dilated.studies.sweep import Sweep


def get_sweep():
    base = base_config()
    base.num_seeds = 10
    return Sweep(
        title="The paper's Table 1 with error bars",
        question=(
            'Do dilated patches raise accuracy and save time against plain ones, as the paper '
            'reports from one run each? And does a plain 7×7 patch, as many tokens that see every '
            'pixel, do as well?'
        ),
        base=base,
        trials=TABLE1_METHODS,
        reference=BASELINE.settings,
        kind='table1',
    )
