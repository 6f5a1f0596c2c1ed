"""Patches by the size of images and a number of tokens: `config.model.patches = 'auto'`."""

import math

from mixer_dilated.patches.geometry import Pair


def auto_patches(image_size: Pair, max_tokens: int) -> dict:
    """A solid patch with dilated context, for images of (height, width) pixels.

    The stride is the smallest odd one, from 3 on, with at most `max_tokens` tokens: neighbouring
    patches sample different phases of the grid of dilation 2. Of the stride s the solid patch has
    a side of 0.6 s, the dilated one of 0.8 s: together the s² weights of a plain patch without
    overlap, 3² + 4² = 5², and a window of about 1.6 s.

    Returns:
      Values of 'model.patches' keys and of 'model.branches', as a config has them.
    """
    stride = 3
    while math.prod(-(-length // stride) for length in image_size) > max_tokens:
        stride += 2
    solid, dilated = round(0.6 * stride), round(0.8 * stride)
    return {
        'model.patches.size': solid,
        'model.patches.dilation': 1,
        'model.patches.stride': stride,
        'model.patches.padding': 'SAME',
        'model.patches.offset': 0,
        'model.branches': ({}, {'size': dilated, 'dilation': 2}),
    }
