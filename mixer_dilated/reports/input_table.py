"""What a benchmark of the input measured, as a table and sentences on the terminal."""

import statistics

from rich.table import Table

from mixer_dilated.reports.benchmark_table import new_table, print_text
from mixer_dilated.reports.cell_text import NOTHING
from mixer_dilated.reports.tables import print_table


def print_input_benchmark(found: dict) -> None:
    """Prints what `benchmark.input_speed.benchmark_input` returned."""
    device, versions = found['device'], found['versions']
    print(f'\n{device["kind"]}, {found["cores"]} cores, Python {versions["python"]}')
    for name, of_config in found['inputs'].items():
        height, width, channels = of_config['image_shape']
        decoding = statistics.median(of_config['decoding'])
        print_text(
            f'{name}: {of_config["examples"]} images to {height}×{width}×{channels}, '
            f'batch {of_config["batch"]}',
            f'one thread that decodes, and does nothing else: {decoding:.0f} images/s',
        )
        print_table(_streams_table(of_config, found['cores']))
        print_text(*_sentences(of_config))
    print_text(
        'bound: share of what threads that only decode would reach, as many as there are workers, '
        'or cores where these are fewer or there are no workers; median over the rounds.',
        'first batch: seconds from opening the stream, median and longest.',
    )


def _streams_table(found: dict, cores: int) -> Table:
    table = new_table('decoded by', 'images/s', 'bound', 'first batch', 'longest')
    for workers, stream in found['streams'].items():
        parallel = min(int(workers) or cores, cores)
        shares = [
            speed / (parallel * alone)
            for speed, alone in zip(stream['speed'], found['decoding'], strict=True)
        ]
        table.add_row(
            f'{workers} workers' if int(workers) > 1 else '1 worker' if int(workers) else 'threads',
            f'{statistics.median(stream["speed"]):.0f}',
            f'{statistics.median(shares):.0%}',
            f'{statistics.median(stream["first_batch"]):.1f}',
            f'{max(stream["first_batch"]):.1f}',
        )
    return table


def _sentences(found: dict) -> list[str]:
    waiting, memory = found['waiting'], found['memory']
    tenth, whole = (
        NOTHING if memory[part] is None else f'{memory[part] / 2**20:.0f} MiB'
        for part in ('tenth', 'whole')
    )
    return [
        f'Training waited for data {waiting["waited"] / waiting["seconds"]:.1%} of the time '
        f'({waiting["steps"]} steps in {waiting["seconds"]:.0f} s).',
        f'Peak memory of the stream with two workers: {tenth} for a tenth of the images, {whole} '
        'for all.',
        *found['notes'],
    ]
