"""What the benchmark times of a config: variants of the training step and of the forward pass."""

import functools
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax

from mixer_dilated.benchmark.processes import end_of
from mixer_dilated.benchmark.torch_mixer import left_out, torch_step
from mixer_dilated.data.augmentation import augmentation_from_config
from mixer_dilated.data.examples import Examples
from mixer_dilated.models.conv_stem import ConvStemMixer
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.optimizer import make_optimizer
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import create_model, create_train_state
from mixer_dilated.training.step import train_step
from mixer_dilated.training.timing import Timed, TimedEpoch

DTYPES = ('float32', 'bfloat16')
SEEDS = 8


class TimedCall:
    """A function, called once to warm up, then timed; `compile_seconds` is what compiling took."""

    def __init__(self, call: Callable[[], object], compile_seconds: float):
        self._call, self.compile_seconds = call, compile_seconds
        self.seconds()

    def seconds(self) -> float:
        """Calls it and returns how long it took."""
        start = time.perf_counter()
        self._call()
        return time.perf_counter() - start


def time_forward(setup: Setup) -> TimedCall:
    """Class probabilities of a setup's training images, which lie on one device."""
    setup = setup.changed({'batch_eval': setup.config.batch})
    compiled = CompiledFunctions.for_devices(setup, jax.devices()[:1])
    state, before = compiled.init_state(), compiled.compile_seconds
    batches = [*compiled.in_memory(setup.dataset.read('train')).eval_batches()]

    def predict() -> None:
        sums = compiled.empty_sums()
        for batch in batches:
            sums, log_probs = compiled.eval_step(state, sums, batch)
        jax.block_until_ready((sums, log_probs))

    predict()
    return TimedCall(predict, compiled.compile_seconds - before)


def time_plain_flax(setup: Setup) -> TimedCall:
    """A training step of `ConvStemMixer`, jitted and called from Python for every batch, which goes
    from the host to the device, as in the original code."""
    config, dataset = setup.config, setup.dataset
    examples = dataset.read('train')
    network = ConvStemMixer.like(create_model(config, dataset.num_classes))
    optimizer = make_optimizer(config.optimizer, setup.total_steps)
    create = functools.partial(create_train_state, network, optimizer, dataset.image_shape)
    key = jax.random.key(config.seed)
    state = jax.jit(create)(key)
    settings = {'loss': config.loss, 'augmentation': augmentation_from_config(config)}
    step = jax.jit(functools.partial(train_step, **settings), donate_argnums=0)
    batches = [
        Examples(*(array[start : start + config.batch] for array in examples))
        for start in range(0, setup.steps_per_epoch * config.batch, config.batch)
    ]

    def train():
        nonlocal state
        for images, labels in batches:
            state, metrics = step(state, images, labels, key)
        jax.block_until_ready((state.params, metrics))
        return state

    start = time.perf_counter()
    step.lower(state, *batches[0], key).compile()
    return TimedCall(train, time.perf_counter() - start)


def time_torch(setup: Setup, compiled: bool = False) -> TimedCall:
    """A training step of PyTorch, eager or under `torch.compile`, on the CPU."""
    step, batches = torch_step(setup, compiled)

    def train():
        for images, labels in batches:
            step(images, labels)

    start = time.perf_counter()
    step(*batches[0])  # compiles
    return TimedCall(train, time.perf_counter() - start)


class Variant(NamedTuple):
    """One way to compute a step."""

    timed: Callable[[Setup], Timed] = TimedEpoch  # makes it ready
    kind: str = 'training'  # or 'forward'
    dtype: str = 'float32'
    seeds: int = 1  # trained at once, in one program
    scale: float = 1.0  # of the images' sides
    described: str = ''  # in a sentence that compares it with the training step; '' for none


OWN = {
    'training': Variant(),
    'forward': Variant(time_forward, 'forward'),
    'training bf16': Variant(dtype='bfloat16'),
    'forward bf16': Variant(time_forward, 'forward', 'bfloat16'),
    f'{SEEDS} seeds': Variant(seeds=SEEDS),
    'half the side': Variant(scale=0.5),
    'twice the side': Variant(scale=2.0),
}
PLAIN_FLAX = 'plain Flax, called from Python as in the original code,'
REFERENCE = {'plain Flax': Variant(time_plain_flax, described=PLAIN_FLAX)}
COMPILED = Variant(
    functools.partial(time_torch, compiled=True), described='PyTorch under torch.compile'
)
TORCH = {
    'PyTorch eager': Variant(time_torch, described='PyTorch, eager,'),
    'PyTorch compiled': COMPILED,
}


def choose_variants(setup: Setup, against: set[str], notes: list[str]) -> dict[str, Variant]:
    """What takes turns, by name in the table: `against` has 'reference', 'torch', both or none.

    Sentences on what is left out are added to `notes`.
    """
    variants, backend = OWN | (REFERENCE if 'reference' in against else {}), jax.default_backend()
    if 'torch' in against and backend != 'cpu':
        notes.append(f'PyTorch is left out: it computes on the CPU here, and JAX on {backend}.')
    elif 'torch' in against:
        variants |= TORCH
        if lacking := left_out(setup.config):
            notes.append(f'The steps of PyTorch are without {" and ".join(lacking)}: they do less.')
    return variants


def compile_variant(variant: Variant, setup: Setup, notes: list[str]) -> Timed | None:
    """The variant, ready; None, and a sentence in `notes`, if torch.compile fails.

    The setup has the variant's dtype and seeds, and as many random images as make a turn.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return variant.timed(setup)
    # The compiler of PyTorch needs one of C++ and raises whatever that one raises.
    except Exception as error:
        if variant.described != COMPILED.described:
            raise
        notes.append(f'torch.compile failed here: {type(error).__name__}: {end_of(str(error))}')
        return None
