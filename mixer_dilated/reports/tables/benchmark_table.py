"""What a benchmark measured, as tables and sentences on the terminal."""

from statistics import median, quantiles

from mixer_dilated.reports.formatting import NOTHING, count_text, digits_text
from mixer_dilated.reports.tables.terminal import print_table, print_text

BUSY = 0.3  # cores that other programs use; more are mentioned
UNITS = {'µs': 1e-6, 'ms': 1e-3, 's': 1.0}


def print_benchmark(results: dict) -> None:
    """Prints what `benchmark.measure.benchmark` returned."""
    device, versions = results['device'], results['versions']
    print(f'\n{device["kind"]}, jax {versions["jax"]}, Python {versions["python"]}; one device')
    for name, result in results['configs'].items():
        large = ', '.join(
            f'{median(rounds) / 1e9:.0f} GFLOP/s in {dtype}'
            for dtype, rounds in result['large_matmul'].items()
        )
        print_text(
            f'{name}: {_by(result["image_shape"])}, {result["num_tokens"]} tokens, '
            f'{result["num_params"]} parameters, batch {result["batch"]}',
            f'large matrix product: {large}',
        )
        _print_variants(result)
        print_text(*_sentences(result))
    rows, _, columns = results['large_shape']
    start_ups = [result['start_up'] for result in results['configs'].values()]
    kept = all(start_up is None or start_up['programs_kept'] for start_up in start_ups)
    print_text(
        f'{", ".join(UNITS)}: a step, median over the rounds; of several seeds, for each of them.',
        'GFLOP/s: of the matrix products alone.',
        f'large: share of the speed of a product of {rows}×{columns} matrices of the same dtype.',
        "own: share of the step's time that its products take alone, at their own shapes.",
        'compile: seconds, with an empty cache.',
        *([] if kept else ['full caches: of images; on Intel CPUs no compiled programs are kept.']),
        *_busy_sentences(results),
    )


def _print_variants(result: dict) -> None:
    """A row a variant: median and quartiles of a step, and shares of what the machine can do."""
    shortest = min(median(variant['seconds']) for variant in result['variants'].values())
    # The largest unit of which the shortest median is at least one.
    unit = next((unit for unit in reversed(UNITS) if shortest >= UNITS[unit]), 'µs')
    rows = []
    for name, variant in result['variants'].items():
        seconds, flops = variant['seconds'], variant['flops']
        low, middle, high = quantiles(seconds, n=4, method='inclusive')
        texts = [digits_text(time / UNITS[unit]) for time in (low, middle, high)]
        rows.append((
            name,
            texts[1],
            f'{texts[0]}–{texts[2]}',
            f'{result["batch"] / middle:.0f}',
            f'{flops / middle / 1e9:.0f}',
            f'{_ratio(_limits(result, variant), seconds):.0%}',
            f'{_ratio(variant["matmul_seconds"], seconds):.0%}',
            f'{variant["compile_seconds"]:.1f}',
        ))  # fmt: skip
    headings = 'step of', unit, 'quartiles', 'images/s', 'GFLOP/s', 'large', 'own', 'compile'
    print_table(headings, rows, dense=True)


def _limits(result: dict, variant: dict) -> list[float]:
    """Seconds of a step's products in each round at the speed of the large one of its dtype."""
    return [variant['flops'] / speed for speed in result['large_matmul'][variant['dtype']]]


