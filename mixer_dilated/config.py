"""Configs: the base with every key of `config_keys`, and the check of what a person made of it.

A config file starts from `base_config()` and changes the keys in which its experiment differs.
`resolve` turns what came out of the file and the command line into a checked, complete config.
"""

import dataclasses
import difflib
import itertools
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict, FieldReference

from mixer_dilated.config_keys import KEYS, PRESETS, RUNTIME_ONLY_KEYS, preset_values
from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Pair, Patches, whole_pair


def base_config() -> ConfigDict:
    """All keys with their defaults, for a config file to change.

    The fields are untyped on purpose (an int may become a pair, 1 a 1.0): `resolve` checks every
    value, so that each refusal reads alike wherever the value came from.
    """
    fields = {path: FieldReference(key[0], field_type=object) for path, key in KEYS.items()}
    # Not type safe, so that a preset's name can take the place of all keys of `model`.
    return ConfigDict(nested(fields), type_safe=False)


def preset(name: str) -> ConfigDict:
    """All keys of `config.model` as a preset of the Mixer paper has them, for a file to change.

        config.model = preset('B/16')
        config.model.patches.dilation = 2

    `config.model = 'B/16'` does for a config that changes nothing in it.

    Args:
      name: one of `presets.PRESETS`.

    Raises:
      UserError: no such preset.
    """
    return complete({'model': name}).model


def complete(config: Mapping) -> ConfigDict:
    """`base_config()` with the values of `config`; raises UserError at an unknown key."""
    completed = base_config()
    for path, value in _leaves(_with_preset(config)):
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
      UserError: an unknown key (its nearest neighbour is named), a value that is not allowed, or
        patches that cannot be.
    """
    values = dict(_leaves(_with_preset(config)))
    for path in values:
        check_key(path)
    for path, (default, _, _) in KEYS.items():
        value = values[path] = _plain(values.get(path, default))
        check_value(path, value)
        if type(default) is float:
            values[path] = float(value)
    tree = nested(values)
    model = tree['model']
    try:
        # The geometry's own spelling, so that 4 and (4, 4), valid and VALID are the same run.
        model['patches'] = dataclasses.asdict(Patches(**model['patches']))
        phases = whole_pair('phases', model['phases'], 1)
        patch_branches(ConfigDict(model))
        model['phases'] = phases
    except UserError as error:
        raise UserError(f'config.model.{error}') from None
    if model['gelu'] == 'auto':
        model['gelu'] = 'tanh' if tree['init_from'].endswith('.npz') else 'exact'
    frozen = tree['optimizer']['freeze_blocks']
    if frozen > model['num_blocks']:
        raise UserError(
            f'config.optimizer.freeze_blocks = {frozen}: the network has {model["num_blocks"]}; '
            'allowed is at most that'
        )
    if tree['augment']['random_phase']:
        _check_random_phase(model)
    return ConfigDict(tree).lock()


def _with_preset(config: Mapping) -> dict:
    """`config` with the keys of a preset where `model` is its name."""
    named = isinstance(config.get('model'), str)
    return {**config, **({'model': preset_values(config['model'])} if named else {})}


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
    near = difflib.get_close_matches(path, same_name or KEYS, n=1, cutoff=0.0)[0]
    # repr: a name may hold anything, a message is one line.
    shown = repr(path)[1:-1]
    raise UserError(f'config.{shown}: no such key; did you mean config.{near}?')


def check_value(path: str, value) -> None:
    """Raises UserError if a key of the config cannot have the value, whatever the others have."""
    value = _plain(value)
    _, kind, _ = KEYS[path]
    if not kind.test(value):
        raise UserError(f'config.{path} = {value!r}: allowed is {kind.allowed}')
    *_, section, name = ('', *path.split('.'))
    try:
        if section == 'patches':
            Patches(**{'size': 1, name: value})
        elif name == 'phases':
            whole_pair(name, value, 1)
    except UserError as error:
        raise UserError(f'config.model.{error}') from None


def patch_branches(model: ConfigDict) -> tuple[Patches, ...]:
    """The patch geometries of `config.model`: `patches` or each of `branches`, in all its phases.

    Raises:
      UserError: a geometry that cannot be, a branch with a key that patches lack, or more phases
        than the dilation of a branch.
    """
    common = model.patches.to_dict()
    branches = model.branches
    for branch in branches:
        for name in branch:
            if name not in common:
                raise UserError(f'branches: no such key {name!r}; allowed are {", ".join(common)}')
    try:
        kinds = [Patches(**{**common, **branch}) for branch in branches or ({},)]
    except UserError as error:
        raise UserError(f'branches = {branches!r}: {error}' if branches else str(error)) from None
    return tuple(phase for kind in kinds for phase in kind.phases(model.phases))


def num_phases(config: ConfigDict) -> Pair:
    """Phases along (height, width) that an image is shown at, one in training and all of them at
    evaluation; (1, 1) without `augment.random_phase`."""
    return config.model.patches.dilation if config.augment.random_phase else (1, 1)


def pixels_seen(config: ConfigDict, image_size: Pair) -> np.ndarray:
    """Which pixels at least one token sees, at whatever phase images are shown.

    Args:
      config: a resolved config; with `augment.random_phase` all phases count.
      image_size: (height, width) in pixels.

    Returns:
      bool (height, width).
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

    Keys that are `RUNTIME_ONLY_KEYS` are left out.
    """
    one, other = dict(_leaves(one)), dict(_leaves(other))
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
    changes = dict(changes)
    values = config.to_dict()
    if 'model' in changes:
        values = _with_preset({**values, 'model': changes.pop('model')})
    return resolve(_merged(values, nested(changes)))


def _merged(values: dict, changes: dict) -> dict:
    """`values` with `changes`, both nested; a dict of keys is merged, anything else replaced."""
    merged = dict(values)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
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
