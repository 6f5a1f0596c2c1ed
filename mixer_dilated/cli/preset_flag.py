"""`--config.model=NAME`: a preset in place of the network of a config file."""

import warnings
from collections.abc import Collection

import ml_collections

from mixer_dilated.config import complete, flat
from mixer_dilated.config_keys import preset_values


def take_preset(argv: list[str]) -> tuple[str, list[str]]:
    """The preset that --config.model=NAME names, or '', and the words without it.

    The keys of `config.model` that are overridden beside it change the preset, in any order.
    """
    flag = '--config.model='
    named = [word.removeprefix(flag) for word in argv if word.startswith(flag)]
    return named[-1] if named else '', [word for word in argv if not word.startswith(flag)]


def warn_of_dropped(
    base: ml_collections.ConfigDict, preset: str, overridden: Collection[str]
) -> None:
    """Warns of what a file says of the network that a preset named beside it does away with.

    Args:
      base: the file's config.
      preset: the name.
      overridden: keys that are given beside it.
    """
    named = complete({'model': preset})
    dropped = [
        f'config.{path} = {value!r}'
        for path, value in flat(base).items()
        if path.startswith('model.') and path not in flat({'model': preset_values(preset)})
        if value != flat(named)[path] and path not in overridden
    ]
    if dropped:
        warnings.warn(
            f'--config.model={preset} takes the place of {", ".join(dropped)} in the file; give '
            'them beside it to keep them',
            stacklevel=3,
        )
