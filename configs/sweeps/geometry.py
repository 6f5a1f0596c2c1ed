"""The search for patches that are good on several data sets: MNIST and CIFAR-10 together.

python run.py sweep --sweep=configs/sweeps/geometry.py --halving=4

Stride, size and dilation of one patch, and a solid patch beside a wide, sparse one. All is chosen
on validation examples.
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
            # Two epochs over 10 000 of these left methods of strides 4 to 6 at 0.36 to 0.42.
            'dataset.train_split': 'train[:20000]',
            'num_epochs': 16,
            'dataset.val_split': 'train[20000:25000]',
            'augment.flip': True,
        },
    ),
]
BASELINE = {'stride': 4, 'size': 4, 'dilation': 1, 'context': 0}


def get_sweep():
    base = base_config()
    base.num_seeds = 5
    base.num_epochs = 8
    base.dataset.test_split = 'test[2500:5000]'
    base.model.patches.padding = 'SAME'
    strides = grid({'model.patches.stride': (4, 5, 6, 7, 8)})
    single = grid({'model.patches.size': (3, 4, 5, 6, 7, 8), 'model.patches.dilation': (1, 2, 3)})
    # A solid patch, and 4×4 pixels further apart beside it: the weights of 25 or 32 pixels.
    two = [
        Trial(
            {'size': size, 'dilation': 1, 'context': apart},
            {'model.branches': ({'size': size}, {'size': 4, 'dilation': apart})},
        )
        for size in (3, 4)
        for apart in (2, 3)
    ]
    methods = [*product(single, [Trial({'context': 0}, {})]), *two]
    return Sweep(
        title='Patches for data sets together',
        question='Which patches are best on MNIST and on CIFAR-10, at which number of tokens?',
        base=base,
        trials=product(strides, methods, DATASETS),
        reference=BASELINE,
    )
