"""Every configuration key: its default, what it may be, what it means.

A config file starts from `base_config()` and changes the keys in which its experiment differs.
`resolve` turns what came out of the file and the command line into a checked, complete config.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from mixer_dilated.errors import InputError
from mixer_dilated.patches.geometry import Patches


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a value may be: the phrase that messages use, and the test."""

    allowed: str
    test: Callable[[Any], bool]


def _number(value) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _whole(minimum: int) -> Kind:
    return Kind(
        f'a whole number from {minimum} to 2147483647',
        lambda v: type(v) is int and minimum <= v < 2**31,
    )


def _one_of(*words: str) -> Kind:
    listed = ', '.join(repr(word) for word in words)
    return Kind(f'one of {listed}', lambda v: v in words)


_AT_LEAST_0 = Kind('a number of at least 0', lambda v: _number(v) and v >= 0)
_ABOVE_0 = Kind('a number above 0', lambda v: _number(v) and v > 0)
_SHARE = Kind('a number from 0 up to but without 1', lambda v: _number(v) and 0 <= v < 1)
_TEXT = Kind('text', lambda v: type(v) is str)
_NAME = Kind('text that is not empty', lambda v: type(v) is str and v.strip() != '')
# The geometry itself says what is allowed, and refuses the rest by name and value.
_GEOMETRY = Kind('see Patches', lambda v: True)

Key = tuple[Any, Kind, str]

KEYS: dict[str, Key] = {
    'seed': (0, _whole(0), 'everything random comes from it'),
    'num_epochs': (10, _whole(1), 'passes over the training examples'),
    'batch': (128, _whole(1), 'training examples a step'),
    'batch_eval': (512, _whole(1), 'examples a step of the evaluation, rounded up to the devices'),
    'dataset.name': ('mnist', _NAME, "'digits' (embedded), or a TFDS image classification set"),
    'dataset.train_split': ('train[:10000]', _NAME, 'training examples, in TFDS split syntax'),
    'dataset.test_split': ('test[:2500]', _NAME, 'evaluation examples, in TFDS split syntax'),
    'dataset.data_dir': ('', _TEXT, "where prepared data lies; '' is TFDS_DATA_DIR or TFDS's own"),
    'dataset.cache_dir': ('', _TEXT, "where decoded images are kept; '' is the user's cache"),
    'model.patches.size': (4, _GEOMETRY, 'P: pixels sampled a side; a number or (height, width)'),
    'model.patches.dilation': (1, _GEOMETRY, 'pixels from one sample to the next'),
    'model.patches.stride': (4, _GEOMETRY, 'pixels from one patch to the next'),
    'model.patches.padding': (
        'VALID',
        _GEOMETRY,
        "'VALID', 'SAME' or ((top, bottom), (left, right))",
    ),
    'model.branches': (
        (),
        _GEOMETRY,
        'several kinds of patches: a tuple of dicts, each what differs from model.patches',
    ),
    'model.join': (
        'channels',
        _one_of('channels', 'tokens'),
        'whether branches share tokens or add tokens',
    ),
    'model.num_blocks': (4, _whole(1), 'Mixer layers'),
    'model.hidden_dim': (64, _whole(1), 'C: channels of a token'),
    'model.tokens_mlp_dim': (64, _whole(1), 'hidden width of the token mixing MLP'),
    'model.channels_mlp_dim': (128, _whole(1), 'hidden width of the channel mixing MLP'),
    'model.dropout_rate': (0.0, _SHARE, 'share dropped in every MLP while training'),
    'model.gelu': (
        'exact',
        _one_of('exact', 'tanh'),
        'erf form, or the approximation the original was trained with',
    ),
    'optimizer.name': ('adamw', _one_of('adamw', 'sgd', 'lamb'), 'sgd has momentum'),
    'optimizer.base_lr': (0.01, _ABOVE_0, 'learning rate after warm-up'),
    'optimizer.decay_type': (
        'cosine',
        _one_of('constant', 'cosine', 'linear'),
        'how the learning rate falls; cosine and linear end at 0',
    ),
    'optimizer.warmup_steps': (0, _whole(0), 'steps of linear warm-up from 0'),
    'optimizer.weight_decay': (0.1, _AT_LEAST_0, 'on kernels; never on biases and LayerNorm'),
    'optimizer.momentum': (0.9, _SHARE, 'of sgd'),
    'optimizer.grad_norm_clip': (0.0, _AT_LEAST_0, 'largest global gradient norm; 0 is no limit'),
    'label_smoothing': (0.0, _SHARE, 'share of a label spread over all classes'),
    'augment.shift': (0, _whole(0), 'random shift of training images, pixels either way'),
    'checkpoints.keep': (2, _whole(1), 'newest checkpoints kept'),
}

