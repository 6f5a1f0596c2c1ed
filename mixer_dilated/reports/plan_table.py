"""A plan on the terminal: memory, work, communication, time, and what to change."""

import collections
import textwrap

from rich import box
from rich.table import Table

from mixer_dilated.errors import printable
from mixer_dilated.reports.cell_text import NOTHING, grouped_text
from mixer_dilated.reports.tables import print_table

# Bytes of arrays from which on an exchange is shown.
SHOWN = 10_000
GIB, MIB = 2**30, 2**20
PREFIXES = ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k'))
NAMES = {
    'parameters': 'parameters',
    'optimizer': 'optimizer state',
    'data': 'images and labels',
    'activations': 'activations kept for the gradient',
    'temporaries': 'gradients and other temporaries',
}


def print_plan(name: str, plan: dict) -> None:
    """Prints all of one plan, the content of `planning.content.plan_content`.

    Args:
      name: of the config.
      plan: its content, with 'compiled' and 'measured_step' if it was held against them.
    """
    devices = plan['devices']
    print(f'{printable(name)} on {_counted(devices)}')
    _print_text(_network_text(plan))
    print_table(_memory_table(plan))
    _print_text(_fits_text(plan))
    if plan['changes']:
        print_table(_changes_table(plan['changes'], devices['usable_bytes']))
    if not plan['fits'] and not any(change['fits'] for change in plan['changes']):
        _print_text('Nothing that was tried fits: it takes a smaller network, or more devices.')
    print_table(_time_table(plan))
    if 'compiled' in plan:
        print_table(_exchanges_table(plan))
    _print_text(*_time_sentences(plan))
    _print_text(*plan['assumptions'])
    if devices['sources']:
        print('\nNumbers of the device:')
        for title, url in devices['sources']:
            print(f'  {title}\n    {url}')


def print_plans(name: str, plans: list[dict]) -> None:
    """Prints a table with a row for each of several plans of one config."""
    print(printable(name))
    _print_text(_network_text(plans[0], of_devices=False))
    print_table(_comparison_table(plans))
    _print_text(
        'in turn: a step in which nothing goes on beside anything else. each: images a second and '
        'device, relative to the first row of its kind, in turn and at best.',
        *plans[0]['assumptions'],
    )


def _counted(devices: dict) -> str:
    shape = '×'.join(map(str, devices['shape']))
    many = f' ({shape})' if len(devices['shape']) > 1 and devices['count'] > 1 else ''
    return f'{devices["asked"]}: {devices["count"]} × {devices["title"]}{many}'


def _network_text(plan: dict, of_devices: bool = True) -> str:
    shape = '×'.join(map(str, plan['image_shape']))
    network = (
        f'{printable(plan["dataset"])} {shape}, {plan["num_tokens"]} tokens, '
        f'{grouped_text(plan["num_params"])} parameters, {plan["dtype"]}'
    )
    if not of_devices:
        return f'{network}.'
    axes = ', '.join(f'{name}={size}' for name, size in plan['mesh'].items())
    fsdp = ', parameters and optimizer state split over data' if plan['fsdp'] else ''
    parts = f' in {plan["accum_steps"]} parts' if plan['accum_steps'] > 1 else ''
    return (
        f'{network}; mesh {axes}{fsdp}; batch {plan["batch"]}: '
        f'{plan["images"] * plan["accum_steps"]} images a device{parts}.'
    )


def _memory_table(plan: dict) -> Table:
    unit, scale = ('GiB', GIB) if plan['total_bytes'] >= GIB else ('MiB', MIB)
    total = _digits(plan['total_bytes'] / scale)
    if 'compiled' in plan:
        return _compiled_memory_table(plan, unit, scale)
    table = _table(('memory of each device', 'total'), (unit, total))
    for part, size in plan['memory'].items():
        table.add_row(NAMES[part], _digits(size / scale))
    return table


def _compiled_memory_table(plan: dict, unit: str, scale: int) -> Table:
    """What is planned beside what the compiler lays out, in the parts that it tells apart."""
    memory, found = plan['memory'], plan['compiled']
    state = sum(memory[part] for part in ('parameters', 'optimizer', 'data'))
    rows = {
        'parameters, optimizer state, images': (state, found['arguments']),
        'activations, gradients and other temporaries': (
            plan['total_bytes'] - state,
            found['temporary'],
        ),
        'total': (plan['total_bytes'], found['arguments'] + found['temporary']),
    }
    table = _table(
        ('memory of each device', ''), (unit, ''), ('compiled', ''), ('planned / compiled', '')
    )
    for label, (planned, compiled) in rows.items():
        cells = (_digits(size / scale) for size in (planned, compiled))
        table.add_row(label, *cells, f'{planned / compiled:.2f}')
    return table


def _fits_text(plan: dict) -> str:
    devices = plan['devices']
    usable, memory = devices['usable_bytes'], devices['memory_bytes']
    share = f', {usable / memory:.0%} of its {_gib(memory)}' if usable < memory else ''
    verdict = 'It fits' if plan['fits'] else 'It does not fit'
    images = (
        ' Its images alone are more than that: train on a part of them '
        '(config.dataset.train_split) or stream them.'
        if plan['memory']['data'] > usable
        else ''
    )
    return f'{verdict}: a program may take {_gib(usable)} GiB of a device{share}.{images}'


def _changes_table(changes: list[dict], usable: float) -> Table:
    table = _table(('change', ''), ('GiB', ''), ('fits', ''), ('a step', ''))
    for change in changes:
        words = [f'config.{key}={value}' for key, value in change['values'].items() if value != 0]
        table.add_row(
            '\n'.join(words),
            _gib(change['total_bytes']),
            'yes' if change['fits'] else 'no',
            _seconds(change['step']),
        )
    return table


