"""What a study prints: one row a trial, and its sentences."""

import pathlib
import textwrap

from mixer_dilated.errors import printable
from mixer_dilated.reports.formatting import NOTHING, interval_text, optional_text, spread_text
from mixer_dilated.reports.result_files import read_study
from mixer_dilated.reports.tables.terminal import MAX_ROWS, new_table, print_table

MAX_SENTENCES = 8


def print_study(folder: pathlib.Path) -> None:
    """A study's table and sentences, from its files; of many trials the most accurate ones."""
    study = read_study(folder)
    trials = [*study.statistics.get('cells', {}).items()]
    rest = len(trials) - MAX_ROWS
    if rest > 0:
        accuracy = f'{study.split}_accuracy'
        trials.sort(key=lambda trial: trial[1][accuracy]['mean'], reverse=True)
        del trials[MAX_ROWS:]
    has_val = any('val_accuracy' in measures for _, measures in trials)
    headings = '', *(['val'] if has_val else []), 'test accuracy', '95 % interval', 'train'
    table = new_table(*headings, 's an epoch')
    for name, measures in trials:
        test, train = measures['test_accuracy'], measures['train_accuracy']
        table.add_row(
            printable(study.labels[name]),
            *([optional_text(measures.get('val_accuracy', {}).get('mean'), '.4f')] * has_val),
            spread_text(test),
            interval_text(test['low'], test['high']).replace(NOTHING, ''),
            f'{train["mean"]:.4f}',
            optional_text(study.epoch_seconds.get(name), '.2f'),
        )
    if trials:
        print_table(table)
    if rest > 0:
        print(f'\nthe {MAX_ROWS} most accurate trials; {rest} more in results.csv and the report')
    if study.mixed_splits:
        print(f'\n{study.mixed_splits}')
    verdicts = study.statistics['verdicts']
    for sentence in verdicts[:MAX_SENTENCES]:
        print(f'\n{textwrap.fill(sentence, 80)}')
    if len(verdicts) > MAX_SENTENCES:
        print(f'\n… {len(verdicts) - MAX_SENTENCES} more sentences in the report')
