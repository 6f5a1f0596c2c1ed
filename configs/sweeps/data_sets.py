"""Dilated patches that were chosen on MNIST and CIFAR-10 together, against plain ones; ten seeds.

python run.py sweep --sweep=configs/sweeps/data_sets.py

The dilated patches are the best of configs/sweeps/geometry.py on validation examples: 3×3 solid
pixels and 4×4 pixels 2 apart beside them, every 5 pixels. Plain patches of 5×5 pixels have their
tokens, weights and FLOPs, as 4×4 pixels 2 apart every 4 pixels have those of the baseline. With 12
epochs instead of 10 the dilated ones spend the time that they save against the baseline.
"""

import pathlib
import runpy

from mixer_dilated.config import base_config
from mixer_dilated.studies.sweep import Sweep, Trial, product

SEARCH = pathlib.Path(__file__).with_name('geometry.py')  # which has the same recipes
TEST_SPLITS = {'MNIST': 'test[5000:]', 'CIFAR-10': 'test'}
TWO_BRANCHES = {'model.branches': ({'size': 3}, {'size': 4, 'dilation': 2})}


def _plain(size, stride):
    return Trial(
        {'method': f'plain {size}×{size}, stride {stride}'},
        {'model.patches.size': size, 'model.patches.stride': stride},
    )


def get_sweep():
    base = base_config()
    base.num_seeds = 10
    base.model.patches.padding = 'SAME'
    base.model.patches.stride = 5
    datasets = [
        Trial(
            trial.settings,
            {
                **trial.changes,
                'dataset.val_split': '',
                'dataset.test_split': TEST_SPLITS[trial.settings['dataset']],
            },
        )
        for trial in runpy.run_path(str(SEARCH))['DATASETS']
    ]
    baseline = _plain(4, 4)
    longer = TWO_BRANCHES | {'num_epochs': 12}
    methods = [
        baseline,
        Trial({'method': '3×3 and dilated 4×4, stride 5'}, TWO_BRANCHES),
        _plain(5, 5),
        Trial(
            {'method': 'dilated 4×4, stride 4'},
            baseline.changes | {'model.patches.dilation': 2},
        ),
        Trial({'method': '3×3 and dilated 4×4, stride 5, 12 epochs'}, longer),
    ]
    return Sweep(
        title='Dilated patches on two data sets',
        question=(
            'Are dilated patches, chosen on MNIST and CIFAR-10 together, better than the baseline '
            'and than plain patches of their cost, in accuracy and in time?'
        ),
        base=base,
        trials=product(methods, datasets),
        reference=baseline.settings,
    )