def _time_table(plan: dict) -> Table:
    devices, work, seconds = plan['devices'], plan['work'], plan['seconds']
    arrays = work['memory_bytes'] - work['elementwise_bytes'] - work['update_bytes']
    memory, elementwise = devices['memory_bandwidth'], devices['elementwise_bandwidth']
    table = _table(('a step of each device', ''), ('amount', ''), ('at', ''), ('takes', ''))
    rows = [
        ('matrix products', work['flops'], 'FLOP', devices['peak_flops'], seconds['products']),
        ('  and their arrays', arrays, 'B', memory, None),
        ('LayerNorm, GELU, …', work['elementwise_bytes'], 'B', elementwise, seconds['elementwise']),
        ('optimizer', work['update_bytes'], 'B', memory, seconds['update']),
        *(
            (
                f'{each["axis"]}: {each["kind"]} of {each["what"]}',
                each['sent_bytes'],
                'B',
                each['sent_bytes'] / each['seconds'],
                each['seconds'],
            )
            for each in plan['exchanges']
        ),
    ]
    for label, amount, unit, speed, taken in rows:
        table.add_row(
            label,
            f'{_scaled(amount)}{unit}',
            f'{_scaled(speed)}{unit}/s',
            '' if taken is None else _seconds(taken),
        )
    return table


def _time_sentences(plan: dict) -> list[str]:
    seconds = plan['seconds']
    sentences = [
        f'A step: {_seconds(seconds["step"])} at least, {_seconds(seconds["step_in_turn"])} if '
        f'nothing went on beside anything else; {_count(plan["images_per_second"])} '
        f'images/s, {plan["peak_share"]:.0%} of the peak. The {grouped_text(plan["steps"])} steps '
        f'of the run take {_lasting(seconds["run"])}.'
    ]
    if 'measured_step' in plan:
        measured = plan['measured_step']
        sentences.append(
            f'Measured on random images: {_seconds(measured)}, {measured / seconds["step"]:.2f} '
            'times as long.'
        )
    if plan['devices']['remark']:
        sentences.append(f'Of the device: {plan["devices"]["remark"]}.')
    return sentences


def _exchanges_table(plan: dict) -> Table:
    """Arrays that are exchanged, as planned and in the compiled program; small ones left out."""
    planned, compiled = collections.Counter(), {}
    for each in plan['exchanges']:
        planned[each['axis'], each['kind']] += each['array_bytes']
    for axis, kinds in plan['compiled']['exchanged'].items():
        compiled |= {(axis, kind): size for kind, size in kinds.items() if size >= SHOWN}
    table = _table(('arrays exchanged', ''), ('planned', ''), ('compiled', ''))
    for key in sorted({*planned, *compiled}):
        sizes = (planned.get(key), compiled.get(key))
        cells = (NOTHING if size is None else f'{_scaled(size)}B' for size in sizes)
        table.add_row(': '.join(key), *cells)
    return table


def _comparison_table(plans: list[dict]) -> Table:
    headings = ('devices', 'mesh', 'batch', 'GiB', 'fits', 'a step', 'in turn', 'images/s', 'each')
    table = _table(*((heading, '') for heading in headings))
    first = {}
    for plan in plans:
        seconds, devices = plan['seconds'], plan['devices']
        of_each = plan['images_per_second'] / devices['count']
        share = of_each / first.setdefault(devices['title'], of_each)
        in_turn = share * seconds['step'] / seconds['step_in_turn']
        table.add_row(
            devices['asked'],
            '×'.join(map(str, plan['mesh'].values())),
            str(plan['batch']),
            _gib(plan['total_bytes']),
            'yes' if plan['fits'] else 'no',
            _seconds(seconds['step']),
            _seconds(seconds['step_in_turn']),
            _count(plan['images_per_second']),
            f'{in_turn:.0%}–{share:.0%}',
        )
    return table


def _table(*columns: tuple[str, str]) -> Table:
    footer = any(foot for _, foot in columns)
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        show_footer=footer,
    )
    for i, (heading, foot) in enumerate(columns):
        table.add_column(heading, foot, justify='right' if i else 'left', no_wrap=True)
    return table


def _gib(size: float) -> str:
    return _digits(size / GIB)


def _scaled(value: float) -> str:
    """'5.76 T', '197 G': three digits and the prefix of the unit."""
    scale, prefix = next(
        ((scale, prefix) for scale, prefix in PREFIXES if value >= scale), PREFIXES[-1]
    )
    return f'{_digits(value / scale)} {prefix}'


def _count(value: float) -> str:
    return grouped_text(value) if value >= 100 else _digits(value)


def _digits(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f'{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}'


def _lasting(seconds: float) -> str:
    """'3.1 days', '5.2 hours'."""
    for unit, scale in (('days', 86400), ('hours', 3600), ('minutes', 60)):
        if seconds >= 2 * scale:
            return f'{_digits(seconds / scale)} {unit}'
    return f'{_digits(seconds)} seconds'


def _seconds(seconds: float) -> str:
    for unit, scale in (('s', 1.0), ('ms', 1e-3), ('µs', 1e-6)):
        if seconds >= scale or unit == 'µs':
            return f'{_digits(seconds / scale)} {unit}'
    return ''


def _print_text(*sentences: str) -> None:
    print()
    for sentence in sentences:
        print(textwrap.fill(sentence, 80, break_on_hyphens=False))
