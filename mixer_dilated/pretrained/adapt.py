"""Weights adapted to a network: stem and token mixing resampled, all else as it is or refused."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict

from mixer_dilated.config import patch_branches, resolve
from mixer_dilated.errors import ShapeMismatchError, UserError
from mixer_dilated.patches.geometry import Pair, Patches
from mixer_dilated.pretrained.stem_kernel import adapt_stem_kernels
from mixer_dilated.pretrained.token_grid import block_diagonal, interpolate
from mixer_dilated.pretrained.weight_files import Weights, network_sizes

Shape = tuple[int, ...]
Arrays = dict[str, np.ndarray]

MIXING_ARRAYS = ('Dense_0/kernel', 'Dense_0/bias', 'Dense_1/kernel', 'Dense_1/bias')
HEAD = ('head/kernel', 'head/bias')
TOKEN_METHODS = {'interpolate': interpolate, 'block_diagonal': block_diagonal}
MAX_NAMED = 4  # branches whose patches differ; more are only counted
# The keys of config.model that the shapes of a parameter follow from, by how its name starts.
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
    transfer: ml_collections.ConfigDict,
    file: str,
) -> tuple[Arrays, list[str]]:
    """The parameters of a network that weights give it.

    Args:
      weights: from a file.
      network: an `MlpMixer`.
      image_shape: (height, width, channels) of its input.
      transfer: `config.transfer`: how stem and tokens are adapted, whether the head is kept.
      file: where the weights come from, for messages.

    Returns:
      {name: float32 array}, without the head if that is new, and sentences on what was adapted and
      on how the network differs from the one that the weights were trained in.

    Raises:
      UserError: they cannot be adapted as asked.
      ShapeMismatchError: a name or a shape does not fit.
    """
    expected, notes = param_shapes(network, image_shape), _describe_differences(weights, network)
    arrays = {name: array.astype(np.float32) for name, array in weights.arrays.items()}
    arrays = _adapt_stem(arrays, expected, network, image_shape, transfer.stem, notes)
    arrays = _adapt_tokens(arrays, network, image_shape, weights, transfer.tokens, file, notes)
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
    """The shapes of a network's parameters, {name: shape}; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    tree = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), images)
    return {name: leaf.shape for name, leaf in flatten_dict(tree['params'], sep='/').items()}


def _describe_differences(weights: Weights, network: nn.Module) -> list[str]:
    """Differences between the network and that of the weights that shapes do not show."""
    if not weights.model:
        return []
    model = resolve({'model': weights.model}, warn=False).model
    notes = [
        f'trained with config.model.{key} = {model[key]!r}, here {getattr(network, key)!r}'
        for key in ('gelu', 'blur')
        if model[key] != getattr(network, key)
    ]
    old, new = patch_branches(model), network.branches
    if [patches.size for patches in old] == [patches.size for patches in new]:
        differing = [k for k, pair in enumerate(zip(old, new, strict=True)) if len({*pair}) > 1]
        for k in differing[:MAX_NAMED]:
            branch = f' of branch {k}' if len(new) > 1 else ''
            notes.append(f'stem kernel{branch} trained on patches {old[k]}, here {new[k]}')
        if len(differing) > MAX_NAMED:
            notes.append(f'and so {len(differing) - MAX_NAMED} more branches')
    return notes


def _adapt_stem(arrays, expected, network, image_shape, method, notes) -> Arrays:
    """The arrays with the kernels and biases of the network's stem or stems."""
    new_shapes = {name: shape for name, shape in expected.items() if name.startswith('stem')}
    old = {name: array for name, array in arrays.items() if name.startswith('stem')}
    fits = {name: array.shape for name, array in old.items()} == new_shapes
    if fits or {*old} != {'stem/kernel', 'stem/bias'} or old['stem/kernel'].ndim != 4:
        return arrays
    add_up = network.branch_merge == 'channels' or len(network.branches) == 1
    kernel = old['stem/kernel']
    kernels = adapt_stem_kernels(kernel, network.branches, image_shape, method, add_up=add_up)
    names = [name for name in new_shapes if not name.endswith('bias')]
    names.sort(key=lambda name: [int(n) for n in re.findall(r'\d+', name)])
    notes.append(
        f'stem {"×".join(map(str, kernel.shape[:3]))} made {len(kernels)} × '
        f'{"×".join(map(str, kernels[0].shape[:3]))} by config.transfer.stem = {method!r}'
    )
    rest = {name: array for name, array in arrays.items() if name not in old}
    biases = {name: old['stem/bias'] for name in new_shapes if name.endswith('bias')}
    return {**rest, **dict(zip(names, kernels, strict=True)), **biases}


