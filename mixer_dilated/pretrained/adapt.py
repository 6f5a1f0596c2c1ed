"""Weights adapted to a network: stem and token mixing are resampled, all else must fit."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from mixer_dilated.config import patch_branches
from mixer_dilated.errors import ShapeMismatchError, UserError
from mixer_dilated.patches.geometry import Pair, Patches
from mixer_dilated.pretrained.resampling import (
    interpolate_token_mixing,
    resample_stem_kernel,
    tile_token_mixing,
)
from mixer_dilated.pretrained.weight_files import Weights

Shape = tuple[int, ...]
Arrays = dict[str, np.ndarray]

HEAD = ('head/kernel', 'head/bias')
TOKEN_MIXING = ('Dense_0/kernel', 'Dense_0/bias', 'Dense_1/kernel', 'Dense_1/bias')
MAX_NAMED = 4  # branches whose patches differ; more are only counted
# Sizes of a network, as keys of `config.model`, and the axis of a parameter that has each.
SIZES = {
    'num_tokens': ('MixerBlock_0/token_mixing/Dense_0/kernel', 0),
    'tokens_mlp_dim': ('MixerBlock_0/token_mixing/Dense_0/kernel', 1),
    'hidden_dim': ('MixerBlock_0/channel_mixing/Dense_0/kernel', 0),
    'channels_mlp_dim': ('MixerBlock_0/channel_mixing/Dense_0/kernel', 1),
}
# The keys that the shape of a parameter depends on, by the start of its name.
SHAPE_KEYS = {
    'stem': ('hidden_dim',),
    'MixerBlock_…/token_mixing': ('tokens_mlp_dim',),
    'MixerBlock_…/channel_mixing': ('hidden_dim', 'channels_mlp_dim'),
    'MixerBlock_…/LayerNorm': ('hidden_dim',),
    'pre_head': ('hidden_dim',),
    'head': ('hidden_dim',),
}


def adapt_params(
    weights: Weights,
    network: nn.Module,
    image_shape: tuple[int, int, int],
    transfer: ConfigDict,
    file: str,
) -> tuple[Arrays, list[str]]:
    """Adapts weights to a network.

    Args:
      weights: from a file.
      network: an `MlpMixer`.
      image_shape: (height, width, channels) of its input.
      transfer: `config.transfer`: how stem and tokens are adapted, whether the head is kept.
      file: where the weights come from, for messages.

    Returns:
      {Linen name: float32 array}, without the head if that is new, and sentences on what was
      adapted and on how the network differs from the one that the weights were trained in.

    Raises:
      UserError: the weights cannot be adapted as asked.
      ShapeMismatchError: a name or a shape does not fit.
    """
    expected = param_shapes(network, image_shape)
    arrays = {name: array.astype(np.float32) for name, array in weights.arrays.items()}
    stem, stem_notes = _adapt_stem(arrays, expected, network, image_shape, transfer.stem)
    new = _token_grids(network.branches, network.branch_merge, image_shape[:2])
    old = _recorded_grids(weights) or _assume_square(arrays, new, file)
    mixing, mixing_notes = _adapt_token_mixing(
        arrays, network.num_blocks, old, new, transfer.tokens
    )
    others = {name: array for name, array in arrays.items() if not name.startswith('stem')}
    arrays = {**stem, **others, **mixing}
    notes = [*_describe_differences(weights, network), *stem_notes, *mixing_notes]
    if transfer.head == 'new':
        notes.append(f'head new: zeros, for {expected["head/bias"][0]} classes')
        arrays = {name: array for name, array in arrays.items() if name not in HEAD}
        expected = {name: shape for name, shape in expected.items() if name not in HEAD}
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != expected:
        raise ShapeMismatchError(
            f'{file}: does not fit the network of the config; set its keys as the table says',
            shape_mismatches(shapes, expected),
        )
    return arrays, notes


def param_shapes(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Shape]:
    """The shapes of a network's parameters, {Linen name: shape}; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    tree = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), images)
    return {name: leaf.shape for name, leaf in flatten_dict(tree['params'], sep='/').items()}


