"""Configs: the base with every key of `config_keys`, and what validates the changes to it.

A config file starts from `base_config()` and changes the keys in which its experiment differs.
`resolve` turns what comes out of the file and the command line into a validated, complete config.
"""

import dataclasses
import difflib
import itertools
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
from ml_collections import ConfigDict, FieldReference

from mixer_dilated.config_keys import ALIASES, KEYS, PRESETS, RUNTIME_ONLY_KEYS, preset_values
from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Pair, Patches, integer_pair


def base_config() -> ConfigDict:
    """All keys with their defaults, for a config file to change.

    The fields are untyped on purpose (an int may become a pair, 1 a 1.0): `resolve` validates
    every value, so that each refusal reads alike wherever the value came from.
    """
    fields = {path: FieldReference(key.default, field_type=object) for path, key in KEYS.items()}
    # Not type safe, so that a preset's name can take the place of all keys of `model`.
    return ConfigDict(nested(fields), type_safe=False)


def preset(name: str) -> ConfigDict:
    """All keys of `config.model` as a preset of the Mixer paper has them, for a file to change.

        config.model = preset('B/16')
        config.model.patches.dilation = 2

    `config.model = 'B/16'` does for a config that changes nothing in it.

    Args:
      name: one of `config_keys.PRESETS`.

    Raises:
      UserError: no such preset.
    """
    return complete({'model': name}).model


def complete(config: Mapping) -> ConfigDict:
    """`base_config()` with the values of `config`; raises UserError at an unknown key."""
    completed = base_config()
    for path, value in _known_leaves(config).items():
        *parents, name = path.split('.')
        node = completed
        for parent in parents:
            node = node[parent]
        node[name] = value
    return completed


def resolve(config: Mapping, *, warn: bool = True) -> ConfigDict:
    """Validates a config and completes it.

    Args:
      config: nested mapping; keys it lacks take their defaults.
      warn: whether old names of keys are a warning; not so in files of earlier versions.

    Returns:
      A locked ConfigDict of plain values, every key present.

    Raises:
      UserError: an unknown key (its nearest neighbour is named), a value that is not allowed, or
        patches that cannot be.
    """
    values = _known_leaves(config, warn=warn)
    for path, key in KEYS.items():
        value = values[path] = _plain(values.get(path, key.default))
        check_value(path, value)
        if type(key.default) is float:
            values[path] = float(value)
    tree = nested(values)
    model = tree['model']
    try:
        # The geometry's own spelling, so that 4 and (4, 4), valid and VALID are the same run.
        model['patches'] = dataclasses.asdict(Patches(**model['patches']))
        patch_branches(ConfigDict(model))
        model['phases'] = integer_pair('phases', model['phases'], 1)
    except UserError as error:
        raise UserError(f'config.model.{error}') from None
    if model['gelu'] == 'auto':
        model['gelu'] = 'tanh' if tree['init_from'].endswith('.npz') else 'exact'
    freeze_blocks = tree['optimizer']['freeze_blocks']
    if freeze_blocks > model['num_blocks']:
        raise UserError(
            f'config.optimizer.freeze_blocks = {freeze_blocks}: the network has '
            f'{model["num_blocks"]}; allowed is at most that'
        )
    if tree['augment']['random_phase']:
        _check_random_phase(model)
    return ConfigDict(tree).lock()


def _known_leaves(config: Mapping, *, warn: bool = True) -> dict:
    """{path: value} of a config by today's names of the keys, a preset's name expanded."""
    if isinstance(config.get('model'), str):
        config = {**config, 'model': preset_values(config['model'])}
    values = rename_keys(flat(config), warn=warn)
    for path in values:
        check_key(path)
    return values


def rename_keys(values: Mapping, *, warn: bool = True) -> dict:
    """{path: value} with old names of keys (`ALIASES`) replaced, with a warning if asked for.

    Raises:
      UserError: a key has different values under both names.
    """
    renamed = dict(values)
    for old, new in ALIASES.items():
        if old not in renamed:
            continue
        value = renamed.pop(old)
        if warn:
            change = f'now config.{new}' if new else 'gone, and has no effect'
            warnings.warn(f'config.{old} is {change}', stacklevel=2)
        if new is None:
            continue
        if renamed.get(new, KEYS[new].default) not in (KEYS[new].default, value):
            raise UserError(
                f'config.{old} = {value!r}: config.{new}, its name today, is {renamed[new]!r}; '
                'set that one alone'
            )
        renamed[new] = value
    return renamed


