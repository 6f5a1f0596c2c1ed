"""What a benchmark measured, as tables and sentences on the terminal."""

import statistics
import textwrap

from rich import box
from rich.table import Table

from mixer_dilated.reports.formatting import NOTHING
from mixer_dilated.reports.tables.terminal import print_table

# Cores that other programs use, from which on it is said.
BUSY = 0.3

UNITS = {'µs': 1e-6, 'ms': 1e-3, 's': 1.0}


def print_benchmark(found: dict) -> None:
    """Prints what `benchmark.measure.benchmark` returned."""
    device, versions = found['device'], found['versions']
    print(f'\n{device["kind"]}, jax {versions["jax"]}, Python {versions["python"]}; one device')
    for name, of_config in found['configs'].items():
        _print_config(name, of_config)
    print_text(*_footer(found))


def _footer(found: dict) -> list[str]:
    rows, _, columns = found['large_shape']
    start_ups = [of_config['start_up'] for of_config in found['configs'].values()]
    kept = all(start_up['programs_kept'] for start_up in start_ups if start_up)
    busy = found['busy_cores'] or 0
    return [
        f'{", ".join(UNITS)}: a step, median over the rounds; of several seeds, for each of them.',
        'GFLOP/s: of the matrix products alone.',
        f'large: share of the speed of a product of {rows}×{columns} matrices of the same dtype.',
        "own: share of the step's time that its products take alone, at their own shapes.",
        'compile: seconds, with an empty cache.',
        *([] if kept else ['full caches: of images; on Intel CPUs no compiled programs are kept.']),
        *(
            [f'Other programs kept {busy:.1f} cores busy before it began: times may be too long.']
            if busy > BUSY
            else []
        ),
    ]


def _print_config(name: str, found: dict) -> None:
    height, width, channels = found['image_shape']
    large = ', '.join(
        f'{statistics.median(rounds) / 1e9:.0f} GFLOP/s in {dtype}'
        for dtype, rounds in found['large_product'].items()
    )
    print_text(
        f'{name}: {height}×{width}×{channels}, {found["num_tokens"]} tokens, '
        f'{found["num_params"]} parameters, batch {found["batch"]}',
        f'large matrix product: {large}',
    )
    print_table(_forms_table(found))
    print_text(*_sentences(found))
    print_table(_resolutions_table(found))


def _forms_table(found: dict) -> Table:
    forms = found['forms']
    unit = _unit(form['seconds'] for form in forms.values())
    table = new_table(
        'step of', unit, 'quartiles', 'images/s', 'GFLOP/s', 'large', 'own', 'compile'
    )
    for name, form in forms.items():
        table.add_row(
            name,
            *_speed_cells(form['seconds'], form['flops'], found['batch'], unit),
            f'{_ratio(_limits(found, form), form["seconds"]):.0%}',
            f'{_ratio(found["products"][form["kind"]][form["dtype"]], form["seconds"]):.0%}',
            f'{form["compile_seconds"]:.1f}',
        )
    return table


def _resolutions_table(found: dict) -> Table:
    unit = _unit(row['seconds'] for row in found['resolutions'])
    table = new_table('image', 'tokens', unit, 'quartiles', 'images/s', 'GFLOP/s')
    for row in found['resolutions']:
        table.add_row(
            '×'.join(map(str, row['image_size'])),
            str(row['num_tokens']),
            *_speed_cells(row['seconds'], row['flops'], found['batch'], unit),
        )
    return table


def _speed_cells(seconds: list[float], flops: int, batch: int, unit: str) -> tuple[str, ...]:
    """Median and quartiles of a step in a unit, images and GFLOP a second."""
    middle = statistics.median(seconds)
    low, _, high = statistics.quantiles(seconds, n=4, method='inclusive')
    low, high = (_digits(each / UNITS[unit]) for each in (low, high))
    return (
        _digits(middle / UNITS[unit]),
        f'{low}–{high}',
        f'{batch / middle:.0f}',
        f'{flops / middle / 1e9:.0f}',
    )


def _limits(found: dict, form: dict) -> list[float]:
    """Seconds of a form's products in each round at the speed of the large one of its dtype."""
    return [form['flops'] / speed for speed in found['large_product'][form['dtype']]]


def _sentences(found: dict) -> list[str]:
    forms = found['forms']
    step = forms['training']
    sentences = [
        f'A {step["dtype"]} training step takes '
        f'{_ratio(step["seconds"], _limits(found, step)):.2f} times what its products would take '
        'at the speed of the large one.'
    ]
    for form in forms.values():
        if form['seeds'] > 1:
            sentences.append(
                f'{form["seeds"]} seeds in one program have '
                f'{_ratio(step["seconds"], form["seconds"]):.2f} times the throughput of '
                f'{form["seeds"]} runs of one.'
            )
        if form['described']:
            sentences.append(
                f'A step of {form["described"]} takes '
                f'{_ratio(form["seconds"], step["seconds"]):.2f} times as long as the training '
                'step.'
            )
    return [
        *sentences,
        f'{_memory_text(found["memory"])} {_start_up_text(found["start_up"])}',
        *found['notes'],
    ]


def _memory_text(memory: dict | None) -> str:
    if memory is None:
        return f'Peak memory of training: {NOTHING}, predicted {NOTHING}.'
    measured = memory['measured']
    peak = 'not told by this system' if measured is None else f'{measured / 2**20:.1f} MiB'
    return f'Peak memory of training: {peak}, predicted {memory["predicted"] / 2**20:.1f} MiB.'


def _start_up_text(start_up: dict | None) -> str:
    cold, warm = (
        NOTHING if start_up is None else f'{start_up[state]:.1f} s' for state in ('cold', 'warm')
    )
    return f'From python run.py to the first step: {cold} with empty caches, {warm} with full ones.'


def new_table(first: str, *others: str) -> Table:
    """An empty table in the benchmarks' look, its numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify='right', no_wrap=True)
    return table


def _unit(rows) -> str:
    """The largest unit of which the shortest median of some rows of seconds is at least one."""
    shortest = min(map(statistics.median, rows))
    return next((unit for unit in reversed(UNITS) if shortest >= UNITS[unit]), next(iter(UNITS)))


def _digits(value: float) -> str:
    """Three digits, or all that stand before the point."""
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f'{value:.{decimals}f}'


def _ratio(seconds: list[float], others: list[float]) -> float:
    """The median over the rounds of the ratio of two times of one round."""
    return statistics.median(one / other for one, other in zip(seconds, others, strict=True))


def print_text(*sentences: str) -> None:
    """Prints sentences, a paragraph each, 80 columns wide."""
    print()
    for sentence in sentences:
        print(textwrap.fill(sentence, 80))
