"""What training, evaluation, prediction, export, probe and a study print."""

import pathlib
import textwrap

from rich.cells import cell_len
from rich.text import Text

from mixer_dilated.errors import printable
from mixer_dilated.reports.formatting import (
    NOTHING,
    count_text,
    cut_front,
    interval_text,
    optional_text,
    spread_text,
)
from mixer_dilated.reports.intervals import describe, wilson_interval
from mixer_dilated.reports.tables.terminal import MAX_ROWS, print_facts, print_table

MAX_SENTENCES = 8
WIDTH, BETWEEN = 80, 3  # characters of a line, and from a column to the next
FILE, CLASS = 30, 24  # characters of a name; what is longer is cut
RANKS = {0: 'most probable', 1: '2nd', 2: '3rd'}


def accuracy_text(correct: list[int], count: int) -> str:
    """One seed: accuracy and 95 % Wilson interval over the images; several: those of their mean."""
    described = describe([of_seed / count for of_seed in correct])
    if len(correct) == 1:
        interval, over = wilson_interval(correct[0], count), f'   {correct[0]} of {count}'
    else:
        interval, over = (described['low'], described['high']), f' over {len(correct)} seeds'
    return f'{spread_text(described)}{over}   95 % interval {interval_text(*interval)}'


def print_run(summary: dict) -> None:
    """A run's result, from the content of its `summary.json`."""
    seconds, skipped = summary['seconds'], summary['skipped_steps']
    facts = {
        'method': printable(summary['config_name']),
        'tokens': str(summary['num_tokens']),
        'parameters': str(summary['num_params']),
    }
    for part in ('train', 'val', 'test'):
        if count := summary.get(f'{part}_examples'):
            correct = [result[f'{part}_correct'] for result in summary['results']]
            facts[f'{part} accuracy'] = accuracy_text(correct, count)
            if f'{part}_top5_accuracy' in summary:
                top5 = (result[f'{part}_top5_accuracy'] for result in summary['results'])
                facts[f'{part} top-5'] = _list(top5)
    if skipped:
        facts['left out'] = f'{count_text(skipped, "step")} whose loss was not finite'
    facts['seconds'] = (
        f'start-up {seconds["startup"]:.1f}   compile {seconds["compile"]:.1f}   '
        f'training {seconds["train"]:.1f} (an epoch {seconds["epoch_median"]:.2f})'
    )
    print_facts(facts)


def print_evaluation(evaluation: dict) -> None:
    """The result of `evaluate_checkpoint`; of classes the accuracies, the lowest first."""
    results, calibration = evaluation['results'], evaluation['calibration']

    def by_seed(key: str) -> str:
        return _list(result[key] for result in results)

    facts = {
        **{'data set': printable(evaluation['dataset']), 'split': printable(evaluation['split'])},
        'checkpoint': f'step {evaluation["step"]}, epoch {evaluation["epoch"]:.4g}',
        'loss': by_seed('loss'),
        'accuracy': accuracy_text([r['correct'] for r in results], evaluation['examples']),
        **({'top-5 accuracy': by_seed('top5_accuracy')} if 'top5_accuracy' in results[0] else {}),
        'ECE': by_seed('ece'),
    }
    if calibration:
        facts['temperature'] = by_seed('temperature')
        facts['  fitted on'] = f'{calibration["split"]}, {calibration["examples"]} examples'
        facts['  loss at it'] = by_seed('calibrated_loss')
        facts['  ECE at it'] = by_seed('calibrated_ece')
    print_facts(facts)
    classes = [row for row in evaluation['classes'] or () if row['examples']]
    rows = [
        (printable(row['name']), str(row['examples']), f'{row["accuracy"]:.4f}')
        for row in sorted(classes, key=lambda row: row['accuracy'])
    ]
    if rows:
        print_table(('class', 'images', 'accuracy'), rows[:MAX_ROWS])
    if len(rows) > MAX_ROWS:
        print(f'… and {len(rows) - MAX_ROWS} more with a higher accuracy')


def _list(numbers) -> str:
    return '   '.join(f'{number:.4f}' for number in numbers)


