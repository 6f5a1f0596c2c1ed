"""A plan on the terminal: memory, work by part, exchanges, time, and what to change."""

import textwrap

from rich import box
from rich.table import Table

from mixer_dilated.errors import printable
from mixer_dilated.reports.formatting import (
    NOTHING,
    digits_text,
    grouped_text,
    scaled_text,
    seconds_text,
)
from mixer_dilated.reports.tables.terminal import print_table

GIB, MIB = 2**30, 2**20
ESTIMATE = (
    'An estimate; nothing was run. A TPU’s compiler counts cycles; other devices compute products '
    'at their peak, then move all arrays at the bandwidth of their memory, and a GPU takes 2 µs to '
    'start a kernel. Links carry their full bandwidth. Start-up, evaluation and decoding of images '
    'are left out.'
)


def print_plan(name: str, plan: dict) -> None:
    """Prints a plan.

    Args:
      name: of the config.
      plan: `planning.plan.make_plan`, with 'largest_batch', 'changes' and 'measured_step' where
        they are known.
    """
    devices, compiled, mesh = plan['devices'], plan['compiled'], plan['mesh']
    sizes = ', '.join(f'{axis}={size}' for axis, size in mesh.items())
    images = '×'.join(map(str, plan['image_shape']))
    params = compiled['num_params'] and f'{grouped_text(compiled["num_params"])} parameters, '
    print(f'{printable(name)} on {devices["asked"]}: {devices["count"]} × {devices["title"]}\n')
    _print_text(
        f'{printable(plan["dataset"])} {images}, {plan["num_tokens"]} tokens, {params or ""}'
        f'{plan["dtype"]}; mesh {sizes}; batch {plan["batch"]}: {plan["batch"] // mesh["data"]} '
        'images a device.'
    )
    print_table(_memory_table(compiled['programs']))
    _print_text('', _fits_text(plan))
    if plan.get('changes'):
        print_table(_changes_table(plan['changes']))
    if plan['step_seconds']:
        print_table(_parts_table(compiled))
        if compiled['exchanges']:
            print_table(_exchanges_table(compiled['exchanges']))
        _print_text('', _time_text(plan))
    versions = ', '.join(f'{name} {version}' for name, version in compiled['versions'].items())
    _print_text(f'Compiled in {compiled["compile_seconds"]:.0f} s by {versions}.')
    _print_text('', ESTIMATE, f'{devices["remark"]}. {devices["source"]}')


def _memory_table(programs: dict) -> Table:
    large = any((sizes['total'] or GIB) >= GIB for sizes in programs.values())
    kinds, unit = ('arguments', 'temporaries', 'total'), GIB if large else MIB
    table = _table(f'memory of a device, {"GiB" if large else "MiB"}', *kinds)
    for program, sizes in programs.items():
        table.add_row(program, *(_size(sizes[kind], unit) for kind in kinds))
    return table


def _fits_text(plan: dict) -> str:
    devices, total = plan['devices'], plan['compiled']['memory_bytes']['total']
    usable, memory = _size(devices['usable_bytes']), _size(devices['memory_bytes'])
    verdict = f'It {"fits" if plan["fits"] else "does not fit"}'
    text = (
        f'{verdict}: {_size(total)} GiB, of which a device has {usable} for it ({memory} in all).'
    )
    if 'largest_batch' in plan:
        batch = plan['largest_batch']
        text += f' The largest batch found to fit: {batch or "none"}.'
    if not any(change['fits'] for change in plan.get('changes', [{'fits': True}])):
        text += ' Nothing that was tried fits: it takes a smaller network, or more devices.'
    return text


def _changes_table(changes: list[dict]) -> Table:
    table = _table('change', 'GiB', 'fits', 'a step')
    for change in changes:
        flags = '\n'.join(f'--config.{key}={value}' for key, value in change['values'].items())
        fits, step = 'yes' if change['fits'] else 'no', seconds_text(change['step_seconds'])
        table.add_row(flags, _size(change['total_bytes']), fits, step)
    return table


def _parts_table(compiled: dict) -> Table:
    """Cycles, or bytes and kernels, by part of the network; the operations that cost most."""
    parts, kernels = compiled['cycles_by_part'], compiled['kernels_by_part'] or {}
    unit = 'cycles' if parts else 'B'
    parts = parts or compiled['bytes_by_part']
    total = sum(parts.values()) or 1
    table = _table('a step of a device', unit, 'share', *(['kernels'] if kernels else []))
    for part, amount in (parts | {'in all': total}).items():
        count = [str(kernels.get(part, compiled['kernels']))] if kernels else []
        table.add_row(part, scaled_text(amount, ''), f'{amount / total:.0%}', *count)
    table.add_row('the largest:')
    for name, amount in compiled['largest'].items():
        label = printable(name if len(name) <= 48 else f'…{name[-47:]}')
        table.add_row(f'  {label}', scaled_text(amount, ''), f'{amount / total:.0%}')
    return table


def _exchanges_table(exchanges: list[dict]) -> Table:
    table = _table('exchanges along', 'kind', 'count', 'arrays', 'meanwhile', 'takes')
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


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify='right' if i else 'left', no_wrap=True)
    return table


def _size(size: float | None, unit: int = GIB) -> str:
    return NOTHING if size is None else digits_text(size / unit)


def _print_text(*paragraphs: str) -> None:
    for paragraph in paragraphs:
        print(textwrap.fill(paragraph, 80, break_on_hyphens=False))
