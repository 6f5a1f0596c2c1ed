"""What a study compares: cells that each change a few settings of one base config."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import ml_collections

from mixer_dilated.config import changed, check_key, validate
from mixer_dilated.config_keys import ALIASES, preset_values
from mixer_dilated.errors import UserError
from mixer_dilated.reports.study_files import KINDS

if TYPE_CHECKING:  # a wrong override is refused before JAX is imported
    from mixer_dilated.training.setup import Setup

LONGEST_NAME = 200  # characters of a folder's name; file systems allow 255
# Columns that the table of results has beside those of the settings.
OF_SEED = ('seed', 'train_accuracy', 'test_accuracy', 'train_loss', 'test_loss')
OF_CELL = ('num_tokens', 'num_params', 'flops_per_image', 'pixels_seen', 'pixels')


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of a study.

    Attributes:
      settings: what tables and plots call it: {'size': 4, 'dilation': 2} or {'method': 'dilated'}.
      changes: the config keys that it changes: {'model.patches.size': 4, …}.
    """

    settings: Mapping[str, object]
    changes: Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What `get_sweep()` of a sweep file returns.

    Attributes:
      title: a few words.
      question: what the study is to answer.
      base: config that all cells share; `base.num_seeds` seeds a cell.
      cells: what differs; `grid` and `crossed` make them.
      reference: settings of the cell that others are compared with; the settings it does not name
        are those of the cell in hand, so that {'dilation': 1} compares each dilation with none.
      kind: 'sweep'; 'table1' has baseline, proposed method and control for its first three cells
        and adds the paper's figures, 'little_data' curves over 'train_images',
        'robustness' evaluates corrupted test images too, 'resolution' measures the cost of a step
        at image sides `image_sizes` and trains nothing.
      image_sizes: pixels a side, for 'resolution'.
    """

    title: str
    question: str
    base: ml_collections.ConfigDict
    cells: Sequence[Cell]
    reference: Mapping[str, object] | None = None
    kind: str = 'sweep'
    image_sizes: tuple[int, ...] = ()


def grid(axes: Mapping[str, Iterable]) -> list[Cell]:
    """Every combination of the values of config keys, the last axis changing fastest.

    A setting is called like the last part of its key: `model.patches.size` is 'size'.

    Raises:
      UserError: an axis that is one value, not several.
    """
    for key, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(f'grid: {key} = {values!r}: allowed are several values, like (1, 2)')
    return [
        Cell({key.rsplit('.', 1)[-1]: value for key, value in changes.items()}, changes)
        for values in itertools.product(*map(tuple, axes.values()))
        for changes in [dict(zip(axes, values, strict=True))]
    ]


def crossed(*groups: Iterable[Cell]) -> list[Cell]:
    """Every combination of one cell of each group; a key that both change is the later one's."""
    return [
        Cell(
            {name: value for cell in cells for name, value in cell.settings.items()},
            {key: value for cell in cells for key, value in cell.changes.items()},
        )
        for cells in itertools.product(*map(tuple, groups))
    ]


@dataclasses.dataclass(frozen=True)
class PreparedCell:
    """A cell whose config is resolved and whose patches were tried on the data's images.

    Attributes:
      name: names its folder; made of its settings.
      label: what plots and sentences call it.
      settings, changes: as in `Cell`.
      setup: its config and data; None where it cannot be.
      impossible: why it cannot be; '' where it can.
    """

    name: str
    label: str
    settings: Mapping[str, object]
    changes: Mapping[str, object]
    setup: 'Setup | None'
    impossible: str = ''


def prepare(sweep: Sweep) -> list[PreparedCell]:
    """Resolves every cell of a sweep; a cell that cannot be keeps the reason.

    Raises:
      UserError: what `check_sweep` refuses, not one cell that can be, or a reference that is none
        of them.
    """
    check_sweep(sweep)
    cells = [_prepared(sweep.base, cell) for cell in sweep.cells]
    if all(cell.impossible for cell in cells):
        raise UserError(f'no cell of the sweep can be trained: {cells[0].impossible}')
    if sweep.reference and not any(reference_of(cell, cells, sweep.reference) for cell in cells):
        raise UserError(
            f'reference = {dict(sweep.reference)}: no cell has these settings, or none is left to '
            'be compared with it; name settings of a cell'
        )
    return cells


