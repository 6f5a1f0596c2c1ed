"""The best dilated patches that were found, against plain ones with the same training recipe.

python run.py sweep --sweep=configs/sweeps/best.py

Batch, augmentation, optimiser and epochs are those of configs/mnist_best.py for all methods. The
baseline has the network of Table 1, the controls that of the dilated method: does what wins lie in
the dilation, or in fewer, larger and overlapping windows?
"""

from configs.mnist_best import get_config
from mixer_dilated.experiments.methods import BASELINE, PLAIN7
from mixer_dilated.experiments.sweep import Cell, Sweep

WITHOUT_PHASES = {'augment.random_phase': False}
NETWORK_OF_TABLE1 = {
    'model.patches.padding': 'VALID',
    'model.num_blocks': 4,
    'model.tokens_mlp_dim': 64,
}


def get_sweep():
    base = get_config()
    base.num_seeds = 10
    baseline = Cell(BASELINE.settings, {**BASELINE.changes, **NETWORK_OF_TABLE1, **WITHOUT_PHASES})
    plain7 = Cell(PLAIN7.settings, {**PLAIN7.changes, **WITHOUT_PHASES})
    overlapping = {'model.patches.size': 12, 'model.patches.dilation': 1}
    return Sweep(
        title='Dilated patches at their best',
        question=(
            'Do dilated patches beat plain 4×4 ones in accuracy and time, both trained with the '
            'same recipe, and would plain patches of as many tokens do it too?'
        ),
        base=base,
        cells=[
            baseline,
            Cell({'method': 'dilated 6×6, random phase'}, {}),
            plain7,
            Cell({'method': 'plain 12×12, overlapping'}, {**overlapping, **WITHOUT_PHASES}),
        ],
        reference=BASELINE.settings,
    )
