"""The table of what does not fit: found, expected, what to do."""

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
from mixer_dilated.pretrained.token_grid import block_diagonal, interpolated
from mixer_dilated.pretrained.weight_files import Weights, sizes

Shape = tuple[int, ...]


def shape_mismatches(
    found: dict[str, Shape], expected: dict[str, Shape]
) -> list[tuple[str, str, str, str]]:
    """Rows (names, found, expected, what to do) of what differs: one for all that has one cure.

    Args:
      found: the shapes of the weights, as adapted, {name: shape}.
      expected: those of the network.
    """
    told, ours = sizes(found), sizes(expected)
    keys = {key: (told[key], ours[key]) for key in told if told[key] != ours.get(key, told[key])}
    rows = {}
    for name in (*expected, *(name for name in found if name not in expected)):
        one, other = found.get(name), expected.get(name)
        if one != other:
            alike = re.sub(r'MixerBlock_\d+', 'MixerBlock_…', name)
            rows.setdefault((alike, one, other), name)
    cures = {}
    for name, one, other in rows:
        cures.setdefault(_what_to_do(name, one, other, keys), []).append((name, one, other))
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


# The keys of config.model that shapes of a parameter come from, by how its name starts.
_TOLD_BY = {
    'stem': ('hidden_dim',),
    'MixerBlock_…/token_mixing': ('tokens_mlp_dim',),
    'MixerBlock_…/channel_mixing': ('hidden_dim', 'channels_mlp_dim'),
    'MixerBlock_…/LayerNorm': ('hidden_dim',),
    'pre_head': ('hidden_dim',),
    'head': ('hidden_dim',),
}


def _what_to_do(
    name: str, one: Shape | None, other: Shape | None, keys: dict[str, tuple[int, int]]
) -> str:
    """The cure of one row.

    Args:
      name: of the parameter.
      one: its shape in the weights.
      other: its shape in the network.
      keys: those of config.model in which both differ: values of the weights and of the network.
    """
    if one is None or other is None:
        wanted = ('num_blocks',) if name.startswith('MixerBlock') else ()
    elif name == 'head/bias' or (name == 'head/kernel' and one[:-1] == other[:-1]):
        return 'transfer.head=new'
    else:
        (wanted,) = [_TOLD_BY[start] for start in _TOLD_BY if name.startswith(start)] or [()]
        # A shape is mended by keys whose value it has, where the network has another.
        wanted = [key for key in wanted if key in keys and _has(one, other, *keys[key])]
    known = [f'model.{key}={keys[key][0]}' for key in wanted if key in keys and keys[key][0]]
    if not known and name.startswith('stem'):
        return 'another file, or branches'
    return ', '.join(known) or 'another file'


def _has(one: Shape, other: Shape, before: int, now: int) -> bool:
    return any(pair == (before, now) for pair in zip(one, other, strict=False))


_TOKEN_MIXING = ('Dense_0/kernel', 'Dense_0/bias', 'Dense_1/kernel', 'Dense_1/bias')
_ADAPTED = {'interpolate': interpolated, 'block_diagonal': block_diagonal}


# Branches whose patches differ, of which more are only counted.
_MAX_TOLD = 4


