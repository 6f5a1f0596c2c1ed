"""Tables on the terminal: a run, an evaluation, the configuration keys."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixer_dilated.config import KEYS


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
    """One run's result, from the content of its `summary.json`."""
    seconds = summary['seconds']
    _print_facts(
        {
            'method': summary['config_name'],
            'tokens': str(summary['num_tokens']),
            'parameters': str(summary['num_params']),
            'train accuracy': accuracy_text(summary['train_correct'], summary['train_examples']),
            'test accuracy': accuracy_text(summary['test_correct'], summary['test_examples']),
            'seconds': (
                f'start-up {seconds["startup"]:.1f}   compile {seconds["compile"]:.1f}   '
                f'training {seconds["train"]:.1f} (an epoch {seconds["epoch_median"]:.2f})'
            ),
        }
    )


def print_evaluation(result: dict) -> None:
    """The result of `evaluate_checkpoint`."""
    _print_facts(
        {
            'data set': result['dataset'],
            'split': result['split'],
            'epoch': str(result['epoch']),
            'loss': f'{result["loss"]:.4f}',
            'accuracy': accuracy_text(result['correct'], result['examples']),
        }
    )


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
        allowed = f'{meaning}; {kind.allowed}'
        table.add_row(Text(path, no_wrap=True), Text(repr(default)), Text(allowed))
    print_table(table)


def _print_facts(facts: dict[str, str]) -> None:
    """A table of one line a fact."""
    table = Table(box=box.SIMPLE, show_header=False, show_edge=False, pad_edge=False)
    for name, value in facts.items():
        table.add_row(name, value)
    print_table(table)


def print_table(table: Table) -> None:
    """Prints a table after an empty line, with the numbers left as they are."""
    console = Console(highlight=False)
    console.print()
    console.print(table, markup=False)