# Two runs may differ in these and be the same run: they say where things lie, not what is computed.
NOT_PART_OF_THE_RESULT = (
    'dataset.data_dir',
    'dataset.cache_dir',
    'batch_eval',
    'checkpoints.keep',
)


def base_config() -> ConfigDict:
    """All keys with their defaults, for a config file to change.

    The fields are untyped on purpose (an int may become a pair, 1 a 1.0): `resolve` checks every
    value, so that each refusal reads alike wherever the value came from.
    """
    return ConfigDict(
        nested({path: FieldReference(key[0], field_type=object) for path, key in KEYS.items()})
    )


def complete(config: Mapping) -> ConfigDict:
    """`base_config()` with the values of `config`; raises InputError at an unknown key."""
    completed = base_config()
    for path, value in _leaves(config):
        check_key(path)
        *parents, name = path.split('.')
        node = completed
        for parent in parents:
            node = node[parent]
        node[name] = value
    return completed


def resolve(config: Mapping) -> ConfigDict:
    """Checks a config and completes it.

    Args:
      config: nested mapping; keys it lacks take their defaults.

    Returns:
      A locked ConfigDict of plain values, every key present.

    Raises:
      InputError: an unknown key (its nearest neighbour is named), a value that is not allowed, or
        patches that cannot be.
    """
    values = dict(_leaves(config))
    for path in values:
        check_key(path)
    for path, (default, kind, _) in KEYS.items():
        value = values[path] = _plain(values.get(path, default))
        if not kind.test(value):
            raise InputError(f'config.{path} = {value!r}: allowed is {kind.allowed}')
        if type(default) is float:
            values[path] = float(value)
    resolved = ConfigDict(nested(values))
    try:
        # The geometry's own spelling, so that 4 and (4, 4), valid and VALID are the same run.
        resolved.model.patches = dataclasses.asdict(Patches(**resolved.model.patches.to_dict()))
        patch_branches(resolved.model)
    except InputError as error:
        raise InputError(f'config.model.{error}') from None
    return resolved.lock()


def check_key(path: str) -> None:
    """Raises InputError, naming the nearest known key, if `path` is not a key of the config."""
    if path in KEYS:
        return
    sections = {'.'.join(known.split('.')[:depth]) for known in KEYS for depth in (1, 2, 3)}
    if path in sections:
        inside = ', '.join(known for known in KEYS if known.startswith(f'{path}.'))
        raise InputError(f'config.{path} is a group of keys, not a value; set one of {inside}')
    last = path.rsplit('.', 1)[-1]
    same_name = [known for known in KEYS if known.rsplit('.', 1)[-1] == last]
    near = difflib.get_close_matches(path, same_name or KEYS, n=1, cutoff=0.0)[0]
    # repr: a name may hold anything, a message is one line.
    shown = repr(path)[1:-1]
    raise InputError(f'config.{shown}: no such key; did you mean config.{near}?')


def patch_branches(model: ConfigDict) -> tuple[Patches, ...]:
    """The patch geometries of `config.model`: `patches` alone, or one for each of `branches`.

    Raises:
      InputError: a geometry that cannot be, or a branch that is not a dict of patch keys.
    """
    common = model.patches.to_dict()
    branches = model.branches
    if not isinstance(branches, tuple) or not all(isinstance(b, dict) for b in branches):
        raise InputError(
            f'branches = {branches!r}: allowed is a tuple of dicts, like '
            "({'dilation': 1}, {'dilation': 2})"
        )
    for branch in branches:
        for name in branch:
            if name not in common:
                raise InputError(f'branches: no such key {name!r}; allowed are {", ".join(common)}')
    if not branches:
        return (Patches(**common),)
    try:
        return tuple(Patches(**{**common, **branch}) for branch in branches)
    except InputError as error:
        raise InputError(f'branches = {branches!r}: {error}') from None


def differences(one: Mapping, other: Mapping) -> list[str]:
    """Keys in which two configs differ, as 'key: this value, that value'.

    Keys that are `NOT_PART_OF_THE_RESULT` are left out.
    """
    one, other = dict(_leaves(one)), dict(_leaves(other))
    return [
        f'{path}: {_plain(one.get(path))!r}, {_plain(other.get(path))!r}'
        for path in sorted({*one, *other} - {*NOT_PART_OF_THE_RESULT})
        if _plain(one.get(path)) != _plain(other.get(path))
    ]


def nested(flat: Mapping) -> dict:
    """{'model.hidden_dim': 8} as {'model': {'hidden_dim': 8}}."""
    tree = {}
    for path, value in flat.items():
        *parents, name = path.split('.')
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def _leaves(config: Mapping, prefix: str = ''):
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict) and len(value):
            yield from _leaves(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def _plain(value):
    """Lists, as JSON has them, are tuples here; ConfigDicts inside them are dicts."""
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping | ConfigDict):
        return {name: _plain(item) for name, item in value.items()}
    return value
