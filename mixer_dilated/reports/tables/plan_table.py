"""Plans on the terminal: one at length, or a line for each of many."""

from collections.abc import Mapping, Sequence

from rich.table import Table

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
from mixer_dilated.reports.tables.terminal import new_table, print_table, print_text

GIB, MIB = 2**30, 2**20
ESTIMATE = (
    'An estimate; nothing was run. A TPU’s compiler counts cycles; other devices compute products '
    'at their peak, then move all arrays at the bandwidth of their memory, and a GPU takes 2 µs to '
    'start a kernel. Links carry their full bandwidth. Start-up, evaluation and decoding of images '
    'are left out.'
)


def print_plans(plans: Mapping[str, Sequence[dict]]) -> None:
    """Prints a line for each plan of several configs.

    Args:
      plans: `planning.plan.plan_run` for each of some devices, by the name of the config.
    """
    headings = 'devices', 'fits', 'GiB', 'of', 'a step', 'images/s', 'peak', 'compiled'
    table = new_table('config', *headings, dense=True)
    for name, of_config in plans.items():
        for plan in of_config:
            devices, compiled, speed = plan['devices'], plan['compiled'], plan['images_per_second']
            table.add_row(
                printable(cut_front(name, 22)),
                devices['asked'],
                setting_text(plan['fits']),
                _size(compiled['memory_bytes']['total']),
                _size(devices['usable_bytes']),
                seconds_text(plan['step_seconds']),
                NOTHING if speed is None else grouped_text(speed),
                optional_text(plan['peak_share'], '.0%'),
                f'{compiled["compile_seconds"]:.0f} s',
            )
    print_table(table)
    print_text(f'Compiled by {_versions_text(compiled)}.', ESTIMATE)


def print_plan(name: str, plan: dict) -> None:
    """Prints a plan.

    Args:
      name: of the config.
      plan: `planning.plan.plan_run`.
    """
    devices, compiled, mesh = plan['devices'], plan['compiled'], plan['mesh']
    sizes = ', '.join(f'{axis}={size}' for axis, size in mesh.items())
    images = '×'.join(map(str, plan['image_shape']))
    print(f'{printable(name)} on {devices["asked"]}: {devices["count"]} × {devices["title"]}')
    print_text(
        f'{printable(plan["dataset"])} {images}, {plan["num_tokens"]} tokens, '
        f'{grouped_text(compiled["num_params"])} parameters, {plan["dtype"]}; mesh {sizes}; batch '
        f'{plan["batch"]}: {plan["batch"] // mesh["data"]} images a device.'
    )
    print_table(_memory_table(compiled['programs']))
    print_text(_fits_text(plan))
    if plan.get('changes'):
        print_table(_changes_table(plan['changes']))
    if plan['step_seconds']:
        print_table(_parts_table(compiled))
        if compiled['exchanges']:
            print_table(_exchanges_table(compiled['exchanges']))
        print_text(_time_text(plan))
    made = f'Compiled in {compiled["compile_seconds"]:.0f} s by {_versions_text(compiled)}.'
    print_text(made, ESTIMATE, f'{devices["remark"]}. {devices["source"]}')


def _memory_table(programs: dict) -> Table:
    large = any((sizes['total'] or GIB) >= GIB for sizes in programs.values())
    kinds, unit = ('arguments', 'temporaries', 'total'), GIB if large else MIB
    table = new_table(f'memory of a device, {"GiB" if large else "MiB"}', *kinds, dense=True)
    for program, sizes in programs.items():
        table.add_row(program, *(_size(sizes[kind], unit) for kind in kinds))
    return table


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


def _changes_table(changes: list[dict]) -> Table:
    table = new_table('change', 'GiB', 'fits', 'a step', dense=True)
    for change in changes:
        flags = '\n'.join(f'--config.{key}={value}' for key, value in change['values'].items())
        fits, step = setting_text(change['fits']), seconds_text(change['step_seconds'])
        table.add_row(flags, _size(change['total_bytes']), fits, step)
    return table


def _parts_table(compiled: dict) -> Table:
    """Cycles, or bytes and kernels, by part of the network; the operations that cost most."""
    parts, kernels = compiled['cycles_by_part'], compiled['kernels_by_part'] or {}
    unit = 'cycles' if parts else 'B'
    parts = parts or compiled['bytes_by_part']
    total = sum(parts.values()) or 1
    table = new_table(
        'a step of a device', unit, 'share', *(['kernels'] if kernels else []), dense=True
    )
    for part, amount in (parts | {'in all': total}).items():
        count = [str(kernels.get(part, compiled['kernels']))] if kernels else []
        table.add_row(part, scaled_text(amount, ''), f'{amount / total:.0%}', *count)
    table.add_row('the largest:')
    for name, amount in compiled['largest'].items():
        label = f'  {printable(cut_front(name, 48))}'
        table.add_row(label, scaled_text(amount, ''), f'{amount / total:.0%}')
    return table


def _exchanges_table(exchanges: list[dict]) -> Table:
    table = new_table(
        'exchanges along', 'kind', 'count', 'arrays', 'meanwhile', 'takes', dense=True
    )
    table.columns[1].justify = 'left'
    for row in exchanges:
        meanwhile = 'it computes' if row['is_async'] else 'it waits'
        size, seconds = scaled_text(row['array_bytes'], 'B'), seconds_text(row['seconds'])
        table.add_row(row['axis'], row['kind'], str(row['count']), size, meanwhile, seconds)
    return table


def _time_text(plan: dict) -> str:
    compiled, step, measured = plan['compiled'], plan['step_seconds'], plan.get('measured_step')
    flops, accessed = (compiled[name] for name in ('model_flops', 'bytes_accessed'))
    text = (
        f'A step: {seconds_text(step)}, {grouped_text(plan["images_per_second"])} images/s, '
        f'{plan["peak_share"]:.0%} of the peak for the {scaled_text(flops, "FLOP")} '
        f'of the network; {scaled_text(accessed, "B")} accessed. The '
        f'{grouped_text(plan["steps"])} steps of the run: {seconds_text(plan["run_seconds"])}.'
    )
    if measured:
        text += (
            f' Measured on random images: {seconds_text(measured)}, {measured / step:.2f} times.'
        )
    return text


def _versions_text(compiled: dict) -> str:
    return ', '.join(f'{name} {version}' for name, version in compiled['versions'].items())


def _size(size: float | None, unit: int = GIB) -> str:
    return NOTHING if size is None else digits_text(size / unit)
