"""Tables on the terminal: a run, an evaluation, the configuration keys."""

import json
import pathlib
import statistics as statistics_module
import textwrap

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixer_dilated.config import KEYS
from mixer_dilated.errors import printable
from mixer_dilated.reports.cell_text import count_text

MAX_SENTENCES = 8
MAX_ROWS = 20


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion."""
    from scipy.stats import binomtest

    interval = binomtest(correct, count).proportion_ci(0.95, method='wilson')
    return float(interval.low), float(interval.high)


def accuracy_text(correct: int, count: int) -> str:
    """Accuracy, count and 95 % Wilson interval over the images."""
    low, high = wilson_interval(correct, count)
    return f'{correct / count:.4f}   {correct} of {count}   95 % interval {low:.4f} … {high:.4f}'


def print_run(summary: dict) -> None:
    """A run's result, from the content of its `summary.json`."""
    seconds = summary['seconds']
    _print_facts(
        {
            'method': printable(summary['config_name']),
            'tokens': str(summary['num_tokens']),
            'parameters': str(summary['num_params']),
            **{
                f'{part} accuracy': seeds_accuracy_text(
                    [each[f'{part}_correct'] for each in summary['results']],
                    summary[f'{part}_examples'],
                )
                for part in ('train', 'test')
            },
            **_left_out(summary['skipped_steps']),
            'seconds': (
                f'start-up {seconds["startup"]:.1f}   compile {seconds["compile"]:.1f}   '
                f'training {seconds["train"]:.1f} (an epoch {seconds["epoch_median"]:.2f})'
            ),
        }
    )


def _left_out(skipped_steps: int) -> dict[str, str]:
    if not skipped_steps:
        return {}
    return {'left out': f'{count_text(skipped_steps, "step")} whose loss was not finite'}


def print_evaluation(result: dict) -> None:
    """The result of `evaluate_checkpoint`."""
    of_seeds, fitted = result['results'], result['calibration']

    def listed(name):
        return '   '.join(f'{each[name]:.4f}' for each in of_seeds)

    facts = {
        'data set': printable(result['dataset']),
        'split': printable(result['split']),
        'checkpoint': f'step {result["step"]}, {result["epoch"]:.4g} epochs',
        'loss': listed('loss'),
        'accuracy': seeds_accuracy_text([each['correct'] for each in of_seeds], result['examples']),
        'ECE': listed('ece'),
    }
    if fitted:
        facts['temperature'] = listed('temperature')
        facts['  fitted on'] = f'{fitted["split"]}, {fitted["examples"]} examples'
        facts['  loss at it'] = listed('calibrated_loss')
        facts['  ECE at it'] = listed('calibrated_ece')
    _print_facts(facts)


def print_export(manifest: dict) -> None:
    """What an export holds, from the content of its `manifest.json`."""
    fitted = manifest['calibration']
    temperatures = '   '.join(f'{each:.4f}' for each in fitted['temperatures']) if fitted else ''
    _print_facts(
        {
            'images': f'{"×".join(map(str, manifest["input"]["shape"]))} uint8',
            'probabilities': f'{"×".join(map(str, manifest["output"]["shape"]))} float32',
            'platforms': ', '.join(manifest['platforms']),
            'epoch': f'{manifest["epoch"]:.6g}',
            'seeds': str(len(manifest['seeds'])),
            'temperature': temperatures or 'none fitted (evaluate --calibrate=SPLIT)',
            'MB': '   '.join(
                f'{name} {size / 1e6:.3f}' for name, size in manifest['bytes'].items()
            ),
        }
    )


def print_probe(result: dict) -> None:
    """The result of `linear_probe`."""
    for sentence in result['adapted']:
        print(sentence)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column('strength', justify='right')
    table.add_column('accuracy on validation', justify='right')
    table.add_column('')
    for strength, accuracy in result['validation'].items():
        chosen = 'chosen' if strength == result['strength'] else ''
        table.add_row(f'{strength:g}', f'{accuracy:.4f}', chosen)
    print_table(table)
    text = accuracy_text(result['test_correct'], result['test_examples'])
    _print_facts({'test accuracy': text})