def print_predictions(rows: list[tuple[str, list[tuple[str, float]]]]) -> None:
    """A line an image: its path, then its (class, probability) pairs, the most probable first, as
    far as 80 characters have room for them."""
    columns = {'file': [cut_front(printable(path), FILE) for path, _ in rows]}
    room = WIDTH - max(map(cell_len, ['file', *columns['file']]))
    for rank, classes in enumerate(zip(*(classes for _, classes in rows), strict=True)):
        names = (printable(name) for name, _ in classes)
        names = (name if len(name) <= CLASS else f'{name[: CLASS - 1]}…' for name in names)
        column = [f'{name} {p:.3f}' for name, (_, p) in zip(names, classes, strict=True)]
        heading = RANKS.get(rank, f'{rank + 1}th')
        room -= BETWEEN + max(map(cell_len, [heading, *column]))
        if room < 0 and rank:
            break
        columns[heading] = column
    texts = ([Text(text, no_wrap=True) for text in column] for column in columns.values())
    print_table([*columns], zip(*texts, strict=True), left=range(len(columns)))


def print_export(manifest: dict) -> None:
    """What an export holds, from the content of its `manifest.json`."""
    calibration, sizes = manifest['calibration'], manifest['bytes'].items()
    temperatures = 'none fitted (evaluate --calibrate=SPLIT)'
    print_facts({
        'images': f'{"×".join(map(str, manifest["input"]["shape"]))} uint8',
        'probabilities': f'{"×".join(map(str, manifest["output"]["shape"]))} float32',
        'platforms': ', '.join(manifest['platforms']),
        'epoch': f'{manifest["epoch"]:.6g}',
        'seeds': str(len(manifest['seeds'])),
        'temperature': _list(calibration['temperatures']) if calibration else temperatures,
        'MB': '   '.join(f'{name} {size / 1e6:.3f}' for name, size in sizes),
    })  # fmt: skip


def print_probe(result: dict) -> None:
    """The result of `linear_probe`."""
    print(*result['adapted'], sep='\n', end='\n' * bool(result['adapted']))
    rows = (
        (f'{strength:g}', f'{accuracy:.4f}', 'chosen' * (strength == result['strength']))
        for strength, accuracy in result['validation'].items()
    )
    print_table(('strength', 'accuracy on validation', ''), rows, left=())
    accuracy = accuracy_text([result['test_correct']], result['test_examples'])
    print_facts({'test accuracy': accuracy})


def print_study(folder: pathlib.Path) -> None:
    """A study's table, one row a trial, and sentences; of many trials the most accurate ones."""
    from mixer_dilated.reports.result_files import read_study  # pandas: training need not wait

    study = read_study(folder)
    finished, datasets, trials, rows = study.finished, study.datasets.values(), [], []
    for part in datasets:
        of_part = part.finished
        if len(finished) > MAX_ROWS:
            of_part.sort(key=study.mean_accuracy, reverse=True)
            del of_part[MAX_ROWS // len(datasets) or 1 :]
        trials += of_part
    has_val = any(trial.run.epoch_split == 'val' for trial in trials)
    for trial in trials:
        test, train = (trial.run.accuracy(part) for part in ('test', 'train'))
        val = optional_text(trial.run.summary.get('val_accuracy'), '.4f')
        interval = interval_text(test['low'], test['high']).replace(NOTHING, '')
        epoch = optional_text(study.epoch_seconds.get(trial.name), '.2f')
        texts = spread_text(test), interval, f'{train["mean"]:.4f}', epoch
        rows.append((printable(study.labels[trial.name]), *([val] * has_val), *texts))
    headings = 'test accuracy', '95 % interval', 'train', 's an epoch'
    if rows:
        print_table(('', *(['val'] * has_val), *headings), rows)
    if rest := len(finished) - len(trials):
        more = f'{rest} more in results.csv and the report'
        print(f'\nthe {len(trials)} most accurate trials; {more}')
    if study.mixed_splits:
        print(f'\n{study.mixed_splits}')
    verdicts = study.statistics['verdicts']
    for sentence in verdicts[:MAX_SENTENCES]:
        print(f'\n{textwrap.fill(sentence, 80)}')
    if len(verdicts) > MAX_SENTENCES:
        print(f'\n… {len(verdicts) - MAX_SENTENCES} more sentences in the report')
