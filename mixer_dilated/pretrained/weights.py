"""`Weights`: the parameters of a Mixer by their names, with what their file says of the network."""

import dataclasses
import re

import numpy as np

from mixer_dilated.patches.geometry import Pair


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters as a file has them.

    Attributes:
      arrays: by their Linen names, 'MixerBlock_0/token_mixing/Dense_0/kernel': {name: array}.
      model: the keys of `config.model` that they were trained with, nested; None if the file does
        not say, as those of the original do not.
      image_size: (height, width) in pixels of the images they were trained on; None likewise.
    """

    arrays: dict[str, np.ndarray]
    model: dict | None = None
    image_size: Pair | None = None


def sizes(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes of a network that the shapes of its parameters tell, as keys of `config.model`.

    Args:
      shapes: by Linen name.

    Returns:
      'num_blocks', and those of 'num_tokens', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim'
      and 'num_classes' whose parameters are there.
    """
    told_by = {
        'num_tokens': ('MixerBlock_0/token_mixing/Dense_0/kernel', 0),
        'tokens_mlp_dim': ('MixerBlock_0/token_mixing/Dense_0/kernel', 1),
        'hidden_dim': ('MixerBlock_0/channel_mixing/Dense_0/kernel', 0),
        'channels_mlp_dim': ('MixerBlock_0/channel_mixing/Dense_0/kernel', 1),
        'num_classes': ('head/kernel', 1),
    }
    blocks = {found[1] for name in shapes if (found := re.match(r'MixerBlock_(\d+)/', name))}
    return {
        'num_blocks': len(blocks),
        **{
            key: shapes[name][axis]
            for key, (name, axis) in told_by.items()
            if name in shapes and len(shapes[name]) == 2
        },
    }
