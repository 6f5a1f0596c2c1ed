"""In what two configs differ, and which of it a run may go on with."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from mixer_dilated.config import changed, flat
from mixer_dilated.config_keys import RUNTIME_ONLY_KEYS
from mixer_dilated.dataset_names import split_path


def differences(one: Mapping, other: Mapping) -> list[str]:
    """'key: this value, that value' of the keys in which two configs differ; not of
    `RUNTIME_ONLY_KEYS`, nor of `transfer` where nothing is transferred."""
    one, other = flat(one), flat(other)
    ignored = {*RUNTIME_ONLY_KEYS}
    if not one.get('init_from') and not other.get('init_from'):
        ignored |= {path for path in (*one, *other) if path.startswith('transfer.')}
    return [
        f'{path}: {one.get(path)!r}, {other.get(path)!r}'
        for path in sorted({*one, *other} - ignored)
        if one.get(path) != other.get(path)
    ]


def changes_on_resume(recorded: ConfigDict, config: ConfigDict) -> dict[str, object]:
    """{key: value} of `config` with which a run of another one may go on: data may lie elsewhere,
    and a run have more epochs whose learning rate does not depend on their number."""
    kind, path = split_path(config.dataset.name)
    kind_before, path_before = split_path(recorded.dataset.name)
    changes = {}
    if kind and kind == kind_before and path != path_before:
        changes['dataset.name'] = config.dataset.name
    endless = config.optimizer.decay_type in ('constant', 'rsqrt')
    by_epochs = not (config.total_steps or recorded.total_steps)
    if config.num_epochs > recorded.num_epochs and endless and by_epochs:
        changes['num_epochs'] = config.num_epochs
    return changes


def differences_on_resume(recorded: ConfigDict, config: ConfigDict) -> list[str]:
    """`differences` without `changes_on_resume`."""
    return differences(changed(recorded, changes_on_resume(recorded, config)), config)