def check_sweep(sweep: Sweep) -> None:
    """Raises UserError, with what is allowed, if a sweep's fields cannot be those of a study."""
    cells = sweep.cells
    for name in ('title', 'question'):
        if not isinstance(getattr(sweep, name), str):
            raise UserError(f'{name} = {getattr(sweep, name)!r}: allowed is text')
    if not isinstance(sweep.base, ml_collections.ConfigDict):
        raise UserError(f'base = {sweep.base!r}: allowed is a ConfigDict, like base_config()')
    if sweep.kind not in KINDS:
        raise UserError(f'kind = {sweep.kind!r}: allowed are {", ".join(KINDS)}')
    if not isinstance(sweep.reference, Mapping | None):
        raise UserError(
            f"reference = {sweep.reference!r}: allowed are settings, like {{'dilation': 1}}"
        )
    if not (isinstance(cells, tuple | list) and cells) or not all(
        isinstance(cell, Cell)
        and isinstance(cell.settings, Mapping)
        and isinstance(cell.changes, Mapping)
        for cell in cells
    ):
        raise UserError(
            'cells: allowed is a list of at least one Cell of settings and changes, as grid() '
            'makes it'
        )
    if len({tuple(cell.settings) for cell in cells}) > 1:
        raise UserError('the cells of a sweep need the same settings, in the same order')
    for name in cells[0].settings:
        if name in ('cell', 'impossible', 'epoch_seconds', *OF_SEED, *OF_CELL):
            raise UserError(f'a setting cannot be called {name!r}: a column of the results is')
    unknown = [name for name in sweep.reference or {} if name not in cells[0].settings]
    if unknown:
        raise UserError(
            f'reference = {dict(sweep.reference)}: no setting is called {unknown[0]!r}; those of '
            f'the cells are {", ".join(map(str, cells[0].settings))}'
        )
    _check_changes(cells)
    if sweep.kind == 'little_data' and not {'method', 'train_images'} <= set(cells[0].settings):
        raise UserError("kind = 'little_data': its cells need settings 'method', 'train_images'")
    if sweep.kind == 'resolution':
        _check_image_sizes(sweep.image_sizes)


def _check_changes(cells: Sequence[Cell]) -> None:
    for key, value in (change for cell in cells for change in cell.changes.items()):
        if key == 'model' and isinstance(value, str):
            preset_values(value)
            continue
        key = ALIASES.get(key) or key
        check_key(key)
        if key in ('seed', 'num_seeds'):
            raise UserError(
                f'config.{key} cannot differ between cells, which are paired by seed; give it in '
                'base'
            )
        validate({key: value})
    names = [_name(cell) for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f'two cells of the sweep have the settings {name}')


def _check_image_sizes(sides) -> None:
    numbers = isinstance(sides, tuple | list) and all(type(side) is int for side in sides)
    if not numbers or not sides or min(sides) < 1 or len(set(sides)) < len(sides):
        raise UserError(
            f'image_sizes = {sides!r}: allowed are different whole numbers of pixels, like (28, 56)'
        )


def reference_of(
    cell: PreparedCell, cells: Iterable[PreparedCell], reference: Mapping[str, object] | None
) -> PreparedCell | None:
    """The cell that `cell` is compared with (see `Sweep.reference`); None if there is none."""
    wanted = {**cell.settings, **(reference or {})}
    found = [
        other
        for other in cells
        if other.settings == wanted and other is not cell and not other.impossible
    ]
    return found[0] if found and reference else None


def _name(cell: Cell) -> str:
    """What the cell's folder is called."""
    text = _text(cell).replace(', ', '_').replace(' ', '=')
    name = re.sub(r'[^A-Za-z0-9_.=-]+', '-', text).strip('-')
    if not 0 < len(name) <= LONGEST_NAME:
        raise UserError(
            f'settings {name[:40]!r}…: a name of {len(name)} characters; allowed are 1 to '
            f'{LONGEST_NAME} that are letters or digits'
        )
    return name


def _text(cell: Cell) -> str:
    return ', '.join(f'{name} {_value_text(value)}' for name, value in cell.settings.items())


def _prepared(base: ml_collections.ConfigDict, cell: Cell) -> PreparedCell:
    from mixer_dilated.training.setup import create_setup

    name = _name(cell)
    label = str(cell.settings['method']) if [*cell.settings] == ['method'] else _text(cell)
    try:
        setup = create_setup(changed(base, cell.changes))
    except UserError as error:
        return PreparedCell(name, label, cell.settings, cell.changes, None, str(error))
    return PreparedCell(name, label, cell.settings, cell.changes, setup)


def _value_text(value) -> str:
    if isinstance(value, tuple | list):
        return '×'.join(map(_value_text, value))
    return str(value)
