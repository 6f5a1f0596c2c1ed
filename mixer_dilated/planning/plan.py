"""Whether a run fits devices, how long its steps take, and what to change."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping

import jax.numpy as jnp
import ml_collections

from mixer_dilated.config import changed
from mixer_dilated.data.dataset_facts import abstract_dataset
from mixer_dilated.data.workers import memory_limit
from mixer_dilated.errors import UserError
from mixer_dilated.models.cpu import exact_gelu
from mixer_dilated.parallel.mesh import mesh_sizes
from mixer_dilated.parallel.multihost import all_devices
from mixer_dilated.planning.compiler import check_compiler, compile_for
from mixer_dilated.planning.devices import Devices, Hardware, parse_devices
from mixer_dilated.planning.programs import PROGRAMS
from mixer_dilated.training.setup import Setup, create_setup
from mixer_dilated.training.timing import (
    TimedEpoch,
    TimedFunction,
    large_side,
    on_random_images,
    time_matmul,
)

MAX_COMPILATIONS = 4  # to find the largest batch
TURNS, STEPS_SECONDS = 5, 0.5  # of what is timed on this machine
CONFIG_KEYS = ('dtype', 'batch', 'num_seeds', 'accum_steps')
FIELDS = ('title', 'memory_bytes', 'usable_bytes', 'memory_bandwidth', 'source', 'remark')
Report = Callable[[str], None]


def plan_runs(
    configs: Mapping[str, ml_collections.ConfigDict],
    devices: str | None,
    batch_per_device: int | None,
    measured: bool,
    report: Report,
) -> Iterator[tuple[str, dict]]:
    """Plans the run of every config, by name, on every kind of devices; of one config at length.

    Args:
      devices: words of --devices, with commas between them; as config.devices says if None.
      batch_per_device: images of a device; as config.batch says if None.
      measured: whether to time a step, on this machine.
      report: called with a line before anything is compiled that may take minutes.

    Yields:
      The name of a config, and what `plan_run` returns.

    Raises:
      UserError: before anything is compiled: no such devices, no compiler for them, or a batch that
        does not fit them.
    """
    setups = []
    for name, config in configs.items():
        dataset, words = abstract_dataset(config.dataset), devices or config.devices
        if not words:
            raise UserError(
                '--devices is missing, and config.devices names none; for example --devices=v5e:1'
            )
        for on in map(parse_devices, words.split(',')):
            if measured and on.kind != 'this':
                raise UserError(
                    '--against=measured: a step is timed on this machine alone, not on '
                    f'{on.word}; add --devices=this'
                )
            batch = (batch_per_device or 0) * mesh_sizes(config, on.count)[1] or config.batch
            setups.append((name, create_setup(changed(config, {'batch': batch}), dataset), on))
            check_compiler(on)
    for name, setup, on in setups:
        yield name, plan_run(setup, on, report, measured=measured, search=len(configs) == 1)


def plan_run(
    setup: Setup, devices: Devices, report: Report, *, measured: bool = False, search: bool = True
) -> dict:
    """`make_plan`, as asked with 'measured_step' and 'largest_batch', and 'changes' if need be."""
    if devices.kind == 'this':
        devices = dataclasses.replace(devices, hardware=measure_hardware(setup))
    plan = make_plan(setup, devices, report)
    if measured:
        steps = min(max(round(STEPS_SECONDS / plan['step_seconds']), 1), 500)
        epoch = TimedEpoch(on_random_images(setup, setup.image_size, steps))
        plan['measured_step'] = _fastest(epoch) / steps
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
        beside = sum(row['seconds'] for row in compiled['exchanges'] if row['is_async'])
        waits = sum(row['seconds'] for row in compiled['exchanges'] if not row['is_async'])
        step = max(step, beside) + waits
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
    most = setup.num_examples['train'] // unit * unit
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
        changes = {'batch': guess, 'optimizer.warmup_steps': 0}
        plan = make_plan(setup.changed(changes), devices, report, ('train',))


def _round_down(batch: float, unit: int) -> int:
    """To a multiple of `unit` with four binary digits."""
    multiple = int(batch // unit)
    grain = 1 << max(multiple.bit_length() - 4, 0)
    return multiple // grain * grain * unit


def find_changes(setup: Setup, devices: Devices, report: Report, plan: dict) -> list[dict]:
    """Changes of a config that save memory, each compiled, up to the first that fits.

    Each has 'values' by key, 'total_bytes', 'fits' and 'step_seconds'. Last come all together, if
    none alone fits.
    """
    rows, before = [], plan['compiled']['memory_bytes']['total'] or math.inf
    for values in _changes(setup, devices, plan, rows):
        try:
            after = make_plan(setup.changed(values), devices, report, ('train',))
        except UserError:  # the mesh or the batch does not allow it
            continue
        if (total := after['compiled']['memory_bytes']['total'] or math.inf) < before:
            row = {name: after[name] for name in ('fits', 'step_seconds')}
            rows.append({'values': values, **row, 'total_bytes': total})
        if after['fits']:
            break
    return rows


def _changes(setup: Setup, devices: Devices, plan: dict, rows: list[dict]) -> Iterator[dict]:
    """Changes of one thing, the cheapest in time first; then all of `rows`, which save memory."""
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
    if len(rows) > 1:
        yield {key: value for row in rows for key, value in row['values'].items()}


def measure_hardware(setup: Setup) -> Hardware:
    """One device of this machine, for a config's dtype and the size of its activations.

    Raises:
      UserError: JAX finds no device.
    """
    config, device, side = setup.config, all_devices()[0], large_side()
    memory = int(min(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'), memory_limit()))
    if stats := device.memory_stats():
        memory = stats['bytes_limit']
    matmul = _fastest(time_matmul(side, side, side, config.dtype))
    # As large as the arrays between matrix products, which caches may hold.
    count = config.batch * setup.num_tokens * config.model.hidden_dim
    activations = jnp.ones(min(max(count, 2**14), 2**26), jnp.float32)
    gelu = _fastest(TimedFunction(exact_gelu, activations))
    return Hardware(
        title=f'{device.device_kind} (this machine, measured)',
        peak_flops={config.dtype: 2 * side**3 / matmul},
        memory_bytes=memory,
        usable_bytes=memory,
        memory_bandwidth=2 * activations.nbytes / gelu,  # read and written
        remark='Peak and bandwidth (of GELU) are measured, with whatever else the machine does',
    )


def _fastest(timed: TimedEpoch | TimedFunction) -> float:
    """Of some turns: what else the machine does only makes them longer."""
    return min(timed.seconds() for _ in range(TURNS))
