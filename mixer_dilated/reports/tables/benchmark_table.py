"""What a benchmark measured, as a table and sentences on the terminal."""

import statistics

from rich.table import Table

from mixer_dilated.reports.formatting import NOTHING, count_text, digits_text
from mixer_dilated.reports.tables.terminal import new_table, print_table, print_text

BUSY = 0.3  # cores that other programs use; more are mentioned
UNITS = {'µs': 1e-6, 'ms': 1e-3, 's': 1.0}


def print_benchmark(results: dict) -> None:
    """Prints what `benchmark.measure.benchmark` returned."""
    device, versions = results['device'], results['versions']
    print(f'\n{device["kind"]}, jax {versions["jax"]}, Python {versions["python"]}; one device')
    for name, result in results['configs'].items():
        height, width, channels = result['image_shape']
        large = ', '.join(
            f'{statistics.median(rounds) / 1e9:.0f} GFLOP/s in {dtype}'
            for dtype, rounds in result['large_matmul'].items()
        )
        print_text(
            f'{name}: {height}×{width}×{channels}, {result["num_tokens"]} tokens, '
            f'{result["num_params"]} parameters, batch {result["batch"]}',
            f'large matrix product: {large}',
        )
        print_table(_variants_table(result))
        print_text(*_sentences(result))
    print_text(*_footer(results))


def _footer(results: dict) -> list[str]:
    rows, _, columns = results['large_shape']
    start_ups = [result['start_up'] for result in results['configs'].values()]
    footer = [
        f'{", ".join(UNITS)}: a step, median over the rounds; of several seeds, for each of them.',
        'GFLOP/s: of the matrix products alone.',
        f'large: share of the speed of a product of {rows}×{columns} matrices of the same dtype.',
        "own: share of the step's time that its products take alone, at their own shapes.",
        'compile: seconds, with an empty cache.',
    ]
    if not all(start_up['programs_kept'] for start_up in start_ups if start_up):
        footer.append('full caches: of images; on Intel CPUs no compiled programs are kept.')
    return footer + busy_sentences(results)


def _variants_table(result: dict) -> Table:
    """A row a variant: median and quartiles of a step, and shares of what the machine can do."""
    medians = [statistics.median(variant['seconds']) for variant in result['variants'].values()]
    # The largest unit of which the shortest median is at least one.
    unit = next((unit for unit in reversed(UNITS) if min(medians) >= UNITS[unit]), 'µs')
    table = new_table(
        'step of', unit, 'quartiles', 'images/s', 'GFLOP/s', 'large', 'own', 'compile', dense=True
    )
    for (name, variant), middle in zip(result['variants'].items(), medians, strict=True):
        low, _, high = statistics.quantiles(variant['seconds'], n=4, method='inclusive')
        low, middle_text, high = (digits_text(time / UNITS[unit]) for time in (low, middle, high))
        table.add_row(
            name,
            middle_text,
            f'{low}–{high}',
            f'{result["batch"] / middle:.0f}',
            f'{variant["flops"] / middle / 1e9:.0f}',
            f'{median_ratio(_limits(result, variant), variant["seconds"]):.0%}',
            f'{median_ratio(variant["matmul_seconds"], variant["seconds"]):.0%}',
            f'{variant["compile_seconds"]:.1f}',
        )
    return table


def _limits(result: dict, variant: dict) -> list[float]:
    """Seconds of a step's products in each round at the speed of the large one of its dtype."""
    return [variant['flops'] / speed for speed in result['large_matmul'][variant['dtype']]]


def _sentences(result: dict) -> list[str]:
    variants = result['variants']
    step = variants['training']
    sentences = [
        f'A {step["dtype"]} training step takes '
        f'{median_ratio(step["seconds"], _limits(result, step)):.2f} times what its products would '
        'take at the speed of the large one.'
    ]
    for name, variant in variants.items():
        if variant['seeds'] > 1:
            sentences.append(
                f'{variant["seeds"]} seeds in one program have '
                f'{median_ratio(step["seconds"], variant["seconds"]):.2f} times the throughput of '
                f'{variant["seeds"]} runs of one.'
            )
        if variant['described']:
            sentences.append(
                f'A step of {variant["described"]} takes '
                f'{median_ratio(variant["seconds"], step["seconds"]):.2f} times as long as the '
                'training step.'
            )
        if variant['image_size'] != step['image_size']:
            side = '×'.join(map(str, variant['image_size']))
            tokens = count_text(variant['num_tokens'], 'token')
            sentences.append(f'Images of {name} have {side} pixels, {tokens}.')
    peak = predicted = cold = warm = NOTHING
    if memory := result['memory']:
        predicted = f'{memory["predicted"] / 2**20:.1f} MiB'
        peak = 'not reported by this system'
        if memory['measured']:
            peak = f'{memory["measured"] / 2**20:.1f} MiB'
    if start_up := result['start_up']:
        cold, warm = (f'{start_up[state]:.1f} s' for state in ('cold', 'warm'))
    return [
        *sentences,
        f'Peak memory of training: {peak}, predicted {predicted}. From python run.py to the first '
        f'step: {cold} with empty caches, {warm} with full ones.',
        *result['notes'],
    ]


def busy_sentences(results: dict) -> list[str]:
    """What else kept the processor busy, where that is worth a sentence."""
    busy = results['busy_cores'] or 0
    text = f'Other programs kept {busy:.1f} cores busy before it began: times may be too long.'
    return [text] if busy > BUSY else []


def median_ratio(ones: list[float], others: list[float]) -> float:
    """The median over the rounds of the ratio of what was measured in one round."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))
