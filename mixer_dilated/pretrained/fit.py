"""Weights fitted to a network: stem and token mixing adapted, all else as it is or refused."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict

from mixer_dilated.config import patch_branches, resolve
from mixer_dilated.errors import InputError, MisfitError
from mixer_dilated.patches.geometry import Pair
from mixer_dilated.pretrained.stem_kernel import fitted_kernels
from mixer_dilated.pretrained.token_grid import block_diagonal, interpolated
from mixer_dilated.pretrained.weights import Weights, sizes

Shape = tuple[int, ...]

_TOKEN_MIXING = ('Dense_0/kernel', 'Dense_0/bias', 'Dense_1/kernel', 'Dense_1/bias')


def fitted(
    weights: Weights,
    network: nn.Module,
    image_shape: tuple[int, int, int],
    transfer: ml_collections.ConfigDict,
    file: str,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The parameters of a network that weights give it.

    Args:
      weights: from a file.
      network: an `MlpMixer`.
      image_shape: (height, width, channels) that it sees.
      transfer: `config.transfer`: how stem and tokens are adapted, whether the head is kept.
      file: where the weights come from, for messages.

    Returns:
      {name: float32 array}, without the head if that is new, and what was adapted, in words.

    Raises:
      InputError: they cannot be adapted as asked.
      MisfitError: a name or a shape does not fit.
    """
    expected, notes = expected_shapes(network, image_shape), []
    arrays = {name: array.astype(np.float32) for name, array in weights.arrays.items()}
    arrays = _with_stem(arrays, expected, network, image_shape, transfer.stem, notes)
    arrays = _with_tokens(arrays, expected, network, image_shape, weights, transfer, file, notes)
    if transfer.head == 'new':
        notes.append(f'head new: zeros, for {expected["head/bias"][0]} classes')
        of_head = ('head/kernel', 'head/bias')
        arrays, expected = (
            {name: value for name, value in each.items() if name not in of_head}
            for each in (arrays, expected)
        )
    found = {name: array.shape for name, array in arrays.items()}
    if found != expected:
        raise MisfitError(
            f'{file}: does not fit the network of the config; set its keys as the table says',
            _misfits(found, expected, sizes(weights.arrays)),
        )
    return arrays, notes


def expected_shapes(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Shape]:
    """The shapes of a network's parameters, {name: shape}; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    tree = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), images)
    return {name: leaf.shape for name, leaf in flatten_dict(tree['params'], sep='/').items()}


def _with_stem(arrays, expected, network, image_shape, method, notes) -> dict[str, np.ndarray]:
    """The arrays with the kernels and biases of the network's stem or stems."""
    of_stem = {name: shape for name, shape in expected.items() if name.startswith('stem')}
    found = {name: array for name, array in arrays.items() if name.startswith('stem')}
    as_is = {name: array.shape for name, array in found.items()} == of_stem
    if as_is or {*found} != {'stem/kernel', 'stem/bias'} or found['stem/kernel'].ndim != 4:
        return arrays
    add_up = network.join == 'channels' or len(network.branches) == 1
    kernel = found['stem/kernel']
    kernels = fitted_kernels(kernel, network.branches, image_shape, method, add_up=add_up)
    names = [name for name in of_stem if not name.endswith('bias')]
    names.sort(key=lambda name: [int(n) for n in re.findall(r'\d+', name)])
    notes.append(
        f'stem {"×".join(map(str, kernel.shape[:3]))} made {len(kernels)} × '
        f'{"×".join(map(str, kernels[0].shape[:3]))} by config.transfer.stem = {method!r}'
    )
    rest = {name: array for name, array in arrays.items() if name not in found}
    biases = {name: found['stem/bias'] for name in of_stem if name.endswith('bias')}
    return {**rest, **dict(zip(names, kernels, strict=True)), **biases}


