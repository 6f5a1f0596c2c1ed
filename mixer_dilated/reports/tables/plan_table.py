"""Plans on the terminal: one at length, or a line for each of many."""

from collections.abc import Mapping, Sequence

from mixer_dilated.errors import printable
from mixer_dilated.reports.formatting import (
    NOTHING,
    cut_front,
    digits_text,
    grouped_text,
    optional_text,
    scaled_text,
    seconds_text,
    setting_text,
)
from mixer_dilated.reports.tables.terminal import print_table, print_text

GIB, MIB = 2**30, 2**20
ESTIMATE = (
    'An estimate; nothing was run. A TPU’s compiler counts cycles; other devices compute products '
    'at their peak, then move all arrays at the bandwidth of their memory, and a GPU takes 2 µs to '
    'start a kernel. Links carry their full bandwidth. Start-up, evaluation and decoding of images '
    'are left out.'
)


def print_plans(plans: Mapping[str, Sequence[dict]]) -> None:
    """Prints a line for each plan of `planning.plan.plan_run`, {config: plans}."""
    rows, compiled = [], None
    for name, of_config in plans.items():
        for plan in of_config:
            devices, compiled, speed = plan['devices'], plan['compiled'], plan['images_per_second']
            rows.append((
                printable(cut_front(name, 24)),
                devices['asked'],
                setting_text(plan['fits']),
                _size(compiled['memory_bytes']['total']),
                _size(devices['usable_bytes']),
                seconds_text(plan['step_seconds']),
                NOTHING if speed is None else grouped_text(speed),
                optional_text(plan['peak_share'], '.0%'),
            ))  # fmt: skip
    headings = 'config', 'devices', 'fits', 'GiB', 'of', 'a step', 'images/s', 'peak'
    print_table(headings, rows, dense=True)
    print_text(f'Compiled by {_versions_text(compiled)}.', ESTIMATE)


def print_plan(name: str, plan: dict) -> None:
    """Prints a plan of `planning.plan.plan_run` for the config of that name."""
    devices, compiled, mesh = plan['devices'], plan['compiled'], plan['mesh']
    sizes = ', '.join(f'{axis}={size}' for axis, size in mesh.items())
    images = '×'.join(map(str, plan['image_shape']))
    print(f'{printable(name)} on {devices["asked"]}: {devices["count"]} × {devices["title"]}')
    print_text(
        f'{printable(plan["dataset"])} {images}, {plan["num_tokens"]} tokens, '
        f'{grouped_text(compiled["num_params"])} parameters, {plan["dtype"]}; mesh {sizes}; batch '
        f'{plan["batch"]}: {plan["batch"] // mesh["data"]} images a device.'
    )
    programs, kinds = compiled['programs'], ('arguments', 'temporaries', 'total')
    large = any((sizes['total'] or GIB) >= GIB for sizes in programs.values())
    unit, name = (GIB, 'GiB') if large else (MIB, 'MiB')
    rows = [
        (program, *(_size(sizes[kind], unit) for kind in kinds))
        for program, sizes in programs.items()
    ]
    print_table((f'memory of a device, {name}', *kinds), rows, dense=True)
    print_text(_fits_text(plan))
    rows = [
        (
            '\n'.join(f'--config.{key}={value}' for key, value in change['values'].items()),
            _size(change['total_bytes']),
            setting_text(change['fits']),
            seconds_text(change['step_seconds']),
        )
        for change in plan.get('changes', ())
    ]
    if rows:
        print_table(('change', 'GiB', 'fits', 'a step'), rows, dense=True)
    if plan['step_seconds']:
        _print_parts(compiled)
        _print_exchanges(compiled['exchanges'])
        print_text(_time_text(plan))
    made = f'Compiled in {compiled["compile_seconds"]:.0f} s by {_versions_text(compiled)}.'
    print_text(made, ESTIMATE, f'{devices["remark"]}. {devices["source"]}')


def _fits_text(plan: dict) -> str:
    devices, total = plan['devices'], plan['compiled']['memory_bytes']['total']
    usable, memory = _size(devices['usable_bytes']), _size(devices['memory_bytes'])
    text = (
        f'It {"fits" if plan["fits"] else "does not fit"}: {_size(total)} GiB, of which a device '
        f'has {usable} for it ({memory} in all).'
    )
    if 'largest_batch' in plan:
        text += f' The largest batch found to fit: {plan["largest_batch"] or "none"}.'
    if not any(change['fits'] for change in plan.get('changes', [{'fits': True}])):
        text += ' Nothing that was tried fits: it takes a smaller network, or more devices.'
    return text


def _print_parts(compiled: dict) -> None:
    """Cycles, or bytes and kernels, by part of the network; the operations that cost most."""
    parts, kernels = compiled['cycles_by_part'], compiled['kernels_by_part'] or {}
    unit = 'cycles' if parts else 'B'
    parts = parts or compiled['bytes_by_part']
    total = sum(parts.values()) or 1

    def row(label: str, amount: float, *count: str) -> tuple:
        return label, scaled_text(amount, ''), f'{amount / total:.0%}', *count

    rows = [
        row(part, amount, *([str(kernels.get(part, compiled['kernels']))] if kernels else []))
        for part, amount in (parts | {'in all': total}).items()
    ]
    largest = compiled['largest'].items()
    rows += [('the largest:',), *(row(f'  {printable(cut_front(n, 48))}', a) for n, a in largest)]
    headings = 'a step of a device', unit, 'share', *(['kernels'] if kernels else [])
    print_table(headings, rows, dense=True)


def _print_exchanges(exchanges: list[dict]) -> None:
    rows = [
        (row['axis'], row['kind'], str(row['count']), scaled_text(row['array_bytes'], 'B'),
         'it computes' if row['is_async'] else 'it waits', seconds_text(row['seconds']))
        for row in exchanges
    ]  # fmt: skip
    headings = 'exchanges along', 'kind', 'count', 'arrays', 'meanwhile', 'takes'
    if rows:
        print_table(headings, rows, left=(0, 1), dense=True)


def _time_text(plan: dict) -> str:
    compiled, step, measured = plan['compiled'], plan['step_seconds'], plan.get('measured_step')
    flops, accessed = (compiled[name] for name in ('model_flops', 'bytes_accessed'))
    text = (
        f'A step: {seconds_text(step)}, {grouped_text(plan["images_per_second"])} images/s, '
        f'{plan["peak_share"]:.0%} of the peak for the {scaled_text(flops, "FLOP")} '
        f'of the network; {scaled_text(accessed, "B")} accessed. The '
        f'{grouped_text(plan["steps"])} steps of the run: {seconds_text(plan["run_seconds"])}.'
    )
    if not measured:
        return text
    return (
        f'{text} Measured on random images: {seconds_text(measured)}, {measured / step:.2f} times.'
    )


def _versions_text(compiled: dict) -> str:
    return ', '.join(f'{name} {version}' for name, version in compiled['versions'].items())


def _size(size: float | None, unit: int = GIB) -> str:
    return NOTHING if size is None else digits_text(size / unit)
