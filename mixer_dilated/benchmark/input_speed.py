"""How fast examples stream, against decoding alone; what a run waits for them; their memory."""

import math
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import ml_collections
import numpy as np

from mixer_dilated.benchmark.input_memory import peak_bytes, shuffled_stream
from mixer_dilated.benchmark.measure import busy_cores
from mixer_dilated.benchmark.processes import ProcessError
from mixer_dilated.config import changed
from mixer_dilated.data.examples import RandomAccessDataSource
from mixer_dilated.data.input_pipeline import Chunk, StreamingPipeline
from mixer_dilated.data.tfds_dataset import TfdsDataSource
from mixer_dilated.data.workers import num_cores
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.run_folder import environment
from mixer_dilated.training.setup import Setup, create_setup

ROUNDS = 3
TURN_SECONDS = 4.0
WAITING_SECONDS = 20.0


def benchmark_input(
    configs: Mapping[str, ml_collections.ConfigDict], say: Callable[[str], None]
) -> dict:
    """Measures the input of every config: its training examples, streamed.

    Args:
      configs: resolved configs by name.
      say: told what is measured next.

    Returns:
      'versions', 'device', 'cores', 'busy_cores' (that other programs used before it began), and
      'inputs': of each name what `_measure` and `_memory` return.
    """
    streaming = {'input.mode': 'stream', 'num_seeds': 1}
    tasks = {name: create_setup(changed(config, streaming)) for name, config in configs.items()}
    busy = busy_cores()
    # A TPU serves one process at a time: the others come before this one computes.
    in_processes = {name: _memory(name, setup, say) for name, setup in tasks.items()}
    found = {name: _measure(name, setup, say) for name, setup in tasks.items()}
    return {
        **environment(),
        'cores': num_cores(),
        'busy_cores': busy,
        'inputs': {name: {**found[name], **in_processes[name]} for name in tasks},
    }


def _memory(name: str, setup: Setup, say: Callable[[str], None]) -> dict:
    """'memory': bytes at their most of all processes, streaming a 'tenth' of the examples and the
    'whole', None for what fails; and 'notes', a sentence on each of these.
    """
    say(f'{name}: memory, each in a process of its own')
    memory, notes = {}, []
    for part, share in (('tenth', 0.1), ('whole', 1.0)):
        try:
            memory[part] = peak_bytes(setup, share)
        except ProcessError as error:
            memory[part] = None
            notes.append(f'memory is not measured: {error}')
    return {'memory': memory, 'notes': notes}


def _measure(name: str, setup: Setup, say: Callable[[str], None]) -> dict:
    """One config's input.

    Returns:
      'image_shape', 'examples', 'batch'; 'decoding' of one thread that does nothing else: its
      'speed' (images a second) and 'cpu_speed' (images a second of CPU time) in each round;
      'streams': of each number of workers the same, over all processes (None where the system does
      not tell), and 'first_batch' (seconds); and 'waiting' (of `_waiting`).
    """
    records = setup.dataset.data_source(setup.config.dataset.train_split)
    say(f'{name}: decoding alone and streams, {ROUNDS} rounds in turns')
    decoding, streams = [], {workers: [] for workers in worker_counts(num_cores())}
    for number in range(ROUNDS):
        decoding.append(_decoding(records, number))
        for workers, rounds in streams.items():
            rounds.append(_streaming(setup, records, workers))
    say(f'{name}: training on the stream')
    return {
        'image_shape': list(records.image_shape),
        'examples': len(records),
        'batch': setup.config.batch,
        'decoding': _by_name(('speed', 'cpu_speed'), decoding),
        'streams': {
            workers: _by_name(('speed', 'cpu_speed', 'first_batch'), rounds)
            for workers, rounds in streams.items()
        },
        'waiting': _waiting(setup, records),
    }


def _decoding(records: RandomAccessDataSource, number: int) -> tuple[float, float]:
    """Images a second and a second of CPU time of this thread, without reading their records."""
    draw, images, seconds, cpu = np.random.default_rng(number), 0, 0.0, 0.0
    while seconds < TURN_SECONDS / 2:
        index = draw.integers(0, len(records), 64)
        fetched = records.fetch(index) if isinstance(records, TfdsDataSource) else None
        start, cpu_start = time.perf_counter(), time.thread_time()
        if fetched is None:
            records.read(index)
        else:
            for encoded, _ in fetched:
                records.decode(encoded)
        seconds += time.perf_counter() - start
        cpu += time.thread_time() - cpu_start
        images += len(index)
    return images / seconds, images / cpu


