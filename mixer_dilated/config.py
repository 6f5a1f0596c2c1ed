"""Configs: the base with every key of `config_keys`, and what validates the changes to it.

A config file starts from `base_config()` and changes the keys in which its experiment differs.
`resolve` turns what comes out of the file and the command line into a validated, complete config.
"""

import dataclasses
import difflib
import itertools
import warnings
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict, FieldReference

from mixer_dilated.config_keys import ALIASES, KEYS, PRESETS, preset_values
from mixer_dilated.config_synonyms import SYNONYMS
from mixer_dilated.errors import UserError
from mixer_dilated.patches.auto import auto_patches
from mixer_dilated.patches.geometry import Pair, Patches, integer_pair
from mixer_dilated.recorded_gelu import recorded_gelu

STRIDE = 'model.patches.stride'
# What `model.patches = 'auto'` sets until `fit_patches` knows the size of the images.
AUTO = {path: key.default for path, key in KEYS.items() if path.startswith('model.patches.')}
AUTO |= {'model.branches': (), STRIDE: 'auto'}


def base_config() -> ConfigDict:
    """All keys with their defaults, for a config file to change.

    The fields are untyped on purpose (an int may become a pair; in place of a float ml_collections
    would take True for 1.0): `resolve` validates every value, so that each error reads alike
    wherever the value comes from.
    """
    fields = {path: FieldReference(key.default, field_type=object) for path, key in KEYS.items()}
    # Not type safe, so that a preset's name can take the place of all keys of `model`.
    return ConfigDict(nested(fields), type_safe=False)


def preset(name: str) -> ConfigDict:
    """All keys of `config.model` as one of `PRESETS` has them: `config.model = preset('B/16')`, for
    a file to change. Raises UserError if there is no such preset."""
    model = base_config().model
    model.update(preset_values(name))
    return model


def resolve(config: Mapping, *, warn: bool = True) -> ConfigDict:
    """Validates a config, nested or of dotted keys, and completes it with defaults; locked.

    Old names of keys are a warning, unless `warn` is False, as for files of earlier versions.

    Raises:
      UserError: an unknown key (its nearest neighbour is named), a value that is not allowed, or
        values that are not allowed together.
    """
    values = {path: key.default for path, key in KEYS.items()} | flat_keys(config, warn=warn)
    validate(values)
    floats = (path for path, key in KEYS.items() if type(key.default) is float)
    tree = nested(values | {path: float(values[path]) for path in floats})
    model = tree['model']
    try:
        if is_auto(model):
            _validate_auto(values)
        else:
            # The geometry's own spelling, so that 4 and (4, 4), valid and VALID are the same run.
            model['patches'] = dataclasses.asdict(Patches(**model['patches']))
            patch_branches(ConfigDict(model))
        model['phases'] = integer_pair('phases', model['phases'], 1)
    except UserError as error:
        raise UserError(f'config.model.{error}') from None
    if model['gelu'] == 'auto':
        model['gelu'] = recorded_gelu(tree['init_from']) or 'exact'
    _validate_together(model, tree['optimizer'], tree['augment'])
    return ConfigDict(tree).lock()


def changed(config: Mapping, changes: Mapping) -> ConfigDict:
    """`config` with other values of some keys, {'model.patches.size': 4, …}, as `resolve` has it.

    'model' may be the name of a preset, which the other keys change. Epochs that are changed alone
    count, whatever the `total_steps` before.
    """
    values = flat_keys(config)
    if 'num_epochs' in changes:
        values['total_steps'] = 0
    if isinstance(changes.get('model'), str):
        values = {path: value for path, value in values.items() if not path.startswith('model.')}
    return resolve(values | flat_keys(changes))


def is_auto(model: Mapping) -> bool:
    """Whether the patches follow from the size of the images, which `fit_patches` knows."""
    return model['patches']['stride'] == 'auto'


def fit_patches(config: ConfigDict, image_size: Pair) -> ConfigDict:
    """The config with patches in numbers for images of (height, width) pixels, if they are auto."""
    if not is_auto(config.model):
        return config
    return changed(config, auto_patches(image_size, config.model.max_tokens))


def flat_keys(config: Mapping, *, warn: bool = True) -> dict:
    """{path: value} of a config by the current names of its keys; presets and 'auto' expanded.

    Raises:
      UserError: an unknown key or preset, or a key that has different values under both names.
    """
    values = flat(config)
    if values.get('model.patches') == 'auto':
        del values['model.patches']
        for path in [path for path in values if path.startswith('model.patches.')]:
            raise UserError(f"config.{path}: config.model.patches = 'auto' sets it; leave one out")
        values = AUTO | values
    if isinstance(values.get('model'), str):
        values = flat({'model': preset_values(values.pop('model'))}) | values
    values = _rename_keys(values, warn=warn)
    for path in values:
        check_key(path)
    return values


