"""What the benchmark times of a config: variants of the training step and of the forward pass."""

import functools
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from mixer_dilated.benchmark.processes import end_of
from mixer_dilated.benchmark.torch_mixer import TimedTorch, left_out
from mixer_dilated.data.augmentation import augmentation_from_config
from mixer_dilated.data.examples import Examples
from mixer_dilated.models.mixer import MlpMixer, Stem
from mixer_dilated.patches.extraction import antialias
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.optimizer import make_optimizer
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import create_model, create_train_state
from mixer_dilated.training.step import train_step
from mixer_dilated.training.timing import Timed, TimedEpoch

DTYPES = ('float32', 'bfloat16')
SEEDS = 8


class TimedForward:
    """Class probabilities of a setup's training images on one device, batch by batch.

    Args:
      setup: whose network and images.

    Attributes:
      compile_seconds: spent on tracing and compiling.
    """

    def __init__(self, setup: Setup):
        setup = setup.changed({'batch_eval': setup.config.batch})
        self._compiled = CompiledFunctions.for_devices(setup, jax.devices()[:1])
        self._state = self._compiled.init_state()
        before = self._compiled.compile_seconds
        self._inputs = self._compiled.in_memory(setup.dataset.read('train'))
        self.seconds()
        self.compile_seconds = self._compiled.compile_seconds - before

    def seconds(self) -> float:
        """Computes them all and returns how long it took."""
        start = time.perf_counter()
        self._compiled.predict(self._state, self._inputs)
        return time.perf_counter() - start


class ConvStem(Stem):
    """`Stem` as a dilated convolution, which it is in the original code."""

    @nn.compact
    def __call__(self, images):
        tokens = []
        for patches in self.branches:
            sampled = antialias(images, patches.dilation) if self.blur else images
            conv = nn.Conv(
                self.hidden_dim,
                patches.size,
                patches.stride,
                patches.pads(images.shape[1:3]),
                kernel_dilation=patches.dilation,
            )
            tokens.append(conv(sampled).reshape(len(images), -1, self.hidden_dim))
        return sum(tokens)


class ConvStemMixer(MlpMixer):
    """The network as in the original code."""

    stem_class = ConvStem


class TimedPlainFlax:
    """A training step of `ConvStemMixer` alone, jitted and called from Python for every batch.

    That is the manner of the original code: a batch at a time goes from the host to the device.

    Args:
      setup: whose network, optimizer and images.

    Attributes:
      compile_seconds: spent on tracing and compiling the step.
    """

    def __init__(self, setup: Setup):
        config, dataset = setup.config, setup.dataset
        model = create_model(config, dataset.num_classes)
        network = ConvStemMixer(**{name: getattr(model, name) for name in MlpMixer.__annotations__})
        optimizer = make_optimizer(config.optimizer, setup.total_steps)
        create = functools.partial(create_train_state, network, optimizer, dataset.image_shape)
        self._seed_key = jax.random.key(config.seed)
        self._state = jax.jit(create)(self._seed_key)
        step = functools.partial(train_step, augmentation=augmentation_from_config(config))
        self._step = jax.jit(step, donate_argnums=0)
        examples = dataset.read('train')
        self._batches = [
            Examples(*(array[start : start + config.batch] for array in examples))
            for start in range(0, setup.steps_per_epoch * config.batch, config.batch)
        ]
        start = time.perf_counter()
        self._step.lower(self._state, *self._batches[0], self._seed_key).compile()
        self.compile_seconds = time.perf_counter() - start
        self.seconds()

    def seconds(self) -> float:
        """Trains on every batch once and returns how long it took."""
        start = time.perf_counter()
        for images, labels in self._batches:
            self._state, metrics = self._step(self._state, images, labels, self._seed_key)
        jax.block_until_ready((self._state.params, metrics))
        return time.perf_counter() - start


class Variant(NamedTuple):
    """One way to compute a step.

    Attributes:
      name: in the table.
      timed: makes it ready from a setup of one seed in float32.
      kind: 'training' or 'forward'.
      dtype: of the computation.
      seeds: trained at once, in one program.
      scale: of the images' sides.
      described: its name in a sentence that compares it with the training step; '' for none.
    """

    name: str
    timed: Callable[[Setup], Timed] = TimedEpoch
    kind: str = 'training'
    dtype: str = 'float32'
    seeds: int = 1
    scale: float = 1.0
    described: str = ''


TRAINING = Variant('training')
OWN = (
    TRAINING,
    Variant('forward', TimedForward, 'forward'),
    Variant('training bf16', dtype='bfloat16'),
    Variant('forward bf16', TimedForward, 'forward', 'bfloat16'),
    Variant(f'{SEEDS} seeds', seeds=SEEDS),
    Variant('half the side', scale=0.5),
    Variant('twice the side', scale=2.0),
)
PLAIN_FLAX = Variant(
    'plain Flax',
    TimedPlainFlax,
    described='plain Flax, called from Python as in the original code,',
)
EAGER = Variant('PyTorch eager', TimedTorch, described='PyTorch, eager,')
COMPILED = Variant(
    'PyTorch compiled',
    functools.partial(TimedTorch, compiled=True),
    described='PyTorch under torch.compile',
)


def choose_variants(setup: Setup, against: set[str], notes: list[str]) -> list[Variant]:
    """What takes turns.

    Args:
      setup: of one seed, in float32.
      against: 'reference', 'torch', or both.
      notes: sentences on what is left out are added to it.
    """
    variants = [*OWN, *([PLAIN_FLAX] if 'reference' in against else [])]
    backend = jax.default_backend()
    if 'torch' in against and backend != 'cpu':
        notes.append(f'PyTorch is left out: it computes on the CPU here, and JAX on {backend}.')
    elif 'torch' in against:
        variants += [EAGER, COMPILED]
        if lacking := left_out(setup.config):
            notes.append(f'The steps of PyTorch are without {" and ".join(lacking)}: they do less.')
    return variants


def compile_variant(variant: Variant, setup: Setup, notes: list[str]) -> Timed | None:
    """The variant, ready; None, and a sentence in `notes`, if torch.compile fails.

    Args:
      variant: what to make ready.
      setup: with the variant's dtype and seeds, of as many random images as make a turn.
      notes: sentences on what is left out.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return variant.timed(setup)
    # The compiler of PyTorch needs one of C++ and raises whatever that one raises.
    except Exception as error:
        if variant is not COMPILED:
            raise
        notes.append(f'torch.compile failed here: {type(error).__name__}: {end_of(str(error))}')
        return None
