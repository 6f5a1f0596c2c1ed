"""The table of a study, one row a trial and seed, and the statistics made from it.

Here and in other modules of a study `seconds` are {trial: seconds of an epoch in each round}, of
the trials that are timed.
"""

import collections
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from mixer_dilated.files import write_json_lines, write_text
from mixer_dilated.reports.intervals import describe
from mixer_dilated.studies.meta_analysis import over_datasets
from mixer_dilated.studies.methods import DILATED
from mixer_dilated.studies.stats import compare_trials, correct_together
from mixer_dilated.studies.sweep import DATASET, OF_SEED, OF_TRIAL, OF_VALIDATION, PreparedTrial
from mixer_dilated.studies.verdicts import (
    comparison_sentence,
    comparisons_summary,
    datasets_sentence,
    is_significant,
    little_data_verdict,
    table1_verdicts,
)

ACCURACIES = ('test_accuracy', 'train_accuracy', 'val_accuracy')
MANY = 6  # of more comparisons a sentence counts the outcomes


def write_table(
    folder: pathlib.Path,
    trials: Sequence[PreparedTrial],
    summaries: Mapping[str, dict],
    seconds: Mapping[str, Sequence[float]],
) -> list[dict]:
    """Writes `results.jsonl` and `results.csv`, each whole or not at all, and returns their rows.

    One row a trial and seed, of the `summary.json` of those that are trained; one for an invalid
    trial, with the reason.
    """
    import pandas as pd

    rows = []
    for trial in trials:
        empty = dict.fromkeys((*OF_SEED, *OF_TRIAL, 'epoch_seconds'))
        row = {'cell': trial.name, **trial.settings, **empty, 'impossible': trial.invalid}
        if trial.invalid:
            rows.append(row)
        elif trial.name in summaries:
            summary = summaries[trial.name]
            row |= {key: summary[key] for key in OF_TRIAL}
            if trial.name in seconds:
                row['epoch_seconds'] = statistics.median(seconds[trial.name])
            keys = (*OF_SEED, *(OF_VALIDATION if 'val_accuracy' in summary else ()))
            rows += [row | {key: result[key] for key in keys} for result in summary['results']]
    write_json_lines(folder / 'results.jsonl', rows)
    write_text(folder / 'results.csv', pd.DataFrame(rows, dtype=object).to_csv(index=False))
    return rows


def analyze(
    kind: str,
    trials: Sequence[PreparedTrial],
    rows: Sequence[dict],
    seconds: Mapping[str, Sequence[float]],
) -> dict:
    """Means, comparisons paired by seed, and sentences: the content of `statistics.json`, of the
    rows of `write_table`."""
    import pandas as pd

    table = pd.DataFrame([row for row in rows if not row['impossible']])
    labels = {trial.name: trial.label for trial in trials if not trial.invalid}
    comparisons, families = {}, collections.defaultdict(list)
    for trial in trials:
        if trial.reference:
            row = compare_trials(table, trial.name, trial.reference, seconds=seconds)
            family = trial.settings['method'] if kind == 'little_data' else ''
            families[family].append(row)
            comparisons[trial.name] = row
    if kind != 'table1':  # its claims are judged one by one; of little data, a method's sizes
        for family in families.values():
            correct_together(family)
    cells = {}
    for name in labels:  # trials may have a validation split or none
        values = table[table['cell'] == name].dropna(axis='columns')
        columns = [column for column in ACCURACIES if column in values]
        cells[name] = {column: describe(values[column]) for column in columns}
    if kind == 'table1' and len(labels) > 1 and not any(trial.invalid for trial in trials[:3]):
        verdicts = table1_verdicts(table, labels, seconds)
    elif kind == 'little_data':
        verdicts = _little_data_verdicts(trials, comparisons)
    else:
        verdicts = _comparison_verdicts(labels, comparisons)
    # By validation accuracy where all have one, as trials are ranked everywhere.
    column = 'val_accuracy' if all('val_accuracy' in of for of in cells.values()) else ACCURACIES[0]
    accuracies = {name: spreads[column]['mean'] for name, spreads in cells.items()}
    datasets = over_datasets(trials, accuracies, comparisons)
    combined = {m: of['comparison'] for m, of in datasets.items() if 'comparison' in of}
    if len(combined) <= MANY:
        count = len({trial.settings.get(DATASET) for trial in trials})
        sentences = [datasets_sentence(method, row, count) for method, row in combined.items()]
        verdicts = [*filter(None, sentences), *verdicts]
    statistics = {'cells': cells, 'comparisons': comparisons, 'verdicts': verdicts}
    return statistics | ({'datasets': datasets} if datasets else {})


def _comparison_verdicts(labels, comparisons) -> list[str]:
    """A sentence for each comparison; of many a count, then the significant ones come first."""
    pairs = [*comparisons.items()]
    if many := len(pairs) > MANY:  # the largest gain at the top
        pairs.sort(key=lambda pair: (not is_significant(pair[1]['p_holm']), -pair[1]['difference']))
    sentences = [
        comparison_sentence(labels[name], labels[comparison['reference']], comparison)
        for name, comparison in pairs
    ]
    return [comparisons_summary(comparisons), *sentences] if many else sentences


def _little_data_verdicts(trials, comparisons) -> list[str]:
    """A sentence for each method that has a reference, over all training sizes."""
    settings = {trial.name: trial.settings for trial in trials}
    by_methods = collections.defaultdict(list)
    for name, comparison in comparisons.items():
        methods = settings[name]['method'], settings[comparison['reference']]['method']
        by_methods[methods].append((settings[name]['train_images'], comparison))
    return [
        little_data_verdict(method, reference, by_size, method == DILATED.settings['method'])
        for (method, reference), by_size in by_methods.items()
    ]