def _describe_differences(weights: Weights, network: nn.Module) -> list[str]:
    """Differences from the network that the weights were trained in which no shape shows."""
    if weights.model is None:
        return []
    model = ConfigDict(weights.model)
    notes = [
        f'trained with config.model.{key} = {model[key]!r}, here {getattr(network, key)!r}'
        for key in ('gelu', 'blur')
        if model[key] != getattr(network, key)
    ]
    old, new = patch_branches(model), network.branches
    if [patches.size for patches in old] == [patches.size for patches in new]:
        differing = [k for k in range(len(new)) if old[k] != new[k]]
        for k in differing[:MAX_NAMED]:
            branch = f' of branch {k}' if len(new) > 1 else ''
            notes.append(f'stem kernel{branch} trained on patches {old[k]}, here {new[k]}')
        if len(differing) > MAX_NAMED:
            notes.append(f'and so {len(differing) - MAX_NAMED} more branches')
    return notes


def _adapt_stem(
    arrays: Arrays,
    expected: dict[str, Shape],
    network: nn.Module,
    image_shape: tuple[int, int, int],
    method: str,
) -> tuple[Arrays, list[str]]:
    """The parameters of all stems, resampled where they do not fit and can be, and notes."""
    new_shapes = {name: shape for name, shape in expected.items() if name.startswith('stem')}
    old = {name: array for name, array in arrays.items() if name.startswith('stem')}
    fits = {name: array.shape for name, array in old.items()} == new_shapes
    if fits or {*old} != {'stem/kernel', 'stem/bias'} or old['stem/kernel'].ndim != 4:
        return old, []
    kernel, bias = old['stem/kernel'], old['stem/bias']
    add_up = network.branch_merge == 'channels' or len(network.branches) == 1
    kernels = resample_stem_kernel(kernel, network.branches, image_shape, method, add_up=add_up)
    names = [name for name in new_shapes if not name.endswith('bias')]
    names.sort(key=lambda name: [int(n) for n in re.findall(r'\d+', name)])  # by branch
    biases = {name: bias for name in new_shapes if name.endswith('bias')}
    note = (
        f'stem {_shape_text(kernel.shape[:3])} made {len(kernels)} × '
        f'{_shape_text(kernels[0].shape[:3])} by config.transfer.stem = {method!r}'
    )
    return {**dict(zip(names, kernels, strict=True)), **biases}, [note]


def _adapt_token_mixing(
    arrays: Arrays,
    num_blocks: int,
    old: tuple[Pair, ...],
    new: tuple[Pair, ...],
    method: str,
) -> tuple[Arrays, list[str]]:
    """The token mixing of the blocks that mix the tokens of the old grids, adapted, and notes."""
    if new == old:
        return {}, []
    adapt = {'interpolate': interpolate_token_mixing, 'block_diagonal': tile_token_mixing}[method]
    num_tokens = sum(map(math.prod, old))
    adapted = {}
    for i in range(num_blocks):
        mlp = f'MixerBlock_{i}/token_mixing/'
        mixing = {name: arrays[mlp + name] for name in TOKEN_MIXING if mlp + name in arrays}
        if _mixes_tokens(mixing, num_tokens):
            adapted |= {mlp + name: array for name, array in adapt(mixing, old, new).items()}
    if not adapted:
        return {}, []
    old_text, new_text = (' and '.join(map(_shape_text, grids)) for grids in (old, new))
    note = (
        f'token mixing of {old_text} tokens made for {new_text} by '
        f'config.transfer.tokens = {method!r}'
    )
    return adapted, [note]


def _mixes_tokens(mixing: Arrays, num_tokens: int) -> bool:
    """Whether arrays are all those of a token mixing MLP of that many tokens."""
    shapes = {name: array.shape for name, array in mixing.items()}
    width = shapes.get('Dense_0/bias', ())
    if len(width) != 1:
        return False
    expected = ((num_tokens, *width), width, (*width, num_tokens), (num_tokens,))
    return shapes == dict(zip(TOKEN_MIXING, expected, strict=True))


def _token_grids(branches: tuple[Patches, ...], merge: str, image_size: Pair) -> tuple[Pair, ...]:
    """(rows, columns) of the tokens of a stem; of each branch where branches add tokens."""
    grids = tuple(patches.grid(image_size) for patches in branches)
    return grids if merge == 'tokens' else grids[:1]


