"""The one way to print tables, facts and sentences on the terminal, 80 columns wide."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixer_dilated.config_keys import KEYS
from mixer_dilated.errors import printable

MAX_ROWS = 20


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    left: Sequence[int] = (0,),
    dense: bool = False,
    footer: Sequence[str] = (),
    **options,
) -> None:
    """Prints a table after an empty line, with the numbers left as they are.

    Columns in `left` are set to the left, others hold numbers; of many columns a `dense` table has
    less space between them, and breaks no line. Without any heading the table has no head. Options
    are those of `rich.table.Table.add_column`.
    """
    shown = {'show_header': any(headings), 'show_footer': bool(footer), 'show_edge': False}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=dense, **shown)
    for k, heading in enumerate(headings):
        below, justify = footer[k] if footer else '', 'left' if k in left else 'right'
        table.add_column(heading, below, justify=justify, no_wrap=dense, **options)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    with console.capture() as printed:
        console.print(table, markup=False)
    print()
    for line in printed.get().splitlines():
        print(line.rstrip())  # rich fills cells with blanks, which a narrow terminal wraps


def print_text(*sentences: str) -> None:
    """Prints sentences, a paragraph each, after an empty line."""
    print('', *(textwrap.fill(sentence, 80) for sentence in sentences), sep='\n')


def print_facts(facts: Mapping[str, str]) -> None:
    """Prints a table of one line a fact."""
    print_table(('', ''), facts.items(), left=(0, 1))


def print_mismatches(rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Prints what of some weights does not fit a network (see `errors.ShapeMismatchError`)."""
    table = []
    for name, *texts in rows[:MAX_ROWS]:
        broken = textwrap.fill(printable(name).replace('/', '/ '), 24).replace('/ ', '/')
        table.append([*map(Text, (broken, *map(printable, texts)))])
    if len(rows) > MAX_ROWS:
        table.append((f'… and {len(rows) - MAX_ROWS} more', '', '', ''))
    headings = 'parameter', 'found', 'expected', 'set config.…'
    print_table(headings, table, left=range(4), overflow='fold')


def print_keys() -> None:
    """Prints every configuration key with its default, its meaning and what is allowed."""
    rows = (
        (Text(path, no_wrap=True), Text(repr(default)), Text(f'{meaning}; {kind.text}'))
        for path, (default, kind, meaning) in KEYS.items()
    )
    print_table(('key', 'default', 'meaning; what is allowed'), rows, left=range(3))