def adapt_params(
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
      {name: float32 array}, without the head if that is new, and in words what was adapted, and
      what the network computes otherwise than the one they were trained in.

    Raises:
      UserError: they cannot be adapted as asked.
      ShapeMismatchError: a name or a shape does not fit.
    """
    expected, notes = expected_shapes(network, image_shape), _unlike(weights, network)
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
        raise ShapeMismatchError(
            f'{file}: does not fit the network of the config; set its keys as the table says',
            shape_mismatches(found, expected),
        )
    return arrays, notes


def expected_shapes(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Shape]:
    """The shapes of a network's parameters, {name: shape}; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    tree = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), images)
    return {name: leaf.shape for name, leaf in flatten_dict(tree['params'], sep='/').items()}


def _unlike(weights: Weights, network: nn.Module) -> list[str]:
    """In words, where shapes do not tell: how the network is unlike the one weights are of."""
    if not weights.model:
        return []
    model = resolve({'model': weights.model}, warn=False).model
    found = [
        f'trained with config.model.{key} = {model[key]!r}, here {getattr(network, key)!r}'
        for key in ('gelu', 'blur')
        if model[key] != getattr(network, key)
    ]
    old, new = patch_branches(model), network.branches
    if [patches.size for patches in old] == [patches.size for patches in new]:
        moved = [
            (k, *pair) for k, pair in enumerate(zip(old, new, strict=True)) if len({*pair}) > 1
        ]
        for k, before, now in moved[:_MAX_TOLD]:
            of = f' of branch {k}' if len(new) > 1 else ''
            found.append(f'stem kernel{of} trained on patches {before}, here {now}')
        if len(moved) > _MAX_TOLD:
            found.append(f'and so {len(moved) - _MAX_TOLD} more branches')
    return found


def _with_stem(arrays, expected, network, image_shape, method, notes) -> dict[str, np.ndarray]:
    """The arrays with the kernels and biases of the network's stem or stems."""
    of_stem = {name: shape for name, shape in expected.items() if name.startswith('stem')}
    found = {name: array for name, array in arrays.items() if name.startswith('stem')}
    as_is = {name: array.shape for name, array in found.items()} == of_stem
    if as_is or {*found} != {'stem/kernel', 'stem/bias'} or found['stem/kernel'].ndim != 4:
        return arrays
    add_up = network.branch_merge == 'channels' or len(network.branches) == 1
    kernel = found['stem/kernel']
    kernels = adapt_stem_kernels(kernel, network.branches, image_shape, method, add_up=add_up)
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
    new = _grids_of(network.branches, network.branch_merge, image_shape[:2])
    old = _known_grids(weights) or _square_grid(weights, new, file)
    tokens = sum(math.prod(grid) for grid in old)
    found = dict(arrays)
    for i in range(network.num_blocks):
        names = [f'MixerBlock_{i}/token_mixing/{name}' for name in _TOKEN_MIXING]
        mixing = {short: arrays.get(name) for short, name in zip(_TOKEN_MIXING, names, strict=True)}
        if new != old and _is_of(mixing, tokens):  # else the table of what does not fit has them
            adapted = _ADAPTED[transfer.tokens](mixing, old, new)
            found |= {
                name: adapted[short] for short, name in zip(_TOKEN_MIXING, names, strict=True)
            }
    if any(found[name] is not arrays[name] for name in arrays):
        notes.append(
            f'token mixing of {_grids_text(old)} tokens made for {_grids_text(new)} by '
            f'config.transfer.tokens = {transfer.tokens!r}'
        )
    return found


def _is_of(mixing: dict[str, np.ndarray | None], tokens: int) -> bool:
    """Whether the four arrays of a token mixing MLP are those of that many tokens."""
    first = mixing['Dense_0/kernel']
    if first is None or first.ndim != 2:
        return False
    width = first.shape[1]
    shapes = (tokens, width), (width,), (width, tokens), (tokens,)
    return all(
        mixing[name] is not None and mixing[name].shape == shape
        for name, shape in zip(_TOKEN_MIXING, shapes, strict=True)
    )


def _grids_of(branches: tuple[Patches, ...], join: str, image_size: Pair) -> tuple[Pair, ...]:
    """The grids of tokens, one after another, that a stem makes."""
    grids = tuple(patches.grid(image_size) for patches in branches)
    return grids if join == 'tokens' else grids[:1]


def _known_grids(weights: Weights) -> tuple[Pair, ...] | None:
    """The grids that weights were trained on, if their file says so."""
    if not (weights.model and weights.image_size):
        return None
    model = resolve({'model': weights.model}, warn=False).model
    return _grids_of(patch_branches(model), model.branch_merge, tuple(weights.image_size))


def _square_grid(weights: Weights, new: tuple[Pair, ...], file: str) -> tuple[Pair, ...]:
    """The grid of as many tokens as weights mix; `new` if it has as many, or they mix none."""
    shapes = {name: array.shape for name, array in weights.arrays.items()}
    tokens = sizes(shapes).get('num_tokens')
    if tokens is None or tokens == sum(math.prod(grid) for grid in new):
        return new
    side = math.isqrt(tokens)
    several = any(name.startswith('stem_') for name in shapes)
    if several or side * side != tokens:
        why = 'are of several branches' if several else 'are no square'
        raise UserError(
            f'{file}: mixes {tokens} tokens, which {why}, and does not say their grid; '
            'take weights that do: the folder of a run, or a .safetensors file made from one'
        )
    return ((side, side),)


def _grids_text(grids: tuple[Pair, ...]) -> str:
    return ' and '.join('×'.join(map(str, grid)) for grid in grids)