def _check_random_phase(model: Mapping) -> None:
    if model['branches']:
        needed = 'it needs the one grid of config.model.patches; leave config.model.branches out'
    elif model['phases'] != (1, 1):
        needed = 'it needs one phase at a time; leave config.model.phases at 1'
    elif model['patches']['dilation'] == (1, 1):
        needed = 'dilation 1 has one phase; set config.model.patches.dilation to 2 or more'
    else:
        return
    raise UserError(f'config.augment.random_phase = True: {needed}, or this at False')


def check_key(path: str) -> None:
    """Raises UserError, naming the nearest known key, if `path` is not a key of the config."""
    if path in KEYS:
        return
    sections = {'.'.join(known.split('.')[:depth]) for known in KEYS for depth in (1, 2, 3)}
    if path in sections:
        inside = ', '.join(known for known in KEYS if known.startswith(f'{path}.'))
        preset = f', or name a preset: {", ".join(PRESETS)}' if path == 'model' else ''
        raise UserError(
            f'config.{path} is a group of keys, not a value; set one of {inside}{preset}'
        )
    last = path.rsplit('.', 1)[-1]
    same_name = [known for known in KEYS if known.rsplit('.', 1)[-1] == last]
    nearest = difflib.get_close_matches(path, same_name or KEYS, n=1, cutoff=0.0)[0]
    # repr: a name may hold anything, a message is one line.
    raise UserError(f'config.{repr(path)[1:-1]}: no such key; did you mean config.{nearest}?')


def check_value(path: str, value) -> None:
    """Raises UserError if a key of the config cannot have the value, whatever the others have."""
    value, allowed = _plain(value), KEYS[path].allowed
    if not allowed.test(value):
        raise UserError(f'config.{path} = {value!r}: allowed is {allowed.text}')


def patch_branches(model: ConfigDict) -> tuple[Patches, ...]:
    """The patch geometries of `config.model`: `patches` or each of `branches`, in all its phases.

    Raises:
      UserError: a geometry that cannot be, a branch with a key that patches lack, or more phases
        than the dilation of a branch.
    """
    common = model.patches.to_dict()
    branches = model.branches
    for name in itertools.chain(*branches):
        if name not in common:
            raise UserError(f'branches: no such key {name!r}; allowed are {", ".join(common)}')
    try:
        geometries = [Patches(**{**common, **branch}) for branch in branches or ({},)]
    except UserError as error:
        raise UserError(f'branches = {branches!r}: {error}' if branches else str(error)) from None
    return tuple(phase for patches in geometries for phase in patches.phases(model.phases))


def num_phases(config: ConfigDict) -> Pair:
    """Phases along (height, width) of the dilated grid, one a step in training and all of them at
    evaluation; (1, 1) without `augment.random_phase`."""
    return config.model.patches.dilation if config.augment.random_phase else (1, 1)


def pixels_seen(config: ConfigDict, image_size: Pair) -> np.ndarray:
    """Which pixels at least one token sees, at any of `num_phases`: bool (height, width).

    Args:
      config: a resolved config.
      image_size: (height, width) in pixels.
    """
    height, width = image_size
    branches = patch_branches(config.model)
    at_rest = np.any([patches.coverage(image_size) > 0 for patches in branches], axis=0)
    seen = np.zeros_like(at_rest)
    # An image that is moved up shows its tokens what was further down.
    for down, right in itertools.product(*map(range, num_phases(config))):
        seen[down:, right:] |= at_rest[: height - down, : width - right]
    return seen


def differences(one: Mapping, other: Mapping) -> list[str]:
    """Keys in which two configs differ, as 'key: this value, that value'.

    Keys of `RUNTIME_ONLY_KEYS` are left out.
    """
    one, other = flat(one), flat(other)
    return [
        f'{path}: {_plain(one.get(path))!r}, {_plain(other.get(path))!r}'
        for path in sorted({*one, *other} - {*RUNTIME_ONLY_KEYS})
        if _plain(one.get(path)) != _plain(other.get(path))
    ]


def changed(config: ConfigDict, changes: Mapping) -> ConfigDict:
    """`config` with other values of some keys, resolved.

    Args:
      config: as `resolve` takes it.
      changes: {'model.patches.size': 4, …}; 'model' may be the name of a preset, which the other
        keys change.

    Raises:
      UserError: as `resolve`.
    """
    changes = rename_keys(changes)
    values = config.to_dict()
    if 'model' in changes:
        values['model'] = preset_values(changes.pop('model'))
    return resolve(_merge(values, nested(changes)))


def _merge(values: dict, changes: dict) -> dict:
    """`values` with `changes`, both nested; a dict of keys is merged, anything else replaced."""
    merged = dict(values)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


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


def flat(config: Mapping) -> dict:
    """{'model': {'hidden_dim': 8}} as {'model.hidden_dim': 8}."""
    return dict(_leaves(config))


def _leaves(config: Mapping, prefix: str = '') -> Iterator[tuple]:
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
