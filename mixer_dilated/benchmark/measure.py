"""How fast the networks of some configs are, and how fast this machine is at products alone."""

import collections
import contextlib
import math
import os
from collections.abc import Callable, Iterable, Mapping

import jax
import ml_collections
from jax.experimental.compilation_cache import compilation_cache

from mixer_dilated.benchmark.epoch_timing import Timed, TimedEpoch, on_noise, seconds_in_turns
from mixer_dilated.benchmark.forms import SEEDS, Form, check_against, compiled_forms
from mixer_dilated.benchmark.processes import ProcessError, peak_bytes, start_up_seconds
from mixer_dilated.benchmark.products import (
    DTYPES,
    Product,
    TimedProduct,
    flops,
    forward_products,
    large_product,
    training_products,
)
from mixer_dilated.benchmark.torch_mixer import import_torch
from mixer_dilated.config import num_phases
from mixer_dilated.errors import UserError
from mixer_dilated.models.costs import num_params
from mixer_dilated.training.run_folder import environment
from mixer_dilated.training.setup import Setup, create_setup
from mixer_dilated.training.state import network_layers

ROUNDS = 9
TURN_SECONDS = 0.5

Say = Callable[[str], None]
Products = collections.Counter[Product]
ProductTimers = Mapping[tuple[Product, str], TimedProduct]


def benchmark(
    configs: Mapping[str, ml_collections.ConfigDict], against: Iterable[str], say: Say
) -> dict:
    """Measures every config on random images of its data set's shape, on one device.

    Args:
      configs: resolved configs by name.
      against: what else to time: 'reference', 'torch'.
      say: told what is measured next.

    Returns:
      'versions', 'device', 'large_shape' (rows, inner, columns of the large product), 'busy_cores'
      (how many other programs used before it began, on average over a minute; None if unknown),
      and 'configs': of each name what `_measure` and `_in_processes` return, 'config' (every key
      with its value) and 'notes', sentences on what is not as asked.

    Raises:
      UserError: a config that does not fit its data, or that cannot be compared as asked.
    """
    against, busy = set(against), busy_cores()
    if 'torch' in against:
        import_torch()
    opened = {name: _opened(config) for name, config in configs.items()}
    for setup, _ in opened.values():
        check_against(setup, against)
    # A TPU serves one process at a time: the others come before this one computes.
    found = {
        name: _in_processes(name, setup, notes, say) for name, (setup, notes) in opened.items()
    }
    with _compiled_anew():
        large = large_product()
        timers = {(large, dtype): TimedProduct(large, dtype, 50) for dtype in DTYPES}
        for name, (setup, notes) in opened.items():
            say(f'{name}: compiles, then {ROUNDS} rounds in which all forms take turns')
            measured = _measure(setup, against, large, timers, notes)
            found[name] |= {**measured, 'config': setup.config.to_dict(), 'notes': notes}
        return {
            **environment(),
            'large_shape': [*vars(large).values()],
            'busy_cores': busy,
            'configs': found,
        }


def busy_cores() -> float | None:
    """Cores that all programs used over the last minute; None if the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, 'getloadavg') else None


def _opened(config: ml_collections.ConfigDict) -> tuple[Setup, list[str]]:
    """A config's task in float32 and of one seed, and sentences on what that sets aside."""
    setup, notes = create_setup(config), []
    rows = {'dtype': f'{" and ".join(DTYPES)} have', 'num_seeds': f'one seed and {SEEDS} have'}
    common = {'dtype': 'float32', 'num_seeds': 1}
    for key, value in common.items():
        if config[key] != value:
            notes.append(
                f'config.{key} = {config[key]!r} is set aside: {rows[key]} rows of their own, and '
                f'all else is measured with {value!r}.'
            )
    return setup.changed(common), notes


def _in_processes(name: str, setup: Setup, notes: list[str], say: Say) -> dict[str, dict | None]:
    """'memory' and 'start_up'; None, and a sentence in `notes`, for what fails."""
    say(f'{name}: memory, start-up cold and warm, each in a process of its own')
    measurements = {
        'memory': lambda: peak_bytes(setup, steps=4),
        'start_up': lambda: start_up_seconds(setup.config),
    }
    found = {}
    for what, measure in measurements.items():
        try:
            found[what] = measure()
        except ProcessError as error:
            found[what] = None
            notes.append(f'{what.replace("_", "-")} is not measured: {error}')
    return found


