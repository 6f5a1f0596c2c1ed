"""The patches of configs/sweeps/data_sets.py on CIFAR-10 alone, more closely: twenty seeds.

python run.py sweep --sweep=configs/sweeps/cifar10.py

They are trained on 10 000 images, as many as the paper has, and tested on 5 000 test images and on
10 000 training images that the search for them trained on, but by which it chose nothing. The
chosen patches reach 0.5437 ± 0.0070, plain ones of their cost 0.5403 ± 0.0068 and the baseline
0.5484 ± 0.0082, on a part of CIFAR-10 made from JPEG copies.
"""

import dataclasses
import pathlib
import runpy

from mixer_dilated.studies.sweep import Trial

DATA_SETS = pathlib.Path(__file__).with_name('data_sets.py')  # which has the same recipes
METHODS = ('plain 4×4, stride 4', '3×3 and dilated 4×4, stride 5', 'plain 5×5, stride 5')
SPLITS = {
    'dataset.train_split': 'train[:10000]',
    'dataset.test_split': 'test[:5000]+train[10000:20000]',
}


def get_sweep():
    sweep = runpy.run_path(str(DATA_SETS))['get_sweep']()
    sweep.base.num_seeds = 20
    return dataclasses.replace(
        sweep,
        title='Dilated patches on CIFAR-10',
        question='Are dilated patches better than plain ones of their cost, or worse, on CIFAR-10?',
        trials=[
            Trial({'method': method}, trial.changes | SPLITS)
            for trial in sweep.trials
            if (method := trial.settings['method']) in METHODS
            and trial.settings['dataset'] == 'CIFAR-10'
        ],
    )