def _with_tokens(
    arrays, expected, network, image_shape, weights, transfer, file, notes
) -> dict[str, np.ndarray]:
    """The arrays with token mixing for the network's grid."""
    new = tuple(patches.grid(image_shape[:2]) for patches in network.branches)
    new = new if network.join == 'tokens' else new[:1]
    old = _grid(weights, new, file)
    if old is None or new == (old,):
        return arrays
    one_by_one = transfer.tokens == 'block_diagonal'
    if one_by_one and len(new) > 1:
        raise InputError(
            "config.transfer.tokens = 'block_diagonal': branches that add tokens have no one "
            "grid; allowed is 'interpolate'"
        )
    found = dict(arrays)
    for i in range(network.num_blocks):
        names = [f'MixerBlock_{i}/token_mixing/{name}' for name in _TOKEN_MIXING]
        if not all(name in arrays for name in names):
            continue  # the table of what does not fit has them
        mixing = {short: arrays[name] for short, name in zip(_TOKEN_MIXING, names, strict=True)}
        mixing = (
            block_diagonal(mixing, old, new[0]) if one_by_one else interpolated(mixing, old, new)
        )
        found |= {name: mixing[short] for short, name in zip(_TOKEN_MIXING, names, strict=True)}
    grids = ' and '.join('×'.join(map(str, grid)) for grid in new)
    notes.append(
        f'token mixing of {old[0]}×{old[1]} tokens made for {grids} by config.transfer.tokens = '
        f'{transfer.tokens!r}'
    )
    return found


def _grid(weights: Weights, new: tuple[Pair, ...], file: str) -> Pair | None:
    """The grid that weights were trained on; None if it is not known and need not be."""
    if weights.model and weights.image_size:
        model = resolve({'model': weights.model}).model
        branches = patch_branches(model)
        if model.join == 'channels' or len(branches) == 1:
            return branches[0].grid(tuple(weights.image_size))
    tokens = sizes(weights.arrays).get('num_tokens')
    if tokens is None or tokens == sum(math.prod(grid) for grid in new):
        return None
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise InputError(
            f'{file}: mixes {tokens} tokens, which are no square, and does not say their grid; '
            'take weights that do: the folder of a run, or a .safetensors file made from one'
        )
    return side, side


def _misfits(
    found: dict[str, Shape], expected: dict[str, Shape], told: dict[str, int]
) -> list[tuple[str, str, str, str]]:
    """Rows (names, found, expected, what to do) of what differs: one for all that has one cure."""
    rows = {}
    for name in (*expected, *(name for name in found if name not in expected)):
        one, other = found.get(name), expected.get(name)
        if one != other:
            alike = re.sub(r'MixerBlock_\d+', 'MixerBlock_…', name)
            rows.setdefault((alike, one, other), name)
    cures = {}
    for name, one, other in rows:
        cures.setdefault(_what_to_do(name, one, other, told), []).append((name, one, other))
    return [
        (
            f'{name} and {len(others)} more' if others else name,
            _shape_text(one),
            _shape_text(other),
            cure,
        )
        for cure, ((name, one, other), *others) in cures.items()
    ]


def _shape_text(shape: Shape | None) -> str:
    return 'not there' if shape is None else '×'.join(map(str, shape)) or 'a number'


def _what_to_do(name: str, one: Shape | None, other: Shape | None, told: dict[str, int]) -> str:
    if one is None or other is None:
        block = name.startswith('MixerBlock')
        return f'model.num_blocks={told["num_blocks"]}' if block else 'another file, or branches'
    if name == 'head/bias' or (name == 'head/kernel' and one[:-1] == other[:-1]):
        return 'transfer.head=new'
    wanted = {
        'stem': ('hidden_dim',),
        'MixerBlock_…/token_mixing': ('tokens_mlp_dim',),
        'MixerBlock_…/channel_mixing': ('hidden_dim', 'channels_mlp_dim'),
        'MixerBlock_…/LayerNorm': ('hidden_dim',),
        'pre_head': ('hidden_dim',),
        'head': ('hidden_dim',),
    }
    for start, keys in wanted.items():
        if name.startswith(start):
            known = [
                f'model.{key}={told[key]}' for key in keys if key in told and told[key] not in other
            ]
            if known:
                return ', '.join(known)
    return 'another file'
