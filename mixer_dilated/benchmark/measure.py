"""How fast the networks of some configs are, and how fast this machine is at products alone."""

import collections
import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping

import jax
import ml_collections
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from mixer_dilated.benchmark.memory import training_memory
from mixer_dilated.benchmark.processes import ProcessError, call_in_process, start_up_seconds
from mixer_dilated.benchmark.torch_mixer import check_torch
from mixer_dilated.benchmark.variants import DTYPES, SEEDS, choose_variants, compile_variant
from mixer_dilated.config import num_phases
from mixer_dilated.errors import UserError
from mixer_dilated.models.costs import num_params
from mixer_dilated.training import timing
from mixer_dilated.training.run_folder import environment
from mixer_dilated.training.setup import Setup, create_setup
from mixer_dilated.training.state import network_layers

ROUNDS = 9
TURN_SECONDS = 0.5
MAX_STEPS = 500  # of a turn

# (rows × inner) · (inner × columns)
Matmul = tuple[int, int, int]


def benchmark(
    configs: Mapping[str, ml_collections.ConfigDict],
    against: Iterable[str],
    log: Callable[[str], None],
) -> dict:
    """Measures every config on random images of its data set's shape, on one device.

    Args:
      configs: resolved configs by name.
      against: what else to time: 'reference', 'torch'.
      log: called with what is measured next.

    Returns:
      'versions', 'device', 'large_shape' (rows, inner, columns of the large matrix product),
      'busy_cores' (of `busy_cores`, before it began), and 'configs': of each name 'memory',
      'start_up' (None for what fails), what `_measure` returns, 'config' (every key with its value)
      and 'notes', sentences on what is not as asked.

    Raises:
      UserError: a config that does not fit its data, or that cannot be compared as asked.
    """
    against, busy, setups, notes = set(against), busy_cores(), {}, {}
    for name, config in configs.items():
        setups[name], notes[name] = _one_seed_float32(config)
        if 'torch' in against:
            check_torch(setups[name].config)
    results = {}
    # A TPU serves one process at a time: the others come before this one computes.
    for name, setup in setups.items():
        log(f'{name}: memory, start-up cold and warm, each in a separate process')
        memory = functools.partial(call_in_process, training_memory, config=setup.config.to_json())
        start_up = functools.partial(start_up_seconds, setup.config)
        results[name] = {'memory': or_note('memory', notes[name], memory)}
        results[name]['start_up'] = or_note('start-up', notes[name], start_up)
    with _no_compilation_cache():
        large = (timing.large_side(),) * 3
        large_timers = {(large, dtype): timing.time_matmul(*large, dtype, 50) for dtype in DTYPES}
        for name, setup in setups.items():
            log(f'{name}: compiles, then {ROUNDS} rounds in which all variants take turns')
            results[name] |= _measure(setup, against, large, large_timers, notes[name])
            results[name] |= {'config': setup.config.to_dict(), 'notes': notes[name]}
    return {**environment(), 'large_shape': large, 'busy_cores': busy, 'configs': results}


def busy_cores() -> float | None:
    """Cores that all programs used over the last minute; None if the system does not report it."""
    return os.getloadavg()[0] if hasattr(os, 'getloadavg') else None


def _one_seed_float32(config: ml_collections.ConfigDict) -> tuple[Setup, list[str]]:
    """The setup of one seed in float32, and sentences on what of the config that sets aside."""
    rows = {'dtype': f'{" and ".join(DTYPES)} have', 'num_seeds': f'one seed and {SEEDS} have'}
    values = {'dtype': 'float32', 'num_seeds': 1}
    notes = [
        f'config.{key} = {config[key]!r} is set aside: {rows[key]} rows of their own, and all else '
        f'is measured with {value!r}.'
        for key, value in values.items()
        if config[key] != value
    ]
    return create_setup(config).changed(values), notes


def or_note(what: str, notes: list[str], measure: Callable[[], object]):
    """What `measure` returns; None, and a sentence in `notes`, if a process fails."""
    try:
        return measure()
    except ProcessError as error:
        notes.append(f'{what} is not measured: {error}')


