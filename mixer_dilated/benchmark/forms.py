"""What the benchmark times of a config: forms of the training step and of the forward pass."""

import dataclasses
import functools
import time
import warnings

import jax

from mixer_dilated.benchmark.epoch_timing import Timed, TimedEpoch
from mixer_dilated.benchmark.plain_mixer import PlainMixer, plain_sizes
from mixer_dilated.benchmark.processes import end_of
from mixer_dilated.benchmark.products import DTYPES
from mixer_dilated.benchmark.torch_mixer import TimedTorch, check_optimizer, left_out
from mixer_dilated.data.augmentation import augmentation_from_config
from mixer_dilated.data.examples import Examples
from mixer_dilated.errors import UserError
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.optimizer import make_optimizer
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import create_train_state
from mixer_dilated.training.step import train_step

SEEDS = 8


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to do a step.

    Attributes:
      name: as the table has it.
      kind: 'training' or 'forward'.
      dtype: of the computation.
      seeds: trained at once, in one program.
      described: how a sentence calls it that compares it with the training step; '' for none.
    """

    name: str
    kind: str = 'training'
    dtype: str = 'float32'
    seeds: int = 1
    described: str = ''


OWN = (
    *(
        Form(f'{kind}{mark}', kind, dtype)
        for dtype, mark in zip(DTYPES, ('', ' bf16'), strict=True)
        for kind in ('training', 'forward')
    ),
    Form(f'{SEEDS} seeds', seeds=SEEDS),
)
PLAIN_FLAX = Form('plain Flax', described='plain Flax, called from Python as in the original code,')
EAGER = Form('PyTorch eager', described='PyTorch, eager,')
COMPILED = Form('PyTorch compiled', described='PyTorch under torch.compile')


class TimedForward:
    """Class probabilities of a task's training images on one device, batch by batch.

    Args:
      setup: whose network.
      examples: its training set.

    Attributes:
      compile_seconds: spent on tracing and compiling.
    """

    def __init__(self, setup: Setup, examples: Examples):
        setup = setup.changed({'batch_eval': setup.config.batch})
        programs = CompiledFunctions.for_devices(setup, jax.devices()[:1])
        self._compiled, self._state = programs, programs.init_state()
        before = programs.compile_seconds
        self._inputs = programs.in_memory(examples)
        self.seconds()
        self.compile_seconds = programs.compile_seconds - before

    def seconds(self) -> float:
        """Computes them all and returns how long it took."""
        start = time.perf_counter()
        self._compiled.predict(self._state, self._inputs)
        return time.perf_counter() - start


class TimedPlainFlax:
    """The step of plain Flax, jitted alone and called from Python for every batch.

    That is the manner of the original code: network laid out batch first, batches from the host.

    Args:
      setup: whose network, optimizer and settings.
      examples: its training set, on the host.

    Raises:
      UserError: the plain network lacks something that the config asks for.
    """

    def __init__(self, setup: Setup, examples: Examples):
        config = setup.config
        network = PlainMixer(num_classes=setup.dataset.num_classes, **plain_sizes(config))
        optimizer = make_optimizer(config.optimizer, setup.total_steps)
        self._seed_key = jax.random.key(config.seed)
        create = functools.partial(
            create_train_state, network, optimizer, setup.dataset.image_shape
        )
        self._state = jax.jit(create)(self._seed_key)
        step = functools.partial(train_step, augmentation=augmentation_from_config(config))
        self._step = jax.jit(step, donate_argnums=0)
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


def check_against(setup: Setup, against: set[str]) -> None:
    """Raises UserError if a config cannot be held against 'reference' or 'torch'."""
    if against:
        plain_sizes(setup.config)
    if 'torch' in against:
        check_optimizer(setup.config.optimizer)


def compiled_forms(setup: Setup, against: set[str], notes: list[str]) -> dict[Form, Timed]:
    """What takes turns, compiled; each does as many steps as an epoch of the task has.

    Args:
      setup: of one seed, in float32.
      against: 'reference', 'torch', or both.
      notes: sentences on what is left out are added to it.
    """
    examples = setup.dataset.read('train')
    forms: dict[Form, Timed] = {form: _compiled(form, setup, examples) for form in OWN}
    if 'reference' in against:
        forms[PLAIN_FLAX] = TimedPlainFlax(setup, examples)
    if 'torch' in against:
        forms |= _torch_forms(setup, examples, notes)
    return forms


def _compiled(form: Form, setup: Setup, examples: Examples) -> Timed:
    timed = {'training': TimedEpoch, 'forward': TimedForward}[form.kind]
    return timed(setup.changed({'dtype': form.dtype, 'num_seeds': form.seeds}), examples)


def _torch_forms(setup: Setup, examples: Examples, notes: list[str]) -> dict[Form, Timed]:
    if jax.default_backend() != 'cpu':
        notes.append(
            f'PyTorch is left out: it computes on the CPU here, and JAX on {jax.default_backend()}.'
        )
        return {}
    lacking = left_out(setup.config)
    if lacking:
        notes.append(f'The steps of PyTorch are without {" and ".join(lacking)}: they do less.')
    forms: dict[Form, Timed] = {EAGER: TimedTorch(setup, examples, compiled=False)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            forms[COMPILED] = TimedTorch(setup, examples, compiled=True)
    except UserError:
        raise
    # The compiler of PyTorch needs one of C++ and raises whatever that one raises.
    except Exception as error:
        notes.append(f'torch.compile failed here: {type(error).__name__}: {end_of(str(error))}')
    return forms
