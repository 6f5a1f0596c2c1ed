"""Whether a run fits devices, how long its steps take, and what to change."""

from collections.abc import Callable, Iterator

from mixer_dilated.errors import UserError
from mixer_dilated.planning.devices import Devices, Hardware
from mixer_dilated.training.setup import Setup

MAX_COMPILATIONS = 4  # to find the largest batch
CONFIG_KEYS = ('dtype', 'batch', 'num_seeds', 'accum_steps')
FIELDS = ('title', 'memory_bytes', 'usable_bytes', 'memory_bandwidth', 'source', 'remark')
TIMES = ('step_seconds', 'run_seconds', 'images_per_second', 'peak_share')
Compile = Callable[[Setup, tuple[str, ...]], dict]


def make_plan(setup: Setup, devices: Devices, hardware: Hardware, compiled: dict) -> dict:
    """All numbers of a plan, in bytes, seconds and FLOPs.

    A step takes the computation or the exchanges beside it, whichever is longer, and then those
    that it waits for; `TIMES` are None where the compiler ran out of memory.

    Args:
      setup: what to train.
      devices: to train on.
      hardware: one of them.
      compiled: what `programs.compile_programs` returns for them.
    """
    config, peak, times = setup.config, hardware.peak_flops[setup.config.dtype], (None,) * 4
    if compiled['seconds'] is not None:
        exchanges = {True: 0.0, False: 0.0}
        for row in compiled['exchanges']:
            exchanges[row['is_async']] += row['seconds']
        step = max(compiled['seconds'], exchanges[True]) + exchanges[False]
        images = config.num_seeds * config.batch
        times = step, step * setup.total_steps, images / step, compiled['model_flops'] / step / peak
    total = compiled['memory_bytes']['total']
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
        **dict(zip(TIMES, times, strict=True)),
        'compiled': compiled,
    }


def find_largest_batch(setup: Setup, plan: dict, compile_: Compile) -> int | None:
    """The largest batch of those tried that fits, to about an eighth; None if none did.

    Memory grows nearly linearly with the batch: a line through two batches leads to the next.
    """
    usable, sizes = plan['devices']['usable_bytes'], plan['compiled']['memory_bytes']
    unit = plan['mesh']['data'] * setup.config.accum_steps
    most = setup.train_examples // unit * unit
    batch, total, fixed = setup.config.batch, sizes['total'], sizes['arguments'] or 0
    low, high = (batch, most + unit) if plan['fits'] else (0, batch)
    slope = total and (total - fixed) / batch
    for _ in range(MAX_COMPILATIONS):
        line = (usable - fixed) / slope if slope else high / 2
        guess = most if line >= most else _round_down(line, unit)
        if guess >= high:
            guess = _round_down(high * 7 / 8, unit)
        if guess <= low:
            break
        changed = setup.changed({'batch': guess, 'optimizer.warmup_steps': 0})
        needed = compile_(changed, ('train',))['memory_bytes']['total']
        if needed and total and needed != total:
            slope = (needed - total) / (guess - batch)
            fixed = needed - slope * guess
        batch, total = guess, needed
        low, high = (guess, high) if needed and needed <= usable else (low, guess)
    return low or None


def _round_down(batch: float, unit: int) -> int:
    """To a multiple of `unit` with four binary digits."""
    multiple = int(batch // unit)
    grain = 1 << max(multiple.bit_length() - 4, 0)
    return multiple // grain * grain * unit


def changes_that_help(
    setup: Setup, plan: dict, devices: Devices, hardware: Hardware, compile_: Compile
) -> list[dict]:
    """Changes of a config that save memory, each compiled, up to the first that fits.

    Returns:
      of each 'values' by key, 'total_bytes', 'fits' and 'step_seconds'; last of all together, if
      none alone fits.
    """
    rows, before = [], plan['compiled']['memory_bytes']['total']

    def compile_change(values: dict) -> bool:
        """Appends a change that saves memory; skips one that the mesh or batch does not allow."""
        try:
            changed = setup.changed(values)
            after = make_plan(changed, devices, hardware, compile_(changed, ('train',)))
        except UserError:
            return False
        total, row = after['compiled']['memory_bytes']['total'], {'values': values}
        if total and (before is None or total < before):
            row |= {name: after[name] for name in ('fits', 'step_seconds')}
            rows.append(row | {'total_bytes': total})
        return after['fits']

    if not any(map(compile_change, _single_changes(setup, plan, hardware))) and len(rows) > 1:
        compile_change({key: value for row in rows for key, value in row['values'].items()})
    return rows


def _single_changes(setup: Setup, plan: dict, hardware: Hardware) -> Iterator[dict[str, object]]:
    """Changes of one thing, the cheapest in time first."""
    config, sizes = setup.config, plan['compiled']['memory_bytes']
    if not setup.streams('train'):
        yield {'input.mode': 'stream'}
    if config.dtype == 'float32' and 'bfloat16' in hardware.peak_flops:
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
