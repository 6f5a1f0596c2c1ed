"""Settings as tables: what the runs of a report share, and what differs between them."""

import operator
from collections.abc import Sequence

import ml_collections
import pandas as pd

from mixer_dilated.config import resolve
from mixer_dilated.config_keys import KEYS, RUNTIME_ONLY_KEYS
from mixer_dilated.reports.formatting import NOTHING, setting_text
from mixer_dilated.reports.result_files import Study

_SHOWN = [path for path in KEYS if path not in RUNTIME_ONLY_KEYS]


def common_settings(configs: Sequence[ml_collections.ConfigDict | None]) -> list[pd.DataFrame]:
    """Keys with one value in all configs: those that differ from the default, then the rest.

    A config that is not known is None."""
    texts = _texts(configs)
    table = pd.DataFrame({'key': _SHOWN, 'value': texts.iloc[0]})
    table['meaning'] = [KEYS[path][2] for path in _SHOWN]
    common, is_default = texts.nunique() == 1, table.value == _texts([resolve({})]).iloc[0]
    return [table[common & ~is_default], table[common & is_default]]


def differing_settings(study: Study) -> pd.DataFrame:
    """What tells the trials of a study apart: its axes, and the config keys that differ."""
    labels = [trial.label for trial in study.trials]
    settings = pd.DataFrame([trial.settings for trial in study.trials], dtype=object)
    settings = settings.reindex(columns=study.content['axes']).map(setting_text)
    keys = _texts([trial.config for trial in study.trials])
    for name, column in keys.loc[:, keys.nunique() > 1].items():
        # An invalid trial has no config: a setting may say what its key would.
        known = column.notna()
        if not settings[known].eq(column[known], axis=0).all().any():
            settings[name] = column.fillna(NOTHING)
    settings = settings.loc[:, [column.tolist() != labels for _, column in settings.items()]]
    if len(settings.columns):
        settings.insert(0, 'trial', labels)
    return settings


def _texts(configs: Sequence[ml_collections.ConfigDict | None]) -> pd.DataFrame:
    """A row a config, a column a key that is part of the result, 'model.hidden_dim', …"""
    rows = [
        {path: setting_text(operator.attrgetter(path)(config)) for path in _SHOWN} if config else {}
        for config in configs
    ]
    return pd.DataFrame(rows, columns=_SHOWN)
