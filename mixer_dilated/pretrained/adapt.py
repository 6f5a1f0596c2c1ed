"""Weights adapted to a network: stem and token mixing are resampled, all else must fit."""

import math
import re
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from mixer_dilated.config import patch_branches, resolve
from mixer_dilated.errors import ShapeMismatchError, UserError
from mixer_dilated.patches.geometry import Pair, Patches, integer_pair
from mixer_dilated.pretrained.resampling import (
    Arrays,
    Grids,
    interpolate_token_mixing,
    resample_stem_kernel,
    tile_token_mixing,
)
from mixer_dilated.pretrained.weight_files import Weights

Shape = tuple[int, ...]

TOKEN_MIXING = ('Dense_0/kernel', 'Dense_0/bias', 'Dense_1/kernel', 'Dense_1/bias')
MAX_NAMED = 4  # branches whose patches differ; more are only counted
# Sizes of a network, as keys of `config.model`, and the parameter of each.
SIZES = {
    'hidden_dim': 'pre_head_layer_norm/bias',
    'tokens_mlp_dim': 'MixerBlock_0/token_mixing/Dense_0/bias',
    'channels_mlp_dim': 'MixerBlock_0/channel_mixing/Dense_0/bias',
}


def adapt_params(
    weights: Weights,
    network: nn.Module,
    image_shape: tuple[int, int, int],
    transfer: ConfigDict,
    file: str,
) -> tuple[Arrays, list[str]]:
    """Adapts weights to a network whose images are of `image_shape` (height, width, channels).

    `transfer` is `config.transfer`; `file`, where the weights come from, is for messages.

    Returns:
      {Linen name: float32 array}, without what is new, and sentences on what was adapted and on how
      the network differs from the one that the weights were trained in. Where it may not be meant
      so, a warning names the keys to set.

    Raises:
      UserError: the weights cannot be adapted as asked.
      ShapeMismatchError: a name or a shape does not fit.
    """
    new_parts = {part for part in ('stem', 'head') if transfer[part] == 'new'}
    expected = param_shapes(network, image_shape)
    expected = {name: shape for name, shape in expected.items() if _part(name) not in new_parts}
    arrays = {
        name: array.astype(np.float32)
        for name, array in weights.arrays.items()
        if _part(name) not in new_parts
    }
    hints, old = [], _old_patches(weights)
    stem, stem_notes = _adapt_stem(
        arrays, expected, old, network, image_shape, transfer.stem, hints
    )
    new_grids = _token_grids(network.branches, network.branch_merge, image_shape[:2])
    if weights.model and weights.image_size:
        merge = weights.model['branch_merge']
        old_grids = _token_grids(weights.branches, merge, weights.image_size)
    else:
        old_grids = _assume_grids(arrays, new_grids, transfer.grid, file, hints)
    mixing, mixing_notes = _adapt_token_mixing(
        arrays, network.num_blocks, old_grids, new_grids, transfer.tokens
    )
    arrays = {name: arrays[name] for name in arrays if _part(name) != 'stem'} | stem | mixing
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != expected:
        rows = _shape_mismatches(shapes, expected, network, image_shape)
        remedies = '; '.join(row[3] for row in rows)
        raise ShapeMismatchError(
            f'{file}: does not fit the network of the config; set or take {remedies}', rows
        )
    notes = [*_describe_differences(weights, network, hints), *stem_notes, *mixing_notes]
    if 'stem' in new_parts:
        notes = [note for note in notes if 'stem kernel' not in note] + ['stem new: random']
    if 'head' in new_parts:
        notes.append(f'head new: zeros, for {network.num_classes} classes')
    for hint in hints:
        warnings.warn(f'{file}: {hint}', stacklevel=2)
    return arrays, notes