def seeds_accuracy_text(correct: list[int], count: int) -> str:
    """One seed: as `accuracy_text`. Several: mean, standard deviation, 95 % t interval."""
    if len(correct) == 1:
        return accuracy_text(correct[0], count)
    from mixer_dilated.studies.stats import describe

    found = describe([each / count for each in correct])
    return (
        f'{found["mean"]:.4f} ± {found["std"]:.4f} over {found["count"]} seeds   '
        f'95 % interval {found["low"]:.4f} … {found["high"]:.4f}'
    )


def print_study(folder: pathlib.Path) -> None:
    """A study's table (one row a cell) and sentences, from its files."""
    study, statistics = (
        json.loads((folder / f'{name}.json').read_text()) for name in ('study', 'statistics')
    )
    labels = {cell['name']: cell['label'] for cell in study['cells']}
    found = statistics.get('cells', {})
    if found:
        seconds = {
            name: statistics_module.median(rounds)
            for name, rounds in json.loads((folder / 'timing.json').read_text()).items()
        }
        table = Table('', box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for heading in ('test accuracy', '95 % interval', 'train', 's an epoch'):
            table.add_column(heading, justify='right')
        shown = [*found]
        if len(found) > MAX_ROWS:
            shown.sort(key=lambda name: -found[name]['test_accuracy']['mean'])
        for name in shown[:MAX_ROWS]:
            of_cell = found[name]
            test, train = of_cell['test_accuracy'], of_cell['train_accuracy']
            several = test['std'] is not None
            table.add_row(
                printable(labels[name]),
                f'{test["mean"]:.4f}' + (f' ± {test["std"]:.4f}' if several else ''),
                f'{test["low"]:.4f} … {test["high"]:.4f}' if several else '',
                f'{train["mean"]:.4f}',
                f'{seconds[name]:.2f}',
            )
        print_table(table)
        if len(found) > MAX_ROWS:
            rest = len(found) - MAX_ROWS
            print(
                f'\nthe {MAX_ROWS} most accurate cells; {rest} more in results.csv and the report'
            )
    for sentence in statistics['verdicts'][:MAX_SENTENCES]:
        print(f'\n{textwrap.fill(sentence, 80)}')
    if len(statistics['verdicts']) > MAX_SENTENCES:
        print(f'\n… {len(statistics["verdicts"]) - MAX_SENTENCES} more sentences in the report')


def print_keys() -> None:
    """Every configuration key with its default and meaning."""
    table = Table(
        'key',
        'default',
        'meaning; what is allowed',
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for path, (default, kind, meaning) in KEYS.items():
        allowed = f'{meaning}; {kind.text}'
        table.add_row(Text(path, no_wrap=True), Text(repr(default)), Text(allowed))
    print_table(table)


def _print_facts(facts: dict[str, str]) -> None:
    """A table of one line a fact."""
    table = Table(box=box.SIMPLE, show_header=False, show_edge=False, pad_edge=False)
    for name, value in facts.items():
        table.add_row(name, value)
    print_table(table)


def misfits_table(rows: list[tuple[str, str, str, str]]) -> Table:
    """What of some weights does not fit a network (see `errors.ShapeMismatchError`)."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ('parameter', 'found', 'expected', 'set config.…'):
        table.add_column(heading, overflow='fold')
    for name, *cells in rows[:MAX_ROWS]:
        broken = textwrap.fill(printable(name).replace('/', '/ '), 24).replace('/ ', '/')
        table.add_row(*map(Text, (broken, *map(printable, cells))))
    if len(rows) > MAX_ROWS:
        table.add_row(f'… and {len(rows) - MAX_ROWS} more', '', '', '')
    return table


def print_table(table: Table) -> None:
    """Prints a table after an empty line, with the numbers left as they are."""
    console = Console(highlight=False)
    with console.capture() as printed:
        console.print(table, markup=False)
    print()
    for line in printed.get().splitlines():
        print(line.rstrip())  # rich fills cells with blanks, which a narrow terminal wraps
