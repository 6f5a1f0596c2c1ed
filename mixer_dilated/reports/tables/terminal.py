"""How a table looks on the terminal."""

import textwrap
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixer_dilated.errors import printable

MAX_ROWS = 20


def new_table(*headings: str, numbers: bool = True, dense: bool = False, **options) -> Table:
    """An empty table.

    Args:
      headings: of the columns.
      numbers: whether columns after the first hold numbers, which are set to the right.
      dense: whether the columns are many: less space between them, and no line is broken.
      options: of `rich.table.Table`.
    """
    options |= {'box': box.SIMPLE_HEAD, 'show_edge': False, 'pad_edge': False}
    table = Table(collapse_padding=dense, **options)
    for k, heading in enumerate(headings):
        table.add_column(heading, justify='right' if numbers and k else 'left', no_wrap=dense)
    return table


def print_table(table: Table) -> None:
    """Prints a table after an empty line, with the numbers left as they are."""
    console = Console(highlight=False)
    with console.capture() as printed:
        console.print(table, markup=False)
    print()
    for line in printed.get().splitlines():
        print(line.rstrip())  # rich fills cells with blanks, which a narrow terminal wraps


def print_text(*sentences: str) -> None:
    """Prints sentences, a paragraph each, 80 columns wide."""
    print()
    for sentence in sentences:
        print(textwrap.fill(sentence, 80))


def print_facts(facts: Mapping[str, str]) -> None:
    """Prints a table of one line a fact."""
    table = new_table('', '', numbers=False, show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    print_table(table)


def mismatch_table(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    """What of some weights does not fit a network (see `errors.ShapeMismatchError`)."""
    table = new_table('parameter', 'found', 'expected', 'set config.…', numbers=False)
    for column in table.columns:
        column.overflow = 'fold'
    for name, *texts in rows[:MAX_ROWS]:
        broken = textwrap.fill(printable(name).replace('/', '/ '), 24).replace('/ ', '/')
        table.add_row(*map(Text, (broken, *map(printable, texts))))
    if len(rows) > MAX_ROWS:
        table.add_row(f'… and {len(rows) - MAX_ROWS} more', '', '', '')
    return table
