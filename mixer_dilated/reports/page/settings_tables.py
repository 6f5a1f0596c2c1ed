"""Settings as tables: what the runs of a report share, and what differs between them."""

import functools
from collections.abc import Sequence

import ml_collections
import pandas as pd

from mixer_dilated.config import resolve
from mixer_dilated.config_keys import KEYS, RUNTIME_ONLY_KEYS
from mixer_dilated.reports.formatting import NOTHING, setting_text
from mixer_dilated.reports.page.result_tables import PageTable
from mixer_dilated.reports.result_files import Study

_SHOWN = [path for path in KEYS if path not in RUNTIME_ONLY_KEYS]


def common_settings(configs: Sequence[ml_collections.ConfigDict]) -> list[PageTable]:
    """Keys with one value in all configs: those that differ from the default, then the rest."""
    if not configs:
        return []
    texts = pd.DataFrame([*map(_texts, configs)])
    table = pd.DataFrame({'value': texts.iloc[0], 'default': _texts(resolve({}))})
    table['meaning'] = [KEYS[path][2] for path in _SHOWN]
    table = table[texts.nunique() == 1]
    table = table.rename_axis('key').reset_index()
    is_default = table.value == table.pop('default')
    rest = f'{is_default.sum()} further keys, which have their defaults'
    tables = [
        PageTable('Set for this experiment', table[~is_default], numbers=False),
        PageTable(rest, table[is_default], numbers=False, folded=True),
    ]
    return [one for one in tables if len(one.texts)]


def differing_settings(study: Study) -> list[PageTable]:
    """What tells the trials of a study apart: its axes, and the config keys that differ."""
    labels = [trial.label for trial in study.trials]
    settings = pd.DataFrame(
        [{k: setting_text(v) for k, v in trial.settings.items()} for trial in study.trials],
        columns=study.content['axes'],
    )
    keys = pd.DataFrame(
        [_texts(trial.config) if trial.config else {} for trial in study.trials], columns=_SHOWN
    )
    for name, column in keys.loc[:, keys.nunique() > 1].items():
        # An invalid trial has no config: a setting may say what its key would.
        known = column.notna()
        if not settings[known].eq(column[known], axis=0).all().any():
            settings[name] = column
    settings = settings.fillna(NOTHING)
    settings = settings.loc[:, [column.tolist() != labels for _, column in settings.items()]]
    if settings.empty:
        return []
    settings.insert(0, 'trial', labels)
    title = f'What differs between the {len(labels)} trials'
    return [PageTable(title, settings, numbers=False, folded=len(labels) > 12)]


def _texts(config: ml_collections.ConfigDict) -> dict[str, str]:
    """{'model.hidden_dim': '64', …} of all keys that are part of the result."""
    return {
        path: setting_text(functools.reduce(lambda node, name: node[name], path.split('.'), config))
        for path in _SHOWN
    }
