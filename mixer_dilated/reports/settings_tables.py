"""Settings as tables: what the runs of a report share, and what differs between them."""

import functools
from collections.abc import Iterable

import ml_collections

from mixer_dilated.config import resolve
from mixer_dilated.config_keys import KEYS, RUNTIME_ONLY_KEYS
from mixer_dilated.reports.cell_text import NOTHING, setting_text
from mixer_dilated.reports.page_table import PageTable
from mixer_dilated.reports.study_files import Study

_SHOWN = [path for path in KEYS if path not in RUNTIME_ONLY_KEYS]


def common_settings(configs: Iterable[ml_collections.ConfigDict]) -> list[PageTable]:
    """Keys with one value in all configs: those that differ from the default, then the rest."""
    values = [_flat(config) for config in configs]
    if not values:
        return []
    default = _flat(resolve({}))
    shared = [path for path in _SHOWN if all(one[path] == values[0][path] for one in values)]
    changed = [path for path in shared if values[0][path] != default[path]]
    rest = [path for path in shared if path not in changed]
    header = ['key', 'value', 'meaning']

    def rows(paths):
        return [[path, setting_text(values[0][path]), KEYS[path][2]] for path in paths]

    tables = []
    if changed:
        title = 'Set for this experiment'
        tables.append(PageTable(title, header, rows(changed), numbers=False))
    if rest:
        title = f'{len(rest)} further keys, which have their defaults'
        tables.append(PageTable(title, header, rows(rest), numbers=False, folded=True))
    return tables


def differing_settings(study: Study) -> list[PageTable]:
    """What tells the cells of a study apart: its axes, and the config keys that differ."""
    configs = {cell.name: _flat(cell.config) for cell in study.cells if cell.config}
    one = next(iter(configs.values()), {})
    keys = [path for path in one if any(other[path] != one[path] for other in configs.values())]
    columns = {axis: [_setting(cell.settings, axis) for cell in study.cells] for axis in study.axes}
    for key in keys:
        texts = [_setting(configs.get(cell.name, {}), key) for cell in study.cells]
        # A cell that cannot be has no config: a setting may say what its key would.
        if not any(
            all(text in (NOTHING, setting) for text, setting in zip(texts, column, strict=True))
            for column in columns.values()
        ):
            columns[key] = texts
    labels = [cell.label for cell in study.cells]
    columns = {name: texts for name, texts in columns.items() if texts != labels}
    rows = [list(row) for row in zip(labels, *columns.values(), strict=True)]
    title = f'What differs between the {len(rows)} cells'
    header = ['cell', *columns]
    table = PageTable(title, header, rows, numbers=False, folded=len(rows) > 12)
    return [table] if columns else []


def _setting(settings, name: str) -> str:
    return setting_text(settings[name]) if name in settings else NOTHING


def _flat(config: ml_collections.ConfigDict) -> dict:
    """{'model.hidden_dim': 64, …} of all keys that are part of the result."""
    return {
        path: functools.reduce(lambda node, name: node[name], path.split('.'), config)
        for path in _SHOWN
    }
