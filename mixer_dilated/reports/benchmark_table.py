"""What a benchmark measured, as tables and sentences on the terminal."""

import statistics
import textwrap

from rich import box
from rich.table import Table

from mixer_dilated.reports.tables import print_table


def print_benchmark(found: dict) -> None:
    """Prints what `benchmark.measure.benchmark` returned."""
    device, versions = found['device'], found['versions']
    print(f'\n{device["kind"]}, jax {versions["jax"]}, Python {versions["python"]}; one device')
    for name, of_config in found['configs'].items():
        _print_config(name, of_config)
    _print_text(
        'ms: milliseconds a step, median over the rounds; of 8 seeds, for each of them.',
        'GFLOP/s: of the matrix products alone.',
        'large: share of the speed of a product of 2048×2048 matrices of the same dtype.',
        "own: share of the step's time that its products take alone, at their own shapes.",
        'compile: seconds, with an empty cache.',
    )


def _print_config(name: str, found: dict) -> None:
    height, width, channels = found['image_shape']
    print(
        f'\n{name}: {height}×{width}×{channels}, {found["num_tokens"]} tokens, '
        f'{found["num_params"]} parameters, batch {found["batch"]}'
    )
    large = ', '.join(
        f'{statistics.median(rounds) / 1e9:.0f} GFLOP/s in {dtype}'
        for dtype, rounds in found['large_product'].items()
    )
    print(f'large matrix product: {large}')
    print_table(_forms_table(found))
    _print_text(*_sentences(found))
    print_table(_resolutions_table(found))


def _forms_table(found: dict) -> Table:
    table = _table('step of', 'ms', 'quartiles', 'images/s', 'GFLOP/s', 'large', 'own', 'compile')
    for form, compiling in found['compile_seconds'].items():
        kind = 'forward' if form.startswith('forward') else 'training'
        dtype = 'bfloat16' if form.endswith('bfloat16') else 'float32'
        step_flops = found['flops'][kind]
        seconds = found['rounds'][form]
        middle = statistics.median(seconds)
        limits = [step_flops / speed for speed in found['large_product'][dtype]]
        products = found['rounds'][f'{kind} products, {dtype}']
        table.add_row(
            form.replace(', bfloat16', ' bf16').replace(', float32', ''),
            f'{middle * 1e3:.3g}',
            _quartiles(seconds),
            f'{found["batch"] / middle:.0f}',
            f'{step_flops / middle / 1e9:.0f}',
            f'{_ratio(limits, seconds):.0%}',
            f'{_ratio(products, seconds):.0%}',
            f'{compiling:.1f}',
        )
    return table


def _sentences(found: dict) -> list[str]:
    training = found['rounds']['training, float32']
    large = found['large_product']['float32']
    limits = [found['flops']['training'] / speed for speed in large]
    sentences = [
        f'A float32 training step takes {_ratio(training, limits):.2f} times what its products '
        'would take at the speed of the large one.',
        f'8 seeds in one program have {_ratio(training, found["rounds"]["8 seeds"]):.2f} times '
        'the throughput of 8 runs of one.',
    ]
    for form, name in (
        ('plain Flax', 'A step of plain Flax, called from Python as in the original code,'),
        ('PyTorch eager', 'A step of PyTorch, eager,'),
        ('PyTorch compiled', 'A step of PyTorch under torch.compile'),
    ):
        if form in found['rounds']:
            ratio = _ratio(found['rounds'][form], training)
            sentences.append(f'{name} takes {ratio:.2f} times as long as the training step.')
    memory = found['memory']
    measured = memory['measured']
    peak = 'not told by this system' if measured is None else f'{measured / 2**20:.1f} MiB'
    start_up = found['start_up']
    return [
        *sentences,
        f'Peak memory of training: {peak}, predicted {memory["predicted"] / 2**20:.1f} MiB. '
        f'From python run.py to the first step: {start_up["cold"]:.1f} s with empty caches, '
        f'{start_up["warm"]:.1f} s with full ones.',
        *found['notes'],
    ]


def _resolutions_table(found: dict) -> Table:
    table = _table('image', 'tokens', 'ms', 'quartiles', 'images/s', 'GFLOP/s')
    for row in found['resolutions']:
        middle = statistics.median(row['seconds'])
        table.add_row(
            '×'.join(map(str, row['image_size'])),
            str(row['num_tokens']),
            f'{middle * 1e3:.3g}',
            _quartiles(row['seconds']),
            f'{found["batch"] / middle:.0f}',
            f'{row["flops"] / middle / 1e9:.0f}',
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify='right')
    return table


def _quartiles(seconds: list[float]) -> str:
    """Lower and upper quartile in milliseconds."""
    low, _, high = statistics.quantiles(seconds, n=4, method='inclusive')
    return f'{low * 1e3:.3g}–{high * 1e3:.3g}'


def _ratio(seconds: list[float], others: list[float]) -> float:
    """The median over the rounds of the ratio of two times of one round."""
    return statistics.median(one / other for one, other in zip(seconds, others, strict=True))


def _print_text(*sentences: str) -> None:
    print()
    for sentence in sentences:
        print(textwrap.fill(sentence, 80))