def _sentences(result: dict) -> list[str]:
    step, start_up, memory = result['variants']['training'], result['start_up'], result['memory']
    sentences = [
        f'A {step["dtype"]} training step takes '
        f'{_ratio(step["seconds"], _limits(result, step)):.2f} times what its products would '
        'take at the speed of the large one.'
    ]
    for name, variant in result['variants'].items():
        if (seeds := variant['seeds']) > 1:
            faster = _ratio(step['seconds'], variant['seconds'])
            sentences.append(
                f'{seeds} seeds in one program have {faster:.2f} times the throughput of {seeds} '
                'runs of one.'
            )
        if variant['described']:
            longer = _ratio(variant['seconds'], step['seconds'])
            sentences.append(
                f'A step of {variant["described"]} takes {longer:.2f} times as long as the '
                'training step.'
            )
        if variant['image_size'] != step['image_size']:
            side, tokens = _by(variant['image_size']), count_text(variant['num_tokens'], 'token')
            sentences.append(f'Images of {name} have {side} pixels, {tokens}.')
    peak = predicted = NOTHING
    if memory:
        peak = _mebibytes(memory['measured'], '.1f', 'not reported by this system')
        predicted = _mebibytes(memory['predicted'], '.1f')
    cold, warm = (f'{start_up[s]:.1f} s' if start_up else NOTHING for s in ('cold', 'warm'))
    return [
        *sentences,
        f'Peak memory of training: {peak}, predicted {predicted}. From python run.py to the first '
        f'step: {cold} with empty caches, {warm} with full ones.',
        *result['notes'],
    ]


def print_input_benchmark(results: dict) -> None:
    """Prints what `benchmark.input_speed.benchmark_input` returned."""
    cores = results['cores']
    print(f'\n{results["device"]["kind"]}, {cores} cores, Python {results["versions"]["python"]}')
    for name, result in results['inputs'].items():
        alone, waiting, memory = (result[key] for key in ('decoding', 'waiting', 'memory'))
        print_text(
            f'{name}: {result["examples"]} images to {_by(result["image_shape"])}, '
            f'batch {result["batch"]}',
            f'one thread that decodes, and does nothing else: {median(alone["speed"]):.0f} '
            'images/s',
        )
        rows = []
        for workers, stream in result['streams'].items():
            parallel = min(workers or cores, cores)
            cpu, first = stream['cpu_speed'], stream['first_batch']
            rows.append((
                count_text(workers, 'worker') if workers else 'threads',
                f'{median(stream["speed"]):.0f}',
                f'{_ratio(stream["speed"], [parallel * one for one in alone["speed"]]):.0%}',
                NOTHING if None in cpu else f'{_ratio(cpu, alone["cpu_speed"]):.0%}',
                f'{median(first):.1f}',
                f'{max(first):.1f}',
            ))  # fmt: skip
        headings = 'decoded by', 'images/s', 'bound', 'decoding', 'first batch', 'longest'
        print_table(headings, rows, dense=True)
        print_text(
            f'Training waited for data {waiting["waited"] / waiting["seconds"]:.1%} of the time '
            f'({waiting["steps"]} steps in {waiting["seconds"]:.0f} s); a step took '
            f'{waiting["seconds"] / waiting["at_hand"]:.2f} times as long as one whose batch is at '
            'hand.',
            f'Peak memory of the stream with two workers: {_mebibytes(memory["tenth"], ".0f")} for '
            f'a tenth of the images, {_mebibytes(memory["whole"], ".0f")} for all.',
            *result['notes'],
        )
    print_text(
        'bound: share of the speed of as many threads that only decode as there are workers, at '
        'most one a core (in the row "threads" one a core), if each had a core for itself.',
        'decoding: share of the CPU time of all processes that decoding alone takes for as many '
        'images; it is what bound would be if nothing else ran here.',
        'first batch: seconds from opening the stream, median and longest of the rounds.',
        *_busy_sentences(results),
    )


def _busy_sentences(results: dict) -> list[str]:
    busy = results['busy_cores'] or 0
    text = f'Other programs kept {busy:.1f} cores busy before it began: times may be too long.'
    return [text] if busy > BUSY else []


def _ratio(ones: list[float], others: list[float]) -> float:
    """The median over the rounds of the ratio of what was measured in one round."""
    return median(one / other for one, other in zip(ones, others, strict=True))


def _by(sizes: list[int]) -> str:
    return '×'.join(map(str, sizes))


def _mebibytes(size: int | None, form: str, nothing: str = NOTHING) -> str:
    return f'{size / 2**20:{form}} MiB' if size else nothing
