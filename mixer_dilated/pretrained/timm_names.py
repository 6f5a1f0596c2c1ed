"""Weights under the names of timm's `MlpMixer`: `from_timm`, `to_timm`.

Its arrays are PyTorch's: kernels are `weight`, (out, in) and (out, in, height, width), where Flax
has (in, out) and (height, width, in, out). Its GELU is exact.
"""

import re

import numpy as np

from mixer_dilated.errors import UserError

Arrays = dict[str, np.ndarray]

TIMM_AND_LINEN = (
    ('stem.proj.', 'stem/'),
    ('blocks.', 'MixerBlock_'),
    ('.norm1.', '/LayerNorm_0/'),
    ('.mlp_tokens.fc1.', '/token_mixing/Dense_0/'),
    ('.mlp_tokens.fc2.', '/token_mixing/Dense_1/'),
    ('.norm2.', '/LayerNorm_1/'),
    ('.mlp_channels.fc1.', '/channel_mixing/Dense_0/'),
    ('.mlp_channels.fc2.', '/channel_mixing/Dense_1/'),
    ('norm.', 'pre_head_layer_norm/'),
    ('head.', 'head/'),
)


def is_timm(arrays: Arrays) -> bool:
    """Whether arrays have timm's names."""
    return any(name.startswith(('stem.proj.', 'blocks.')) for name in arrays)


def from_timm(arrays: Arrays) -> Arrays:
    """Arrays with Linen's names and axes; others keep their names."""
    renamed = {}
    for name, array in arrays.items():
        for timm, linen in TIMM_AND_LINEN:
            name = name.replace(timm, linen)
        if array.ndim > 1:
            array = np.moveaxis(array, (0, 1), (-1, -2))
        renamed[re.sub('weight$', 'kernel' if array.ndim > 1 else 'scale', name)] = array
    return renamed


def to_timm(arrays: Arrays) -> Arrays:
    """Arrays with timm's names and axes.

    Raises:
      UserError: timm has no such parameter, as those of the stem of several branches.
    """
    renamed = {}
    for linen_name, array in arrays.items():
        name = re.sub('(kernel|scale)$', 'weight', linen_name)
        for timm, linen in TIMM_AND_LINEN:
            name = name.replace(linen, timm)
        if '/' in name or not name.endswith(('.weight', '.bias')):
            raise UserError(
                f"{linen_name}: timm's Mixer has no such parameter, but one stem of one branch; "
                'allowed are the names of the original: a .npz, or a .safetensors without --names'
            )
        renamed[name] = np.moveaxis(array, (-1, -2), (0, 1)) if array.ndim > 1 else array
    return renamed