def param_shapes(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Shape]:
    """The shapes of a network's parameters, {Linen name: shape}; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    tree = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), images)
    return {name: leaf.shape for name, leaf in flatten_dict(tree['params'], sep='/').items()}


def _part(name: str) -> str:
    """'stem', 'MixerBlock', 'pre' or 'head', of the name of a parameter."""
    return re.match('[^/_]*', name)[0]


def _describe_differences(weights: Weights, network: nn.Module, hints: list[str]) -> list[str]:
    """Differences from the network that the weights were trained in which no shape shows."""
    gelu = weights.gelu or 'tanh'
    if network.gelu != gelu:
        whose = '' if weights.gelu else 'if these are of the original, '
        hints.append(
            f'{whose}trained with GELU {gelu!r}, here config.model.gelu = {network.gelu!r}; for '
            f'that one set --config.model.gelu={gelu}'
        )
    blur, notes = (weights.model or {}).get('blur'), []
    if blur not in (None, network.blur):
        notes.append(f'trained with config.model.blur = {blur!r}, here {network.blur!r}')
    old, new = weights.branches or (_old_patches(weights),), network.branches
    if not weights.model and new[0].window == new[0].size:
        old = new  # plain, as those of a file are taken to be; their stride is not known
    if [patches and patches.size for patches in old] == [patches.size for patches in new]:
        trained = 'trained on' if weights.model else 'taken for one of'
        differing = [k for k in range(len(new)) if old[k] != new[k]]
        for k in differing[:MAX_NAMED]:
            kernel = f'stem kernel of branch {k}' if len(new) > 1 else 'stem kernel'
            notes.append(f'{kernel} {trained} patches {old[k]}, here {new[k]}')
        if len(differing) > MAX_NAMED:
            notes.append(f'and so {len(differing) - MAX_NAMED} more branches')
    return notes


def _old_patches(weights: Weights) -> Patches | None:
    """The one branch of the weights: as they record it, else plain patches; None if several."""
    shape = weights.arrays.get('stem/kernel', np.empty(0)).shape
    if len(shape) != 4 or 0 in shape:
        return None
    recorded = [patches for patches in weights.branches if patches.size == shape[:2]]
    return recorded[0] if recorded else Patches(shape[:2], stride=shape[:2])


def _adapt_stem(
    arrays: Arrays,
    expected: dict[str, Shape],
    old: Patches | None,
    network: nn.Module,
    image_shape: tuple[int, int, int],
    method: str,
    hints: list[str],
) -> tuple[Arrays, list[str]]:
    """The parameters of all stems, resampled where they do not fit and can be, and notes."""
    stem = {name: array for name, array in arrays.items() if _part(name) == 'stem'}
    shapes = {name: shape for name, shape in expected.items() if _part(name) == 'stem'}
    fits = shapes == {name: array.shape for name, array in stem.items()}
    if fits or {*stem} != {'stem/kernel', 'stem/bias'} or old is None:
        return stem, []
    kernel, new = stem['stem/kernel'], network.branches
    add_up = network.branch_merge == 'channels'
    kernels = resample_stem_kernel(kernel, old, new, image_shape, method, add_up=add_up)
    names = sorted((k for k in shapes if k[-4:] != 'bias'), key=lambda k: (len(k), k))  # by branch
    before, after = (_shape_text(array.shape[:3]) for array in (kernel, kernels[0]))
    note = f'stem {before} made {len(kernels)} × {after} by config.transfer.stem = {method!r}'
    nobody_set = new == patch_branches(resolve({}).model)
    if (method == 'sample' or nobody_set) and len(new) == 1 and old.size != new[0].size:
        flags = ''
        for key in ('size', 'stride', 'dilation'):
            pair = rows, columns = getattr(old, key)
            if pair != getattr(new[0], key):
                value = rows if rows == columns else f'"{pair}"'
                flags += f' --config.model.patches.{key}={value}'
        other = '--config.transfer.stem=resize' if method == 'sample' else 'go on so'
        hints.append(
            f'{note}; for the patches of the weights set{flags}, else {other}, or '
            '--config.transfer.stem=new for a random stem'
        )
    biases = dict.fromkeys(shapes, stem['stem/bias'])
    return {**biases, **dict(zip(names, kernels, strict=True))}, [note]


def _adapt_token_mixing(
    arrays: Arrays, num_blocks: int, old: Grids, new: Grids, method: str
) -> tuple[Arrays, list[str]]:
    """The token mixing of the blocks that mix the tokens of the old grids, adapted, and notes."""
    if new == old:
        return {}, []
    adapt = {'interpolate': interpolate_token_mixing, 'block_diagonal': tile_token_mixing}[method]
    tokens, adapted = sum(map(math.prod, old)), {}
    for i in range(num_blocks):
        mlp = f'MixerBlock_{i}/token_mixing/'
        mixing = {name: arrays.get(mlp + name, np.empty(())) for name in TOKEN_MIXING}
        width = mixing['Dense_0/bias'].size
        shapes = [array.shape for array in mixing.values()]
        if shapes == [(tokens, width), (width,), (width, tokens), (tokens,)]:
            adapted |= {mlp + name: array for name, array in adapt(mixing, old, new).items()}
    before, after = (' and '.join(map(_shape_text, grids)) for grids in (old, new))
    note = (
        f'token mixing of {before} tokens made for {after} by config.transfer.tokens = {method!r}'
    )
    return adapted, [note] if adapted else []


def _token_grids(branches: tuple[Patches, ...], merge: str, image_size: Pair) -> Grids:
    """(rows, columns) of the tokens of a stem; of each branch where branches add tokens."""
    grids = tuple(patches.grid(image_size) for patches in branches)
    return grids if merge == 'tokens' else grids[:1]


def _assume_grids(
    arrays: Arrays, new: Grids, grid: int | Pair, file: str, hints: list[str]
) -> Grids:
    """The grids that a file does not record: `config.transfer.grid`, else a square, else `new`."""
    shape = arrays.get('MixerBlock_0/token_mixing/Dense_0/kernel', np.empty(())).shape
    if len(shape) != 2:
        return new
    tokens, side = shape[0], math.isqrt(shape[0])
    if grid:
        pair = integer_pair('config.transfer.grid', grid, 1)
        if math.prod(pair) == tokens:
            return (pair,)
        raise UserError(
            f'config.transfer.grid = {grid!r}: {file} mixes {tokens} tokens; allowed is a pair '
            '(rows, columns) with this product'
        )
    if side * side == tokens and not any(name.startswith('stem_') for name in arrays):
        if new != ((side, side),):
            hints.append(
                f'does not record the grid of its tokens, taken for {side}×{side}; if it is '
                'another set --config.transfer.grid="(rows, columns)"'
            )
        return ((side, side),)
    if sum(map(math.prod, new)) == tokens:
        return new
    raise UserError(
        f'{file}: does not record the grid of its {tokens} tokens, no square or several; if it is '
        'one set --config.transfer.grid="(rows, columns)", else take weights that record it: the '
        'folder of a run, or a .safetensors file made from one'
    )


def _shape_mismatches(
    shapes: dict[str, Shape],
    expected: dict[str, Shape],
    network: nn.Module,
    image_shape: tuple[int, int, int],
) -> list[tuple[str, str, str, str]]:
    """Rows (names, shape, expected shape, what to do), one for all that have the same remedy."""
    blocks = {name.split('/')[0] for name in shapes if name.startswith('MixerBlock_')}
    sizes = {key: (shapes.get(name) or [0])[-1] for key, name in SIZES.items()}
    sizes = {'num_blocks': len(blocks), **sizes}
    sizes = {key: size for key, size in sizes.items() if size and size != getattr(network, key)}
    resized = param_shapes(network.clone(**sizes), image_shape)
    by_remedy = {}
    for name in dict.fromkeys((*expected, *shapes)):
        shape, fitting = shapes.get(name), expected.get(name)
        if shape == fitting:
            continue
        if shape == resized.get(name) or (sizes and 'token_mixing/' in name):
            remedy = ', '.join(f'model.{key}={size}' for key, size in sizes.items())
        elif name.startswith('head/'):
            remedy = 'transfer.head=new'
        elif name.startswith('stem'):
            of_other_patches = shape and (not fitting or shape[:2] != fitting[:2])
            remedy = "the weights' patches, or " * bool(of_other_patches) + 'transfer.stem=new'
        else:
            remedy = 'another file'
        row = re.sub(r'MixerBlock_\d+', 'MixerBlock_…', name), shape, fitting
        by_remedy.setdefault(remedy, {})[row] = None
    rows = []
    for remedy, ((name, *row_shapes), *others) in by_remedy.items():
        name += f' and {len(others)} more' if others else ''
        rows.append((name, *map(_shape_text, row_shapes), remedy))
    return rows


def _shape_text(shape: Shape | None) -> str:
    return 'not there' if shape is None else '×'.join(map(str, shape)) or 'a number'
