"""Whether a run fits devices, how long its steps take, and what to change."""

import dataclasses
import math
from collections.abc import Callable, Iterator

from mixer_dilated.errors import UserError
from mixer_dilated.planning.compiler import compile_for
from mixer_dilated.planning.devices import Devices
from mixer_dilated.planning.programs import PROGRAMS
from mixer_dilated.planning.this_machine import measured_step, this_machine
from mixer_dilated.training.setup import Setup

MAX_COMPILATIONS = 4  # to find the largest batch
CONFIG_KEYS = ('dtype', 'batch', 'num_seeds', 'accum_steps')
FIELDS = ('title', 'memory_bytes', 'usable_bytes', 'memory_bandwidth', 'source', 'remark')
Report = Callable[[str], None]


def plan_run(
    setup: Setup, devices: Devices, report: Report, *, measured: bool = False, search: bool = True
) -> dict:
    """Plans a run.

    Args:
      setup: what to train.
      devices: to train on.
      report: called with a line before anything is compiled that may take minutes.
      measured: whether to time a step, on this machine.
      search: whether to look for the largest batch, and for changes where memory does not suffice.

    Returns:
      `make_plan`, and with them 'measured_step', 'largest_batch' and 'changes'.
    """
    if devices.kind == 'this':
        devices = dataclasses.replace(devices, hardware=this_machine(setup))
    plan = make_plan(setup, devices, report)
    if measured:
        plan['measured_step'] = measured_step(setup, plan['step_seconds'])
    if search:
        plan['largest_batch'] = find_largest_batch(setup, devices, report, plan)
        if not plan['fits']:
            plan['changes'] = find_changes(setup, devices, report, plan)
    return plan


def make_plan(
    setup: Setup, devices: Devices, report: Report, programs: tuple[str, ...] = PROGRAMS
) -> dict:
    """All numbers of a plan, in bytes, seconds and FLOPs.

    A step takes the computation or the exchanges beside it, whichever is longer, and then those
    that it waits for; times are None where the compiler ran out of memory.
    """
    compiled = compile_for(setup, devices, programs, report)
    config, hardware, step = setup.config, devices.hardware, compiled['seconds']
    peak, total = hardware.peak_flops[config.dtype], compiled['memory_bytes']['total']
    if step is not None:
        exchanges = {True: 0.0, False: 0.0}
        for row in compiled['exchanges']:
            exchanges[row['is_async']] += row['seconds']
        step = max(step, exchanges[True]) + exchanges[False]
    return {
        'devices': {
            'asked': devices.word,
            'count': devices.count,
            'shape': devices.shape,
            'peak_flops': peak,
            **{name: getattr(hardware, name) for name in FIELDS},
        },
        'dataset': config.dataset.name,
        'image_shape': setup.dataset.image_shape,
        'num_tokens': setup.num_tokens,
        'mesh': compiled['mesh'],
        **{key: config[key] for key in CONFIG_KEYS},
        'steps': setup.total_steps,
        'fits': not compiled['out_of_memory'] and total <= hardware.usable_bytes,
        'step_seconds': step,
        'run_seconds': step and step * setup.total_steps,
        'images_per_second': step and config.num_seeds * config.batch / step,
        'peak_share': step and compiled['model_flops'] / step / peak,
        'compiled': compiled,
    }


def find_largest_batch(setup: Setup, devices: Devices, report: Report, plan: dict) -> int | None:
    """The largest batch of those tried that fits, to about an eighth; None if none did.

    Memory grows nearly linearly with the batch: a line through two batches leads to the next.
    """
    usable, sizes = plan['devices']['usable_bytes'], plan['compiled']['memory_bytes']
    unit = plan['mesh']['data'] * setup.config.accum_steps
    most = setup.train_examples // unit * unit
    low, high, points = 0, most + unit, [(0, sizes['arguments'] or 0)]
    for left in reversed(range(MAX_COMPILATIONS + 1)):
        batch, total = plan['batch'], plan['compiled']['memory_bytes']['total']
        low, high = (batch, high) if plan['fits'] else (low, batch)
        points += [(batch, total)] * (total is not None)
        guess = high / 2
        if len(points) > 1:
            (x0, y0), (x1, y1) = points[-2:]
            guess = x1 + (usable - y1) * (x1 - x0) / (y1 - y0 or 1)
        guess = most if guess >= most else _round_down(guess, unit)
        if guess >= high:
            guess = _round_down(high * 7 / 8, unit)
        if guess <= low or not left:
            return low or None
        changed = setup.changed({'batch': guess, 'optimizer.warmup_steps': 0})
        plan = make_plan(changed, devices, report, ('train',))


def _round_down(batch: float, unit: int) -> int:
    """To a multiple of `unit` with four binary digits."""
    multiple = int(batch // unit)
    grain = 1 << max(multiple.bit_length() - 4, 0)
    return multiple // grain * grain * unit


def find_changes(setup: Setup, devices: Devices, report: Report, plan: dict) -> list[dict]:
    """Changes of a config that save memory, each compiled, up to the first that fits.

    Returns:
      of each 'values' by key, 'total_bytes', 'fits' and 'step_seconds'; last of all together, if
      none alone fits.
    """
    rows, before = [], plan['compiled']['memory_bytes']['total'] or math.inf

    def fits(values: dict) -> bool:
        """Appends a change that saves memory; skips one that the mesh or batch does not allow."""
        try:
            after = make_plan(setup.changed(values), devices, report, ('train',))
        except UserError:
            return False
        total, row = after['compiled']['memory_bytes']['total'], {'values': values}
        if total and total < before:
            row |= {name: after[name] for name in ('fits', 'step_seconds')}
            rows.append(row | {'total_bytes': total})
        return after['fits']

    if not any(map(fits, _single_changes(setup, devices, plan))) and len(rows) > 1:
        fits({key: value for row in rows for key, value in row['values'].items()})
    return rows


def _single_changes(setup: Setup, devices: Devices, plan: dict) -> Iterator[dict[str, object]]:
    """Changes of one thing, the cheapest in time first."""
    config, sizes = setup.config, plan['compiled']['memory_bytes']
    if not setup.streams('train'):
        yield {'input.mode': 'stream'}
    if config.dtype == 'float32' and 'bfloat16' in devices.hardware.peak_flops:
        yield {'dtype': 'bfloat16'}
    if plan['mesh']['data'] > 1 and not config.mesh.fsdp:
        yield {'mesh.fsdp': True}
    if not config.model.remat:
        yield {'model.remat': True}
    parts, fixed = 2 * config.accum_steps, sizes['arguments'] or 0
    needed, free = (sizes['total'] or 0) - fixed, plan['devices']['usable_bytes'] - fixed
    while needed * config.accum_steps / parts > free and parts < config.batch:
        parts *= 2
    yield {'accum_steps': parts}
    yield {'mesh.model': 2 * config.mesh.model, 'mesh.data': 0}
