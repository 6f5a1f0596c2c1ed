"""How fast the networks of some configs are, and how fast this machine is at products alone."""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Mapping

import jax
import ml_collections
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from mixer_dilated.benchmark.matmuls import Matmul, flops, forward_matmuls, training_matmuls
from mixer_dilated.benchmark.memory import training_memory
from mixer_dilated.benchmark.processes import ProcessError, call_in_process, start_up_seconds
from mixer_dilated.benchmark.torch_mixer import check_torch
from mixer_dilated.benchmark.variants import (
    DTYPES,
    SEEDS,
    Variant,
    choose_variants,
    compile_variant,
)
from mixer_dilated.config import num_phases
from mixer_dilated.errors import UserError
from mixer_dilated.models.costs import num_params
from mixer_dilated.training.run_folder import environment
from mixer_dilated.training.setup import Setup, create_setup
from mixer_dilated.training.state import network_layers
from mixer_dilated.training.timing import (
    Timed,
    large_side,
    on_random_images,
    take_turns,
    time_matmul,
)

ROUNDS = 9
TURN_SECONDS = 0.5
MAX_STEPS = 500  # of a turn

Log = Callable[[str], None]


def benchmark(
    configs: Mapping[str, ml_collections.ConfigDict], against: Iterable[str], log: Log
) -> dict:
    """Measures every config on random images of its data set's shape, on one device.

    Args:
      configs: resolved configs by name.
      against: what else to time: 'reference', 'torch'.
      log: called with what is measured next.

    Returns:
      'versions', 'device', 'large_shape' (rows, inner, columns of the large matrix product),
      'busy_cores' (how many other programs used before it began, on average over a minute; None if
      unknown), and 'configs': of each name what `_measure` and `_measure_in_processes` return,
      'config' (every key with its value) and 'notes', sentences on what is not as asked.

    Raises:
      UserError: a config that does not fit its data, or that cannot be compared as asked.
    """
    against, busy = set(against), busy_cores()
    setups, notes = {}, {}
    for name, config in configs.items():
        if 'torch' in against:
            check_torch(config)
        setups[name], notes[name] = _one_seed_float32(config)
    # A TPU serves one process at a time: the others come before this one computes.
    results = {
        name: _measure_in_processes(name, setup, notes[name], log) for name, setup in setups.items()
    }
    with _no_compilation_cache():
        large = Matmul(*[large_side()] * 3)
        large_timers = {(large, dtype): time_matmul(*large, dtype, 50) for dtype in DTYPES}
        for name, setup in setups.items():
            log(f'{name}: compiles, then {ROUNDS} rounds in which all variants take turns')
            results[name] |= _measure(setup, against, large, large_timers, notes[name])
            results[name] |= {'config': setup.config.to_dict(), 'notes': notes[name]}
        return {
            **environment(),
            'large_shape': [*large],
            'busy_cores': busy,
            'configs': results,
        }


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


def _measure_in_processes(
    name: str, setup: Setup, notes: list[str], log: Log
) -> dict[str, dict | None]:
    """'memory' and 'start_up'; None, and a sentence in `notes`, for what fails."""
    log(f'{name}: memory, start-up cold and warm, each in a process of its own')
    config, size = setup.config.to_json(), setup.image_size
    with note_failure('memory', notes) as memory:
        memory |= call_in_process(training_memory, config=config, image_size=size, steps=4)
    with note_failure('start-up', notes) as start_up:
        start_up |= start_up_seconds(setup.config)
    return {'memory': memory or None, 'start_up': start_up or None}


@contextlib.contextmanager
def note_failure(what: str, notes: list[str]):
    """Yields a dict to fill; a process that fails is a sentence in `notes`."""
    try:
        yield {}
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
    large_timers: Mapping[tuple[Matmul, str], Timed],
    notes: list[str],
) -> dict:
    """What one config does on this device.

    Args:
      setup: of one seed, in float32.
      against: what else to time.
      large: the large product.
      large_timers: of it in each dtype.
      notes: sentences on what is left out are added to it.

    Returns:
      'num_tokens', 'num_params', 'image_shape', 'batch'; 'large_matmul': FLOPs a second by dtype
      in each round; and 'variants', by name: 'kind', 'dtype', 'seeds', 'described' as in `Variant`,
      'image_size', 'num_tokens', 'compile_seconds', and of one step of one seed 'flops', 'seconds'
      in each round, and 'matmul_seconds', those of its matrix products, each as fast as alone.
    """
    speed = large.flops / large_timers[large, 'float32'].seconds()
    variants, compiled, matmuls, timers = {}, {}, {}, {**large_timers}
    for variant in choose_variants(setup, against, notes):
        counts, turn = _prepare_turn(setup, variant, speed)
        timed = turn and compile_variant(variant, turn, notes)
        if timed:
            compiled[variant.name], matmuls[variant.name] = timed, counts
            variants[variant.name] = {
                **{key: getattr(variant, key) for key in ('kind', 'dtype', 'seeds', 'described')},
                'image_size': list(turn.image_size),
                'num_tokens': turn.num_tokens,
                'flops': flops(counts),
                'steps': turn.steps_per_epoch,
                'compile_seconds': timed.compile_seconds,
            }
            for matmul in counts:
                key = matmul, variant.dtype
                timers[key] = timers.get(key) or time_matmul(*matmul, variant.dtype)
    turns = take_turns({**compiled, **timers}, ROUNDS)
    for name, variant in variants.items():
        step_seeds = variant['steps'] * variant['seeds']
        variant['seconds'] = [turn / step_seeds for turn in turns[name]]
        seconds = sum(
            count * np.array(turns[matmul, variant['dtype']])
            for matmul, count in matmuls[name].items()
        )
        variant['matmul_seconds'] = seconds.tolist()
    return {
        'num_tokens': setup.num_tokens,
        'num_params': num_params(network_layers(setup)),
        'image_shape': list(setup.dataset.image_shape),
        'batch': setup.config.batch,
        'variants': variants,
        'large_matmul': {
            dtype: [large.flops / time for time in turns[large, dtype]] for dtype in DTYPES
        },
    }


def _prepare_turn(
    setup: Setup, variant: Variant, speed: float
) -> tuple[Mapping[Matmul, int], Setup | None]:
    """The products of a step, and a setup of as many steps as take about `TURN_SECONDS`.

    Args:
      setup: of one seed, in float32.
      variant: whose step.
      speed: FLOPs a second of a large product; a step is taken for a third as fast.

    Returns:
      The products and the setup; none and None if the patches do not fit the images.
    """
    height, width = (int(variant.scale * side) for side in setup.image_size)
    try:
        one_step = on_random_images(setup, (height, width), steps=1)
    except UserError:
        return {}, None
    counts = step_matmuls(one_step, variant.kind)
    steps = min(max(round(TURN_SECONDS * speed / 3 / flops(counts)), 1), MAX_STEPS)
    changes = {'dtype': variant.dtype, 'num_seeds': variant.seeds}
    return counts, on_random_images(setup.changed(changes), (height, width), steps)


def step_matmuls(setup: Setup, kind: str) -> Mapping[Matmul, int]:
    """The matrix products of a step, 'training' or 'forward', and how often each occurs."""
    layers, batch = network_layers(setup), setup.config.batch
    if kind == 'training':
        return training_matmuls(layers, batch)
    return forward_matmuls(layers, batch, math.prod(num_phases(setup.config)))