def _rename_keys(values: Mapping, *, warn: bool) -> dict:
    renamed = dict(values)
    for old in [old for old in ALIASES if old in values]:
        new, value = ALIASES[old], renamed.pop(old)
        if warn:
            change = f'now config.{new}' if new else 'gone, and has no effect'
            warnings.warn(f'config.{old} is {change}', stacklevel=2)
        if new and renamed.setdefault(new, value) not in (KEYS[new].default, value):
            today = f'config.{new}, its name today, is {renamed[new]!r}'
            raise UserError(f'config.{old} = {value!r}: {today}; set that one alone')
        if new:
            renamed[new] = value
    return renamed


def check_key(path: str) -> None:
    """Raises UserError, naming the nearest known key, if `path` is not a key of the config."""
    if path in KEYS:
        return
    sections = {'.'.join(known.split('.')[:depth]) for known in KEYS for depth in (1, 2, 3)}
    if path in sections:
        inside = ', '.join(known for known in KEYS if known.startswith(f'{path}.'))
        words = {'model': f', or name a preset: {", ".join(PRESETS)}'}
        words['model.patches'] = ", or config.model.patches to 'auto'"
        word = words.get(path, '')
        raise UserError(f'config.{path} is a group of keys; set one of {inside}{word}')
    last = path.rsplit('.', 1)[-1]
    if last in ('num_classes', 'classes', 'n_classes', 'nb_classes'):
        raise UserError(f'config.{path}: no such key; the data set has the number of classes')
    synonym = [SYNONYMS[last]] if last in SYNONYMS else []
    same_name = [known for known in KEYS if known.rsplit('.', 1)[-1] == last]
    known = (path in SYNONYMS and synonym) or same_name or synonym or (*KEYS, *sections)
    nearest = difflib.get_close_matches(path, known, n=1, cutoff=0.0)[0]
    # repr: a name may hold anything, a message is one line.
    raise UserError(f'config.{repr(path)[1:-1]}: no such key; did you mean config.{nearest}?')


def validate(values: Mapping) -> None:
    """Raises UserError unless every {path: value} is a key with a value that it can have.

    Values that are not allowed together are an error of `resolve`.
    """
    for path, value in values.items():
        check_key(path)
        value, allowed = _plain(value), KEYS[path].allowed
        if not allowed.test(value):
            raise UserError(f'config.{path} = {value!r}: allowed is {allowed.text}')


def _validate_auto(values: Mapping) -> None:
    for path, only in {**AUTO, 'model.branch_merge': 'channels'}.items():
        if values[path] != only:
            given = f'{path.removeprefix("model.")} = {values[path]!r}'
            hint = 'leave it out, or make the stride a number'
            raise UserError(f"{given}: with {STRIDE} = 'auto' allowed is {only!r}; {hint}")


def _validate_together(model: Mapping, optimizer: Mapping, augment: Mapping) -> None:
    key, hint = '', ''
    if optimizer['freeze_blocks'] > model['num_blocks']:
        key, hint = 'freeze_blocks', f'allowed is at most model.num_blocks, {model["num_blocks"]}'
    if optimizer['end_lr'] > optimizer['base_lr']:
        key, hint = 'end_lr', f'allowed is at most optimizer.base_lr, {optimizer["base_lr"]}'
    if optimizer['name'] == 'lamb' and optimizer['momentum_dtype'] != 'float32':
        key, hint = 'momentum_dtype', "of lamb allowed is 'float32'; or set another optimizer.name"
    if key:
        raise UserError(f'config.optimizer.{key} = {optimizer[key]!r}: {hint}')
    if not augment['random_phase']:
        return
    if is_auto(model):
        hint = "it needs one grid, 'auto' has two; set config.model.patches in numbers"
    elif model['branches']:
        hint = 'it needs the one grid of config.model.patches; leave config.model.branches out'
    elif model['phases'] != (1, 1):
        hint = 'it needs one phase at a time; leave config.model.phases at 1'
    elif model['patches']['dilation'] == (1, 1):
        hint = 'dilation 1 has one phase; set config.model.patches.dilation to 2 or more'
    if hint:
        raise UserError(f'config.augment.random_phase = True: {hint}, or this at False')


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
    """Which pixels at least one token sees, at any of `num_phases`: bool (height, width)."""
    height, width = image_size
    branches = patch_branches(config.model)
    at_rest = np.any([patches.coverage(image_size) > 0 for patches in branches], axis=0)
    seen = np.zeros_like(at_rest)
    # An image that is moved up shows its tokens what was further down.
    for down, right in np.ndindex(num_phases(config)):
        seen[down:, right:] |= at_rest[: height - down, : width - right]
    return seen


def nested(values: Mapping) -> dict:
    """{'model.hidden_dim': 8} as {'model': {'hidden_dim': 8}}."""
    tree = {}
    for path, value in values.items():
        *parents, name = path.split('.')
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def flat(config: Mapping) -> dict:
    """{'model': {'hidden_dim': 8}} as {'model.hidden_dim': 8}, of plain values."""
    leaves = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict) and len(value):
            leaves |= {f'{name}.{path}': leaf for path, leaf in flat(value).items()}
        else:
            leaves[str(name)] = _plain(value)
    return leaves


def _plain(value):
    """Lists, as JSON has them, as tuples; ConfigDicts inside them as dicts."""
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping | ConfigDict):
        return {name: _plain(item) for name, item in value.items()}
    return value
