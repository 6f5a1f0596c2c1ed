"""The sweep the paper asks for: patch size × dilation × stride, and the phases of the grid.

python run.py sweep --sweep=configs/sweeps/dilation.py
"""

from mixer_dilated.config import base_config
from mixer_dilated.studies.sweep import Sweep, grid


def get_sweep():
    base = base_config()
    base.num_seeds = 3
    sizes, dilations = range(2, 9), range(1, 7)
    return Sweep(
        title='Patch size, dilation, stride and phases',
        question=(
            'How do accuracy and cost change with the dilation rate, the size and the stride of '
            'patches, and does it help a token to see several phases of its dilated grid?'
        ),
        base=base,
        trials=[
            *grid(
                {
                    'model.patches.stride': (4, 7, 14),
                    'model.phases': (1,),
                    'model.patches.size': sizes,
                    'model.patches.dilation': dilations,
                }
            ),
            *grid(
                {
                    'model.patches.stride': (7,),
                    'model.phases': ((1, 2), 2),
                    'model.patches.size': sizes,
                    'model.patches.dilation': dilations[1:],
                }
            ),
        ],
        reference={'dilation': 1, 'phases': 1},
    )