@contextlib.contextmanager
def _no_compilation_cache():
    """Turns JAX's cache of programs off: the time to read one is no time to compile."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()  # whether it is on is looked up but once
    try:
        yield
    finally:
        jax.config.update('jax_enable_compilation_cache', before)
        compilation_cache.reset_cache()


def _measure(
    setup: Setup,
    against: set[str],
    large: Matmul,
    large_timers: Mapping[tuple[Matmul, str], timing.Timed],
    notes: list[str],
) -> dict:
    """What one config, of one seed in float32, does on this device; adds to `notes`.

    Returns:
      'num_tokens', 'num_params', 'image_shape', 'batch'; 'large_matmul': FLOPs a second by dtype
      in each round; and 'variants', by name: 'kind', 'dtype', 'seeds', 'described' as in `Variant`,
      'image_size', 'num_tokens', 'compile_seconds', and of one step of one seed 'flops', 'seconds'
      in each round, and 'matmul_seconds', those of its matrix products, each as fast as alone.
    """
    speed = flops({large: 1}) / large_timers[large, 'float32'].seconds()
    variants, compiled, matmuls, timers = {}, {}, {}, {**large_timers}
    for name, variant in choose_variants(setup, against, notes).items():
        size = tuple(int(variant.scale * side) for side in setup.image_size)
        try:
            counts = step_matmuls(timing.on_random_images(setup, size, steps=1), variant.kind)
        except UserError:  # the patches do not fit these images
            continue
        # As many steps as take about `TURN_SECONDS` at a third of the speed of a large product.
        steps = min(max(round(TURN_SECONDS * speed / 3 / flops(counts)), 1), MAX_STEPS)
        changes = {'dtype': variant.dtype, 'num_seeds': variant.seeds}
        turn = timing.on_random_images(setup.changed(changes), size, steps)
        if timed := compile_variant(variant, turn, notes):
            compiled[name], matmuls[name] = timed, counts
            variants[name] = {
                **{key: getattr(variant, key) for key in ('kind', 'dtype', 'seeds', 'described')},
                'image_size': list(size),
                'num_tokens': turn.num_tokens,
                'flops': flops(counts),
                'steps': steps,
                'compile_seconds': timed.compile_seconds,
            }
            for matmul in counts:
                key = matmul, variant.dtype
                timers[key] = timers.get(key) or timing.time_matmul(*matmul, variant.dtype)
    turns = timing.take_turns({**compiled, **timers}, ROUNDS)
    for name, variant in variants.items():
        step_seeds = variant['steps'] * variant['seeds']
        variant['seconds'] = [turn / step_seeds for turn in turns[name]]
        alone = (n * np.array(turns[m, variant['dtype']]) for m, n in matmuls[name].items())
        variant['matmul_seconds'] = sum(alone).tolist()
    large_flops = {d: [flops({large: 1}) / time for time in turns[large, d]] for d in DTYPES}
    return {
        'num_tokens': setup.num_tokens,
        'num_params': num_params(network_layers(setup)),
        'image_shape': list(setup.dataset.image_shape),
        'batch': setup.config.batch,
        'variants': variants,
        'large_matmul': large_flops,
    }


def step_matmuls(setup: Setup, kind: str) -> collections.Counter[Matmul]:
    """The matrix products of a step, 'training' or 'forward', and how often each occurs.

    A forward pass has them at every phase that evaluation averages over. Training adds the
    gradients of kernels and of inputs, but not that of the images, which nobody needs.
    """
    counts, phases = collections.Counter(), math.prod(num_phases(setup.config))
    for layer in network_layers(setup):
        if not layer.flops:
            continue
        outputs, columns = math.prod(layer.output_shape), layer.output_shape[-1]
        rows, inner = setup.config.batch * outputs // columns, layer.flops // (2 * outputs)
        counts[rows, inner, columns] += phases if kind == 'forward' else 1
        if kind == 'training':
            # Y = X · W: the gradients are Xᵀ · dY of the kernel and dY · Wᵀ of the input.
            counts[inner, rows, columns] += 1
            counts[rows, columns, inner] += not layer.path[0].startswith('stem')
    return +counts


def flops(counts: Mapping[Matmul, int]) -> int:
    """FLOPs of products, two a multiply-add."""
    return sum(2 * count * math.prod(matmul) for matmul, count in counts.items())