def _recorded_grids(weights: Weights) -> tuple[Pair, ...] | None:
    if weights.model is None or weights.image_size is None:
        return None
    model = ConfigDict(weights.model)
    return _token_grids(patch_branches(model), model.branch_merge, weights.image_size)


def _assume_square(arrays: Arrays, new: tuple[Pair, ...], file: str) -> tuple[Pair, ...]:
    """The square grid of the tokens that weights mix; `new` if it has as many, or they mix none."""
    num_tokens = _sizes({name: array.shape for name, array in arrays.items()}).get('num_tokens')
    if num_tokens in (None, sum(map(math.prod, new))):
        return new
    side = math.isqrt(num_tokens)
    several = any(name.startswith('stem_') for name in arrays)
    if several or side * side != num_tokens:
        reason = 'are of several branches' if several else 'are no square'
        raise UserError(
            f'{file}: mixes {num_tokens} tokens, which {reason}, and does not record their grid; '
            'take weights that do: the folder of a run, or a .safetensors file made from one'
        )
    return ((side, side),)


def _sizes(shapes: dict[str, Shape]) -> dict[str, int]:
    """{key of `config.model`: value} as far as parameters of these shapes show it."""
    blocks = {match[1] for name in shapes if (match := re.match(r'MixerBlock_(\d+)/', name))}
    sizes = {'num_blocks': len(blocks)}
    for key, (name, axis) in SIZES.items():
        if len(shapes.get(name, ())) == 2:
            sizes[key] = shapes[name][axis]
    return sizes


def shape_mismatches(
    shapes: dict[str, Shape], expected: dict[str, Shape]
) -> list[tuple[str, str, str, str]]:
    """Rows (names, shape, expected shape, what to do), one for all that have the same remedy.

    Args:
      shapes: {Linen name: shape} of the weights, as adapted.
      expected: those of the network.
    """
    theirs, ours = _sizes(shapes), _sizes(expected)
    keys = {k: (theirs[k], ours[k]) for k in theirs if theirs[k] != ours.get(k, theirs[k])}
    mismatches = dict.fromkeys(  # in order, one for all blocks that have the same
        (re.sub(r'MixerBlock_\d+', 'MixerBlock_…', name), shapes.get(name), expected.get(name))
        for name in dict.fromkeys((*expected, *shapes))
        if shapes.get(name) != expected.get(name)
    )
    by_remedy = {}
    for mismatch in mismatches:
        by_remedy.setdefault(_remedy(*mismatch, keys), []).append(mismatch)
    return [
        (
            f'{name} and {len(others)} more' if others else name,
            _shape_text(shape),
            _shape_text(expected_shape),
            remedy,
        )
        for remedy, ((name, shape, expected_shape), *others) in by_remedy.items()
    ]


def _shape_text(shape: Shape | None) -> str:
    return 'not there' if shape is None else '×'.join(map(str, shape)) or 'a number'


def _remedy(
    name: str, shape: Shape | None, expected: Shape | None, keys: dict[str, tuple[int, int]]
) -> str:
    """What to do about a mismatch.

    Args:
      name, shape, expected: of a parameter; a shape is None where it is not there.
      keys: {key of config.model: (value of the weights, of the network)} of those that differ.
    """
    if shape is None or expected is None:
        candidates = ('num_blocks',) if name.startswith('MixerBlock') else ()
    elif name == 'head/bias' or (name == 'head/kernel' and shape[:-1] == expected[:-1]):
        return 'transfer.head=new'
    else:
        candidates = next((SHAPE_KEYS[s] for s in SHAPE_KEYS if name.startswith(s)), ())
        # Those whose two values stand at the same axis of the two shapes.
        pairs = [*zip(shape, expected, strict=False)]
        candidates = [key for key in candidates if keys.get(key) in pairs]
    settings = [f'model.{key}={keys[key][0]}' for key in candidates if key in keys and keys[key][0]]
    if not settings and name.startswith('stem'):
        return 'another file, or branches'
    return ', '.join(settings) or 'another file'
