"""Every configuration key with its default and meaning."""

from rich.text import Text

from mixer_dilated.config import KEYS
from mixer_dilated.reports.tables.terminal import new_table, print_table


def print_keys() -> None:
    """Prints every configuration key with its default, its meaning and what is allowed."""
    table = new_table('key', 'default', 'meaning; what is allowed', numbers=False)
    for path, (default, kind, meaning) in KEYS.items():
        allowed = f'{meaning}; {kind.text}'
        table.add_row(Text(path, no_wrap=True), Text(repr(default)), Text(allowed))
    print_table(table)
