"""The tidy table of a study, one row a cell and seed, and the statistics made of it."""

import collections
import csv
import io
import pathlib
import statistics as stdlib_statistics
from collections.abc import Mapping, Sequence

from mixer_dilated.studies.methods import DILATED
from mixer_dilated.studies.sweep import OF_CELL, OF_SEED, PreparedCell
from mixer_dilated.studies.verdicts import (
    comparison_sentence,
    comparisons_summary,
    little_data_verdict,
    table1_verdicts,
)
from mixer_dilated.studies.wording import is_settled
from mixer_dilated.files import write_json_lines, write_text
from mixer_dilated.studies.stats import (
    compare_cells,
    compare_times,
    correct_together,
    describe,
    values_by_seed,
)

MANY = 6  # of more comparisons a sentence counts the outcomes


def rows(
    cells: Sequence[PreparedCell],
    summaries: Mapping[str, dict],
    seconds: Mapping[str, Sequence[float]],
) -> list[dict]:
    """One row a cell and seed; one for a cell that cannot be, with the reason.

    Args:
      cells: all cells.
      summaries: {cell: content of `summary.json`} of those that are trained.
      seconds: {cell: seconds of an epoch in each round} of those that are timed.
    """
    found = []
    for cell in cells:
        empty = dict.fromkeys((*OF_SEED, *OF_CELL, 'epoch_seconds'))
        common = {'cell': cell.name, **cell.settings, **empty, 'impossible': cell.impossible}
        if cell.impossible:
            found.append(common)
        elif cell.name in summaries:
            summary = summaries[cell.name]
            common |= {key: summary[key] for key in OF_CELL}
            if cell.name in seconds:
                common['epoch_seconds'] = stdlib_statistics.median(seconds[cell.name])
            found += [
                {**common, **{key: each[key] for key in OF_SEED}} for each in summary['results']
            ]
    return found


def write_table(folder: pathlib.Path, table: Sequence[dict]) -> None:
    """Writes `results.jsonl` and `results.csv`, each whole or not at all."""
    write_json_lines(folder / 'results.jsonl', table)
    text = io.StringIO()
    writer = csv.DictWriter(text, table[0].keys(), lineterminator='\n')
    writer.writeheader()
    writer.writerows(table)
    write_text(folder / 'results.csv', text.getvalue())


def statistics(
    kind: str,
    cells: Sequence[PreparedCell],
    table: Sequence[dict],
    references: Mapping[str, str],
    seconds: Mapping[str, Sequence[float]],
) -> dict:
    """Means, comparisons paired by seed, and sentences: the content of `statistics.json`.

    Args:
      kind: of the study.
      cells: all cells.
      table: `rows`.
      references: {cell: cell that it is compared with}.
      seconds: as in `rows`.
    """
    possible = [row for row in table if not row['impossible']]
    labels = {cell.name: cell.label for cell in cells if not cell.impossible}
    comparisons = {
        name: compare_cells(possible, name, reference) | _times(seconds, name, reference)
        for name, reference in references.items()
    }
    for family in _families(kind, cells, comparisons):
        correct_together([comparisons[name] for name in family])
    return {
        'cells': {
            name: {
                column: describe([*values_by_seed(possible, name, column).values()])
                for column in ('test_accuracy', 'train_accuracy')
            }
            for name in labels
        },
        'comparisons': comparisons,
        'verdicts': _verdicts(kind, labels, possible, comparisons, cells, seconds),
    }


def _families(kind: str, cells: Sequence[PreparedCell], comparisons: Mapping) -> list[list[str]]:
    """Cells whose comparisons one sentence or one list of them judges together.

    The claims of Table 1 are judged one by one; of little data, a method at all its sizes.
    """
    if kind == 'table1':
        return []
    families = collections.defaultdict(list)
    methods = {cell.name: cell.settings.get('method') for cell in cells}
    for name in comparisons:
        families[methods[name] if kind == 'little_data' else ''].append(name)
    return [*families.values()]


def _times(seconds: Mapping[str, Sequence[float]], name: str, reference: str) -> dict:
    """The ratio of times of cells that took turns: paired, as sentences say it."""
    found = seconds.get(name, ()), seconds.get(reference, ())
    if not found[0] or len(found[0]) != len(found[1]):
        return {}
    return {'time_ratio': compare_times(*found, reference=reference)['ratio']}


def _verdicts(kind, labels, table, comparisons, cells, seconds) -> list[str]:
    """The sentences of a study of this kind."""
    roles = [cell.name for cell in cells[:3]]
    if kind == 'table1' and len(roles) > 1 and all(name in labels for name in roles):
        baseline, proposed, *others = roles
        return table1_verdicts(
            table,
            labels,
            baseline=baseline,
            proposed=proposed,
            control=others[0] if others else None,
            round_seconds=seconds,
        )
    if kind == 'little_data':
        return _little_data_verdicts(labels, comparisons, cells)
    pairs = [*comparisons.items()]
    if many := len(pairs) > MANY:  # what is settled comes first, the largest gain at the top
        pairs.sort(key=lambda pair: (not is_settled(pair[1]['p_holm']), -pair[1]['difference']))
    sentences = [
        comparison_sentence(labels[name], labels[one['reference']], one) for name, one in pairs
    ]
    return [comparisons_summary(comparisons), *sentences] if many else sentences


def _little_data_verdicts(labels, comparisons, cells) -> list[str]:
    """A sentence for each method that has a reference, over all training sizes."""
    settings = {cell.name: cell.settings for cell in cells}
    pairs = {}
    for name, comparison in comparisons.items():
        methods = settings[name]['method'], settings[comparison['reference']]['method']
        pairs.setdefault(methods, []).append((settings[name]['train_images'], comparison))
    return [
        little_data_verdict(method, reference, found, method == DILATED.settings['method'])
        for (method, reference), found in pairs.items()
    ]
