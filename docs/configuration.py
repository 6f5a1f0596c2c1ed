"""Writes `docs/configuration.md` from the keys: `python -m docs.configuration`."""

import pathlib

import jinja2

from mixer_dilated.config_keys import ALIASES, KEYS, PRESETS, RUNTIME_ONLY_KEYS, preset_values

PAGE = pathlib.Path(__file__).with_suffix('.md')
TEMPLATE = PAGE.with_suffix('.md.j2')


def configuration_page() -> str:
    """The page that `TEMPLATE` makes of the keys, in groups by their first part."""
    tables = {}
    for name, key in KEYS.items():
        group = name.partition('.')[0] if '.' in name else ''
        tables.setdefault(group, []).append((name, key))
    template = jinja2.Template(
        TEMPLATE.read_text(encoding='utf-8'),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return template.render(
        tables=tables,
        presets={name: preset_values(name) for name in PRESETS},
        aliases=ALIASES,
        runtime_only_keys=RUNTIME_ONLY_KEYS,
    )


if __name__ == '__main__':
    PAGE.write_text(configuration_page(), encoding='utf-8')
