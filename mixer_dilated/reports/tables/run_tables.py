"""What training, evaluation, export and probe print."""

from mixer_dilated.errors import printable
from mixer_dilated.reports.formatting import count_text, interval_text, spread_text
from mixer_dilated.reports.intervals import describe, wilson_interval
from mixer_dilated.reports.tables.terminal import MAX_ROWS, new_table, print_facts, print_table


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
        if f'{part}_examples' not in summary:
            continue
        correct = [result[f'{part}_correct'] for result in summary['results']]
        facts[f'{part} accuracy'] = accuracy_text(correct, summary[f'{part}_examples'])
    if skipped:
        facts['left out'] = f'{count_text(skipped, "step")} whose loss was not finite'
    facts['seconds'] = (
        f'start-up {seconds["startup"]:.1f}   compile {seconds["compile"]:.1f}   '
        f'training {seconds["train"]:.1f} (an epoch {seconds["epoch_median"]:.2f})'
    )
    print_facts(facts)


def print_evaluation(evaluation: dict) -> None:
    """The result of `evaluate_checkpoint`."""
    results, calibration = evaluation['results'], evaluation['calibration']
    correct = [result['correct'] for result in results]
    facts = {
        'data set': printable(evaluation['dataset']),
        'split': printable(evaluation['split']),
        'checkpoint': f'step {evaluation["step"]}, epoch {evaluation["epoch"]:.4g}',
        'loss': _list(result['loss'] for result in results),
        'accuracy': accuracy_text(correct, evaluation['examples']),
        'ECE': _list(result['ece'] for result in results),
    }
    if calibration:
        facts['temperature'] = _list(result['temperature'] for result in results)
        facts['  fitted on'] = f'{calibration["split"]}, {calibration["examples"]} examples'
        facts['  loss at it'] = _list(result['calibrated_loss'] for result in results)
        facts['  ECE at it'] = _list(result['calibrated_ece'] for result in results)
    print_facts(facts)
    if evaluation['classes']:
        _print_classes(evaluation['classes'])


def _print_classes(classes: list[dict]) -> None:
    """The accuracy of each class, the lowest first."""
    rows = sorted((row for row in classes if row['examples']), key=lambda row: row['accuracy'])
    table = new_table('class', 'images', 'accuracy')
    for row in rows[:MAX_ROWS]:
        table.add_row(printable(row['name']), str(row['examples']), f'{row["accuracy"]:.4f}')
    print_table(table)
    if len(rows) > MAX_ROWS:
        print(f'… and {len(rows) - MAX_ROWS} more with a higher accuracy')


def _list(numbers) -> str:
    return '   '.join(f'{number:.4f}' for number in numbers)


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
    for sentence in result['adapted']:
        print(sentence)
    table = new_table('strength', 'accuracy on validation', '')
    table.columns[0].justify = 'right'
    for strength, accuracy in result['validation'].items():
        chosen = 'chosen' if strength == result['strength'] else ''
        table.add_row(f'{strength:g}', f'{accuracy:.4f}', chosen)
    print_table(table)
    accuracy = accuracy_text([result['test_correct']], result['test_examples'])
    print_facts({'test accuracy': accuracy})
