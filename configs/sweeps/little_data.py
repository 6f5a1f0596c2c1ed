"""The paper's first claim, that dilation helps with little data: 100 to 10 000 training images.

python run.py sweep --sweep=configs/sweeps/little_data.py

Small training sets have more epochs, so that a small set is not also a short training; each run
is evaluated at most ten times.
"""

from mixer_dilated.config import base_config
from mixer_dilated.studies.methods import BASELINE, TABLE1_METHODS
from mixer_dilated.studies.sweep import Sweep, Trial, product

EPOCHS = {100: 100, 300: 60, 1000: 30, 3000: 15, 10000: 10}


def get_sweep():
    base = base_config()
    base.num_seeds = 5
    base.batch = 50
    sizes = [
        Trial(
            {'train_images': images},
            {
                'dataset.train_split': f'train[:{images}]',
                'num_epochs': epochs,
                'eval_every': -(-epochs // 10),
            },
        )
        for images, epochs in EPOCHS.items()
    ]
    return Sweep(
        title='Little data',
        question='Do dilated patches help where there are few training images?',
        base=base,
        trials=product(TABLE1_METHODS, sizes),
        reference=BASELINE.settings,
        kind='little_data',
    )
