"""What a benchmark of the input measured, as a table and sentences on the terminal."""

import statistics

from rich.table import Table

from mixer_dilated.reports.formatting import NOTHING
from mixer_dilated.reports.tables.benchmark_table import busy_sentences, median_ratio
from mixer_dilated.reports.tables.terminal import new_table, print_table, print_text


def print_input_benchmark(results: dict) -> None:
    """Prints what `benchmark.input_speed.benchmark_input` returned."""
    device, versions = results['device'], results['versions']
    print(f'\n{device["kind"]}, {results["cores"]} cores, Python {versions["python"]}')
    for name, of_config in results['inputs'].items():
        height, width, channels = of_config['image_shape']
        decoding = statistics.median(of_config['decoding']['speed'])
        print_text(
            f'{name}: {of_config["examples"]} images to {height}×{width}×{channels}, '
            f'batch {of_config["batch"]}',
            f'one thread that decodes, and does nothing else: {decoding:.0f} images/s',
        )
        print_table(_streams_table(of_config, results['cores']))
        print_text(*_sentences(of_config))
    print_text(
        'bound: share of the speed of as many threads that only decode as there are workers, at '
        'most one a core (in the row "threads" one a core), if each had a core for itself.',
        'decoding: share of the CPU time of all processes that decoding alone takes for as many '
        'images; it is what bound would be if nothing else ran here.',
        'first batch: seconds from opening the stream, median and longest of the rounds.',
        *busy_sentences(results),
    )


def _streams_table(results: dict, cores: int) -> Table:
    table = new_table(
        'decoded by', 'images/s', 'bound', 'decoding', 'first batch', 'longest', dense=True
    )
    alone = results['decoding']
    for workers, stream in results['streams'].items():
        parallel = min(int(workers) or cores, cores)
        table.add_row(
            {'0': 'threads', '1': '1 worker'}.get(str(workers), f'{workers} workers'),
            f'{statistics.median(stream["speed"]):.0f}',
            _share(stream['speed'], [parallel * speed for speed in alone['speed']]),
            _share(stream['cpu_speed'], alone['cpu_speed']),
            f'{statistics.median(stream["first_batch"]):.1f}',
            f'{max(stream["first_batch"]):.1f}',
        )
    return table


def _share(speeds: list[float | None], bounds: list[float]) -> str:
    return NOTHING if None in speeds else f'{median_ratio(speeds, bounds):.0%}'


def _sentences(results: dict) -> list[str]:
    waiting, memory = results['waiting'], results['memory']
    tenth, whole = (
        NOTHING if memory[part] is None else f'{memory[part] / 2**20:.0f} MiB'
        for part in ('tenth', 'whole')
    )
    return [
        f'Training waited for data {waiting["waited"] / waiting["seconds"]:.1%} of the time '
        f'({waiting["steps"]} steps in {waiting["seconds"]:.0f} s); a step took '
        f'{waiting["seconds"] / waiting["at_hand"]:.2f} times as long as one whose batch is at '
        'hand.',
        f'Peak memory of the stream with two workers: {tenth} for a tenth of the images, {whole} '
        'for all.',
        *results['notes'],
    ]
