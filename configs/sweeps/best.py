"""The best dilated patches that were found, against plain ones with the same recipe.

python run.py sweep --sweep=configs/sweeps/best.py

All methods have the batch, random translation, optimizer and epochs of configs/mnist_best.py, which
were chosen for the dilated one. The baseline has the network of Table 1; the controls have that of
the dilated method, each without a part of it: the same pixels at one phase (no random phase in
training, one pass at evaluation), and plain patches with as many tokens, of 7×7 pixels and of the
whole window.
"""

import pathlib
import runpy

from mixer_dilated.studies.methods import BASELINE, PLAIN7
from mixer_dilated.studies.sweep import Sweep, Trial

CONFIG = pathlib.Path(__file__).parents[1] / 'mnist_best.py'
ONE_PHASE = {'augment.random_phase': False}
NETWORK_OF_TABLE1 = {
    'model.patches.padding': 'VALID',
    'model.num_blocks': 4,
    'model.tokens_mlp_dim': 64,
}
WHOLE_WINDOW = {'model.patches.size': 12, 'model.patches.dilation': 1}


def get_sweep():
    base = runpy.run_path(str(CONFIG))['get_config']()
    base.num_seeds = 10
    return Sweep(
        title='Dilated patches at their best',
        question=(
            'Do dilated patches, shown at a random phase in training and averaged over all phases '
            'at evaluation, beat plain 4×4 ones in accuracy and in the time of training? Would '
            'they at one phase, and would plain patches of as many tokens?'
        ),
        base=base,
        trials=[
            Trial(BASELINE.settings, {**BASELINE.changes, **NETWORK_OF_TABLE1, **ONE_PHASE}),
            Trial({'method': 'dilated 6×6, random phase'}, {}),
            Trial({'method': 'dilated 6×6, one phase'}, ONE_PHASE),
            Trial(PLAIN7.settings, {**PLAIN7.changes, **ONE_PHASE}),
            Trial({'method': 'plain 12×12, overlapping'}, {**WHOLE_WINDOW, **ONE_PHASE}),
        ],
        reference=BASELINE.settings,
    )
