"""How fast the networks of some configs are, and how fast this machine is at products alone."""

import collections
import warnings
from collections.abc import Callable, Iterable, Mapping

import ml_collections

from mixer_dilated.benchmark.forms import TimedForward, TimedPlainFlax
from mixer_dilated.benchmark.processes import peak_bytes, start_up_seconds
from mixer_dilated.benchmark.products import (
    LARGE,
    Product,
    TimedProduct,
    flops,
    forward_products,
    training_products,
)
from mixer_dilated.benchmark.torch_mixer import TimedTorch, import_torch
from mixer_dilated.data.examples import Examples
from mixer_dilated.errors import InputError
from mixer_dilated.models.costs import num_params
from mixer_dilated.training.summary import environment
from mixer_dilated.training.task import Task, open_task
from mixer_dilated.training.timing import Timed, TimedEpoch, on_noise, seconds_in_turns

SEEDS = 8
ROUNDS = 9
TURN_SECONDS = 0.5

Say = Callable[[str], None]


def benchmark(
    configs: Mapping[str, ml_collections.ConfigDict], against: Iterable[str], say: Say
) -> dict:
    """Measures every config on random images of its data set's shape, on one device.

    Args:
      configs: resolved configs by name.
      against: what else to time: 'reference', 'torch'.
      say: told what is measured next.

    Returns:
      'versions', 'device', and 'configs': of each name what `_measure` returns.

    Raises:
      InputError: a config that does not fit its data, or that cannot be compared as asked.
    """
    if 'torch' in against:
        import_torch()
    tasks = {name: open_task(config).changed({'num_seeds': 1}) for name, config in configs.items()}
    large = {dtype: TimedProduct(Product(*LARGE), dtype, 50) for dtype in ('float32', 'bfloat16')}
    speed = Product(*LARGE).flops / large['float32'].seconds()
    return {
        **environment(),
        'configs': {
            name: _measure(name, task, set(against), large, speed, say)
            for name, task in tasks.items()
        },
    }


def _measure(
    name: str,
    task: Task,
    against: set[str],
    large: Mapping[str, TimedProduct],
    speed: float,
    say: Say,
) -> dict:
    """Everything about one config.

    Returns:
      Counts: 'num_tokens', 'num_params', 'batch', FLOPs of 'training' and 'forward' for a batch.
      'rounds': {what: seconds in each round} of a step of each form (of one seed) and of all
      products of a step at their own shapes. 'compile_seconds' by form. 'large_product': FLOPs
      a second by dtype in each round. 'resolutions', 'memory', 'start_up' and 'notes'.
    """
    products = {
        'training': training_products(task.layers, task.config.batch),
        'forward': forward_products(task.layers, task.config.batch),
    }
    steps = _steps_of_a_turn(flops(products['training']), speed)
    say(f'{name}: compiles, then {ROUNDS} rounds in which all forms take turns')
    noise = on_noise(task, task.source.image_shape[:2], steps)
    notes: list[str] = []
    forms = _forms(noise, against, notes)
    alone = {
        (product, dtype): TimedProduct(product, dtype)
        for product in {*products['training'], *products['forward']}
        for dtype in large
    }
    by_dtype = {f'large {dtype}': product for dtype, product in large.items()}
    seconds = seconds_in_turns({**forms, **alone, **by_dtype}, ROUNDS)
    say(f'{name}: other resolutions, memory, start-up cold and warm')
    return {
        'num_tokens': task.num_tokens,
        'num_params': num_params(task.layers),
        'image_shape': list(task.source.image_shape),
        'batch': task.config.batch,
        'flops': {what: flops(of_step) for what, of_step in products.items()},
        'rounds': {
            **{form: _of_a_step(form, seconds[form], steps) for form in forms},
            **{
                f'{what} products, {dtype}': _summed(of_step, dtype, seconds)
                for what, of_step in products.items()
                for dtype in large
            },
        },
        'compile_seconds': {form: timed.compile_seconds for form, timed in forms.items()},
        'large_product': {
            dtype: [Product(*LARGE).flops / each for each in seconds[f'large {dtype}']]
            for dtype in large
        },
        'resolutions': _resolutions(task, speed),
        'memory': peak_bytes(task, steps=4),
        'start_up': start_up_seconds(task.config),
        'notes': notes,
    }


def _steps_of_a_turn(step_flops: int, speed: float) -> int:
    """As many as take about `TURN_SECONDS` at a third of the speed of a large product."""
    return min(max(round(TURN_SECONDS * speed / 3 / step_flops), 1), 500)


def _of_a_step(form: str, seconds: list[float], steps: int) -> list[float]:
    """Seconds of one step of one seed, from those of a turn."""
    seeds = SEEDS if form == f'{SEEDS} seeds' else 1
    return [each / steps / seeds for each in seconds]


def _forms(task: Task, against: set[str], notes: list[str]) -> dict[str, Timed]:
    """What takes turns, by name; each does as many steps as an epoch of the task has."""
    examples = task.source.read('train')
    forms: dict[str, Timed] = {}
    for dtype in ('float32', 'bfloat16'):
        of_dtype = task.changed({'dtype': dtype})
        forms[f'training, {dtype}'] = TimedEpoch(of_dtype, examples)
        forms[f'forward, {dtype}'] = TimedForward(of_dtype, examples)
    forms[f'{SEEDS} seeds'] = TimedEpoch(task.changed({'num_seeds': SEEDS}), examples)
    if 'reference' in against:
        forms['plain Flax'] = TimedPlainFlax(task, examples)
    if 'torch' in against:
        forms['PyTorch eager'] = TimedTorch(task, examples, compiled=False)
        compiled = _compiled_torch(task, examples, notes)
        forms |= {'PyTorch compiled': compiled} if compiled else {}
    return forms


def _compiled_torch(task: Task, examples: Examples, notes: list[str]) -> Timed | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return TimedTorch(task, examples, compiled=True)
    except InputError:
        raise
    # The compiler of PyTorch needs one of C++ and raises whatever that one raises.
    except Exception as error:
        notes.append(f'torch.compile fails here: {" ".join(str(error).split())[:200]}')
        return None


def _summed(products: collections.Counter[Product], dtype: str, seconds: Mapping) -> list[float]:
    """Seconds of all products of a step in each round, each as fast as it is alone."""
    times = [[count * each for each in seconds[product, dtype]]
             for product, count in products.items()]  # fmt: skip
    return [sum(of_round) for of_round in zip(*times, strict=True)]


def _resolutions(task: Task, speed: float) -> list[dict]:
    """Tokens and seconds of a training step at half, once and twice the side of the images.

    Sides that the patches do not fit are left out.
    """
    height, width, _ = task.source.image_shape
    epochs, rows = {}, {}
    for doubled in (1, 2, 4):
        image_size = (height * doubled // 2, width * doubled // 2)
        try:
            noise = on_noise(task, image_size, steps=1)
        except InputError:
            continue
        step_flops = flops(training_products(noise.layers, noise.config.batch))
        steps = _steps_of_a_turn(step_flops, speed)
        noise = on_noise(task, image_size, steps)
        epochs[image_size] = TimedEpoch(noise, noise.source.read('train'))
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
