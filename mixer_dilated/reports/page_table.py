"""A table of a page: text only, whatever it holds."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PageTable:
    """Rows of text under a header; the first column names the row.

    Attributes:
      title: what it shows, in a line.
      header: the columns' names.
      rows: as many texts each as the header.
      numbers: whether the columns after the first hold numbers, which are set to the right.
      folded: whether the page shows it only when asked.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    numbers: bool = True
    folded: bool = False
