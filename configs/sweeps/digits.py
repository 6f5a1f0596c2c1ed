"""Plain and dilated patches on scikit-learn's embedded 8×8 digits: no download, no network.

python run.py sweep --sweep=configs/sweeps/digits.py

Both have 4 tokens of 4×4 pixels: the plain ones are the quarters of the image, the dilated ones
sample every second pixel of the whole image, each at another phase.
"""

import pathlib
import runpy

from mixer_dilated.studies.sweep import Sweep, Trial

CONFIG = pathlib.Path(__file__).parents[1] / 'digits_dilated.py'
PLAIN = Trial({'method': 'plain 4×4'}, {'model.patches.dilation': 1, 'model.patches.stride': 4})
DILATED = Trial({'method': 'dilated 4×4'}, {})


def get_sweep():
    base = runpy.run_path(str(CONFIG))['get_config']()
    base.num_seeds = 5
    return Sweep(
        title='Plain and dilated patches on the digits',
        question='Does it matter how 4 tokens of 16 pixels each share out an image of 8×8?',
        base=base,
        trials=[PLAIN, DILATED],
        reference=PLAIN.settings,
    )