def _adapt_tokens(arrays, network, image_shape, weights, method, file, notes) -> Arrays:
    """The arrays with token mixing for the network's grid."""
    new = _token_grids(network.branches, network.branch_merge, image_shape[:2])
    old = _recorded_grids(weights) or _assume_square(weights, new, file)
    tokens = sum(math.prod(grid) for grid in old)
    adapted = dict(arrays)
    for i in range(network.num_blocks):
        names = [f'MixerBlock_{i}/token_mixing/{name}' for name in MIXING_ARRAYS]
        mixing = dict(zip(MIXING_ARRAYS, map(arrays.get, names), strict=True))
        if new != old and _mixes_tokens(mixing, tokens):  # else they are shape mismatches
            mixing = TOKEN_METHODS[method](mixing, old, new)
            adapted |= dict(zip(names, (mixing[name] for name in MIXING_ARRAYS), strict=True))
    if any(adapted[name] is not arrays[name] for name in arrays):
        notes.append(
            f'token mixing of {_grids_text(old)} tokens made for {_grids_text(new)} by '
            f'config.transfer.tokens = {method!r}'
        )
    return adapted


def _mixes_tokens(mixing: dict[str, np.ndarray | None], tokens: int) -> bool:
    """Whether the four arrays are those of a token mixing MLP of that many tokens."""
    kernel = mixing['Dense_0/kernel']
    if kernel is None or kernel.ndim != 2:
        return False
    width = kernel.shape[1]
    shapes = (tokens, width), (width,), (width, tokens), (tokens,)
    return all(
        mixing[name] is not None and mixing[name].shape == shape
        for name, shape in zip(MIXING_ARRAYS, shapes, strict=True)
    )


def _token_grids(branches: tuple[Patches, ...], merge: str, image_size: Pair) -> tuple[Pair, ...]:
    """The grids of tokens of a stem, one after another."""
    grids = tuple(patches.grid(image_size) for patches in branches)
    return grids if merge == 'tokens' else grids[:1]


def _recorded_grids(weights: Weights) -> tuple[Pair, ...] | None:
    if not (weights.model and weights.image_size):
        return None
    model = resolve({'model': weights.model}, warn=False).model
    return _token_grids(patch_branches(model), model.branch_merge, tuple(weights.image_size))


def _assume_square(weights: Weights, new: tuple[Pair, ...], file: str) -> tuple[Pair, ...]:
    """The grid of as many tokens as weights mix; `new` if it has as many, or they mix none."""
    shapes = {name: array.shape for name, array in weights.arrays.items()}
    tokens = network_sizes(shapes).get('num_tokens')
    if tokens is None or tokens == sum(math.prod(grid) for grid in new):
        return new
    side = math.isqrt(tokens)
    several = any(name.startswith('stem_') for name in shapes)
    if several or side * side != tokens:
        reason = 'are of several branches' if several else 'are no square'
        raise UserError(
            f'{file}: mixes {tokens} tokens, which {reason}, and does not record their grid; '
            'take weights that do: the folder of a run, or a .safetensors file made from one'
        )
    return ((side, side),)


def _grids_text(grids: tuple[Pair, ...]) -> str:
    return ' and '.join('×'.join(map(str, grid)) for grid in grids)


def shape_mismatches(
    shapes: dict[str, Shape], expected: dict[str, Shape]
) -> list[tuple[str, str, str, str]]:
    """Rows (names, found, expected, what to do) of what differs: one for all with the same remedy.

    Args:
      shapes: of the weights, as adapted, {name: shape}.
      expected: those of the network.
    """
    theirs, ours = network_sizes(shapes), network_sizes(expected)
    keys = {k: (theirs[k], ours[k]) for k in theirs if theirs[k] != ours.get(k, theirs[k])}
    mismatches = dict.fromkeys(
        (re.sub(r'MixerBlock_\d+', 'MixerBlock_…', name), shapes.get(name), expected.get(name))
        for name in dict.fromkeys((*expected, *shapes))
        if shapes.get(name) != expected.get(name)
    )
    remedies = {}
    for mismatch in mismatches:
        remedies.setdefault(_remedy(*mismatch, keys), []).append(mismatch)
    return [
        (
            f'{name} and {len(others)} more' if others else name,
            _shape_text(shape),
            _shape_text(expected_shape),
            remedy,
        )
        for remedy, ((name, shape, expected_shape), *others) in remedies.items()
    ]


def _shape_text(shape: Shape | None) -> str:
    return 'not there' if shape is None else '×'.join(map(str, shape)) or 'a number'


def _remedy(
    name: str, shape: Shape | None, expected: Shape | None, keys: dict[str, tuple[int, int]]
) -> str:
    """What to do about a mismatch; `keys` of config.model differ, {key: (weights', network's)}."""
    if shape is None or expected is None:
        candidates = ('num_blocks',) if name.startswith('MixerBlock') else ()
    elif name == 'head/bias' or (name == 'head/kernel' and shape[:-1] == expected[:-1]):
        return 'transfer.head=new'
    else:
        (candidates,) = [SHAPE_KEYS[s] for s in SHAPE_KEYS if name.startswith(s)] or [()]
        # Those whose two values stand at the same axis of the two shapes.
        pairs = [*zip(shape, expected, strict=False)]
        candidates = [key for key in candidates if keys.get(key) in pairs]
    settings = [f'model.{key}={keys[key][0]}' for key in candidates if key in keys and keys[key][0]]
    if not settings and name.startswith('stem'):
        return 'another file, or branches'
    return ', '.join(settings) or 'another file'