@contextlib.contextmanager
def _compiled_anew():
    """Nothing is read from JAX's cache of programs: its time to compile would be no such time."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()  # whether it is on is looked up but once
    try:
        yield
    finally:
        jax.config.update('jax_enable_compilation_cache', before)
        compilation_cache.reset_cache()


def _measure(
    setup: Setup, against: set[str], large: Product, of_large: ProductTimers, notes: list[str]
) -> dict:
    """What one config does on this device.

    Args:
      setup: of one seed, in float32.
      against: what else to time.
      large: the large product.
      of_large: it in each dtype.
      notes: sentences on what is left out are added to it.

    Returns:
      'num_tokens', 'num_params', 'image_shape', 'batch'. 'forms': {name: what `_of_form` returns}.
      'products': {kind: {dtype: seconds that all products of a step, each at its own shape, take
      in each round}}. 'large_product': FLOPs a second by dtype in each round. 'resolutions'.
    """
    speed = large.flops / of_large[large, 'float32'].seconds()
    products = _products(setup)
    steps = _steps_of_a_turn(flops(products['training']), speed)
    forms = compiled_forms(on_noise(setup, setup.dataset.image_shape[:2], steps), against, notes)
    timers = {**_timers(products), **of_large}
    seconds = seconds_in_turns({**forms, **timers}, ROUNDS)
    return {
        'num_tokens': setup.num_tokens,
        'num_params': num_params(network_layers(setup)),
        'image_shape': list(setup.dataset.image_shape),
        'batch': setup.config.batch,
        'forms': {
            form.name: _of_form(form, timed, products, seconds[form], steps)
            for form, timed in forms.items()
        },
        'products': {
            kind: {dtype: _summed(of_step, dtype, seconds) for dtype in DTYPES}
            for kind, of_step in products.items()
        },
        'large_product': {
            dtype: [large.flops / each for each in seconds[large, dtype]] for dtype in DTYPES
        },
        'resolutions': _resolutions(setup, speed),
    }


def _products(setup: Setup) -> dict[str, Products]:
    """The matrix products of a step by its kind, 'training' or 'forward'."""
    layers, batch = network_layers(setup), setup.config.batch
    phases = math.prod(num_phases(setup.config))
    return {
        'training': training_products(layers, batch),
        'forward': forward_products(layers, batch, phases),
    }


def _timers(products: Mapping[str, Products]) -> ProductTimers:
    return {
        (product, dtype): TimedProduct(product, dtype)
        for product in set().union(*products.values())
        for dtype in DTYPES
    }


def _steps_of_a_turn(step_flops: int, speed: float) -> int:
    """As many as take about `TURN_SECONDS` at a third of the speed of a large product."""
    return min(max(round(TURN_SECONDS * speed / 3 / step_flops), 1), 500)


def _of_form(
    form: Form, timed: Timed, products: Mapping[str, Products], turns: list[float], steps: int
) -> dict:
    """What is known about a form.

    Args:
      form: which.
      timed: the form, compiled.
      products: of a step, by kind.
      turns: seconds of a turn in each round.
      steps: of a turn.

    Returns:
      'kind', 'dtype', 'seeds' and 'described' as in `Form`; 'flops' and 'seconds' (in each round)
      of one step of one seed; 'compile_seconds'.
    """
    return {
        'kind': form.kind,
        'dtype': form.dtype,
        'seeds': form.seeds,
        'described': form.described,
        'flops': flops(products[form.kind]),
        'seconds': [turn / steps / form.seeds for turn in turns],
        'compile_seconds': timed.compile_seconds,
    }


def _summed(products: Products, dtype: str, seconds: Mapping) -> list[float]:
    """Seconds of all products of a step in each round, each as fast as it is alone."""
    times = [[count * each for each in seconds[product, dtype]]
             for product, count in products.items()]  # fmt: skip
    return [sum(of_round) for of_round in zip(*times, strict=True)]


def _resolutions(setup: Setup, speed: float) -> list[dict]:
    """Tokens and seconds of a training step at half, once and twice the side of the images.

    Sides that the patches do not fit are left out.
    """
    height, width, _ = setup.dataset.image_shape
    epochs, rows = {}, {}
    for doubled in (1, 2, 4):
        image_size = (height * doubled // 2, width * doubled // 2)
        try:
            noise = on_noise(setup, image_size, steps=1)
        except UserError:
            continue
        step_flops = flops(training_products(network_layers(noise), noise.config.batch))
        steps = _steps_of_a_turn(step_flops, speed)
        noise = on_noise(setup, image_size, steps)
        epochs[image_size] = TimedEpoch(noise, noise.dataset.read('train'))
        rows[image_size] = {
            'image_size': list(image_size),
            'num_tokens': noise.num_tokens,
            'flops': step_flops,
            'steps': steps,
        }
    seconds = seconds_in_turns(epochs, ROUNDS)
    return [
        {**row, 'seconds': [each / row['steps'] for each in seconds[image_size]]}
        for image_size, row in rows.items()
    ]
