"""The search for patches that hold on data they were not chosen on: MNIST and CIFAR-10 together.

python run.py sweep --sweep=configs/sweeps/geometry.py --halving=3

Stride, size, dilation and padding of one branch, and a solid patch beside a wide, sparse one. All
is chosen on validation examples; test images are those that nothing was chosen on.
"""

from mixer_dilated.config import base_config
from mixer_dilated.studies.sweep import Sweep, Trial, grid, product

DATASETS = [
    Trial(
        {'dataset': 'MNIST'},
        {
            'dataset.name': 'mnist',
            'dataset.train_split': 'train[:10000]',
            'dataset.val_split': 'train[50000:55000]',
        },
    ),
    Trial(
        {'dataset': 'CIFAR-10'},
        {
            'dataset.name': 'cifar10',
            'dataset.train_split': 'train[:10000]',
            'dataset.val_split': 'train[20000:25000]',
            'augment.flip': True,
        },
    ),
]
BASELINE = {'stride': 4, 'size': 4, 'dilation': 1, 'context': 0}


def get_sweep():
    base = base_config()
    base.num_seeds = 5
    base.num_epochs = 9
    base.dataset.test_split = 'test[2500:5000]'
    base.model.patches.padding = 'SAME'
    single = grid(
        {
            'model.patches.stride': (3, 4, 5, 6, 7, 8),
            'model.patches.size': (2, 3, 4, 5, 6, 7, 8),
            'model.patches.dilation': (1, 2, 3),
        }
    )
    # Of two branches the second samples 4×4 pixels as far apart; its weights are those of 4×4 more.
    methods = [
        *product(single, [Trial({'context': 0}, {})]),
        *(
            Trial(
                {**trial.settings, 'context': apart},
                {**trial.changes, 'model.branches': ({}, {'size': 4, 'dilation': apart})},
            )
            for trial in single
            for apart in (2, 3, 4)
            if trial.settings['dilation'] == 1 and trial.settings['size'] in (3, 4, 5)
        ),
    ]
    return Sweep(
        title='Patches for data sets together',
        question='Which patches are best on MNIST and on CIFAR-10, at which number of tokens?',
        base=base,
        trials=product(methods, DATASETS),
        reference=BASELINE,
    )