def worker_counts(cores: int) -> list[int]:
    """Of decoding processes: none (threads decode), powers of two, and one a core.

    Two at least, which shows on one core what they cost.
    """
    most = max(cores, 2)
    return [0, *(2**power for power in range((most - 1).bit_length())), most]


def _by_name(names: tuple[str, ...], rounds: list[tuple]) -> dict[str, list]:
    return dict(zip(names, map(list, zip(*rounds, strict=True)), strict=True))


def _streaming(
    setup: Setup, records: RandomAccessDataSource, workers: int
) -> tuple[float, float | None, float]:
    """Images a second, images a second of CPU time, and seconds to the first batch."""
    start = time.perf_counter()
    stream = shuffled_stream(setup, records, workers)
    try:
        next(stream)
        first, images = time.perf_counter() - start, 0
        # What was decoded ahead while nobody asked is not counted.
        while time.perf_counter() - start - first < TURN_SECONDS / 4:
            next(stream)
        start, cpu = time.perf_counter(), _cpu_seconds()
        while time.perf_counter() - start < TURN_SECONDS:
            images += next(stream).labels.size
        seconds, spent = time.perf_counter() - start, _cpu_seconds()
        return images / seconds, None if cpu is None else images / (spent - cpu), first
    finally:
        stream.close()


def _cpu_seconds() -> float | None:
    """CPU time so far of this process and of those that decode for it; None if it is not told."""
    ticks = 0
    for worker in multiprocessing.active_children():
        try:
            words = pathlib.Path(f'/proc/{worker.pid}/stat').read_text().rpartition(')')[2].split()
        except OSError:
            return None
        ticks += int(words[11]) + int(words[12])
    return time.process_time() + (ticks / os.sysconf('SC_CLK_TCK') if ticks else 0)


class _AtHand(StreamingPipeline):
    """A stream whose next batch is always ready: every batch is the same one."""

    _chunk = None

    def train_chunks(self, step: int, num_steps: int, seconds: float) -> Iterator[Chunk]:
        if self._chunk is None:
            (self._chunk,) = super().train_chunks(step, 1, None)
            self.close()
        for number in range(step, step + num_steps):
            yield self._chunk._replace(first_step=number)


def _waiting(setup: Setup, records: RandomAccessDataSource) -> dict[str, float]:
    """Training for a while: 'steps', 'seconds', and 'waited' of these for data.

    'at_hand': seconds of as many steps whose batch is there already. What a run loses to its input
    is more than it waits, where what decodes takes cores or Python's lock from it.
    """
    programs = CompiledFunctions.for_devices(setup, jax.devices()[:1])
    at_hand = _Training(programs, _AtHand(records, setup.config, programs.mesh))
    inputs = StreamingPipeline(records, setup.config, programs.mesh)
    try:
        at_hand.train_for(WAITING_SECONDS / 4)
        streamed = _Training(programs, inputs)
        before = inputs.waited
        streamed.train_for(WAITING_SECONDS)
        waited = inputs.waited - before
        at_hand.train_for(WAITING_SECONDS / 4)
    finally:
        inputs.close()
    return {
        'steps': streamed.steps,
        'seconds': streamed.seconds,
        'waited': waited,
        'at_hand': at_hand.seconds / at_hand.steps * streamed.steps,
    }


class _Training:
    """A run on some examples, begun with a step that is not counted.

    Attributes:
      steps, seconds: of `train_for`, summed.
    """

    def __init__(self, compiled: CompiledFunctions, inputs: StreamingPipeline):
        self._compiled, self._inputs = compiled, inputs
        self._state, self._metrics = compiled.init_state(), compiled.empty_metrics()
        self._step = self.steps = 0
        self._train(1)
        self.steps, self.seconds = 0, 0.0

    def train_for(self, seconds: float) -> None:
        """Trains for some seconds."""
        start = time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            self._train(1000, seconds - spent)
        self.seconds += spent

    def _train(self, num_steps: int, seconds: float = math.inf) -> None:
        start = time.perf_counter()
        for chunk in self._inputs.train_chunks(self._step, num_steps, None):
            previous = self._metrics
            self._state, self._metrics = self._compiled.train_chunk(
                self._state, self._metrics, chunk
            )
            jax.block_until_ready(previous)
            self._step += chunk.num_steps
            self.steps += chunk.num_steps
            if time.perf_counter() - start > seconds:
                break
        jax.block_until_ready(self._metrics)
