"""How fast examples stream, against decoding alone; what a run waits for them; their memory."""

import contextlib
import functools
import itertools
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import ml_collections
import numpy as np

from mixer_dilated.benchmark.measure import busy_cores, or_note
from mixer_dilated.benchmark.memory import shuffled_stream, streaming_memory
from mixer_dilated.benchmark.processes import call_in_process
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
ENDLESS = 2**30  # steps


def benchmark_input(
    configs: Mapping[str, ml_collections.ConfigDict], log: Callable[[str], None]
) -> dict:
    """Measures the input of every resolved config: its training examples, streamed.

    `log` is called with what is measured next.

    Returns:
      'versions', 'device', 'cores', 'busy_cores' (of `measure.busy_cores`, before it began), and
      'inputs': of each name what `_measure` returns; 'memory': peak bytes of all processes that
      stream a 'tenth' of the examples and the 'whole', None for what fails; and 'notes' on that.
    """
    streaming = {'input.mode': 'stream', 'num_seeds': 1}
    setups = {name: create_setup(changed(config, streaming)) for name, config in configs.items()}
    busy, inputs = busy_cores(), {}
    # A TPU serves one process at a time: the others come before this one computes.
    for name, setup in setups.items():
        log(f'{name}: memory, each in a separate process')
        notes, memory = [], {}
        for part, share in (('tenth', 0.1), ('whole', 1.0)):
            arguments = {'config': setup.config.to_json(), 'share': share}
            stream = functools.partial(call_in_process, streaming_memory, **arguments)
            memory[part] = or_note('memory', notes, stream)
        inputs[name] = {'memory': memory, 'notes': notes}
    for name, setup in setups.items():
        inputs[name] |= _measure(setup, name, log)
    return {**environment(), 'cores': num_cores(), 'busy_cores': busy, 'inputs': inputs}


def _measure(setup: Setup, name: str, log: Callable[[str], None]) -> dict:
    """One config's input.

    Returns:
      'image_shape', 'examples', 'batch'; 'decoding' of one thread that does nothing else: its
      'speed' (images a second) and 'cpu_speed' (images a second of CPU time) in each round;
      'streams': of each number of workers the same, over all processes (None where the system does
      not report it), and 'first_batch' (seconds); and 'waiting' (of `_waiting`).
    """
    records = setup.dataset.data_source(setup.config.dataset.train_split)
    log(f'{name}: decoding alone and streams, {ROUNDS} rounds in turns')
    decoding, streams = [], {workers: [] for workers in worker_counts(num_cores())}
    for number in range(ROUNDS):
        decoding.append(_decode(records, number))
        for workers, rounds in streams.items():
            rounds.append(_stream(setup, records, workers))
    log(f'{name}: training on the stream')
    return {
        'image_shape': list(records.image_shape),
        'examples': len(records),
        'batch': setup.config.batch,
        'decoding': _by_name(decoding),
        'streams': {workers: _by_name(rounds) for workers, rounds in streams.items()},
        'waiting': _waiting(setup, records),
    }


def _by_name(rounds: list[dict]) -> dict[str, list]:
    return {name: [values[name] for values in rounds] for name in rounds[0]}


def _decode(records: RandomAccessDataSource, number: int) -> dict[str, float]:
    """Images a second and a second of CPU time of this thread, without reading their records."""
    draw, images, seconds, cpu = np.random.default_rng(number), 0, 0.0, 0.0
    while seconds < TURN_SECONDS / 2:
        index = draw.integers(0, len(records), 64)
        decode = functools.partial(records.read, index)
        if isinstance(records, TfdsDataSource):
            fetched = [encoded for encoded, _ in records.fetch(index)]
            decode = functools.partial(list, map(records.decode, fetched))
        start, cpu_start = time.perf_counter(), time.thread_time()
        decode()
        seconds += time.perf_counter() - start
        cpu += time.thread_time() - cpu_start
        images += len(index)
    return {'speed': images / seconds, 'cpu_speed': images / cpu}


def worker_counts(cores: int) -> list[int]:
    """Of decoding processes: none (threads decode), powers of two, and one a core; up to two at
    least, which shows on one core what they cost."""
    most = max(cores, 2)
    return [0, *(2**power for power in range((most - 1).bit_length())), most]


def _stream(setup: Setup, records: RandomAccessDataSource, workers: int) -> dict[str, float | None]:
    """Images a second, images a second of CPU time, and seconds to the first batch."""
    start = time.perf_counter()
    with contextlib.closing(shuffled_stream(setup, records, workers)) as stream:
        next(stream)
        first, images = time.perf_counter() - start, 0
        # What was decoded ahead while nobody asked is not counted.
        while time.perf_counter() - start - first < TURN_SECONDS / 4:
            next(stream)
        start, cpu = time.perf_counter(), _cpu_seconds()
        while time.perf_counter() - start < TURN_SECONDS:
            images += next(stream).labels.size
        seconds, spent = time.perf_counter() - start, _cpu_seconds()
    cpu_speed = None if cpu is None else images / (spent - cpu)
    return {'speed': images / seconds, 'cpu_speed': cpu_speed, 'first_batch': first}


def _cpu_seconds() -> float | None:
    """CPU time of this process and of those that decode for it; None if it is not reported."""
    ticks = 0
    for worker in multiprocessing.active_children():
        try:
            words = pathlib.Path(f'/proc/{worker.pid}/stat').read_text().rpartition(')')[2].split()
        except OSError:
            return None
        ticks += int(words[11]) + int(words[12])
    return time.process_time() + (ticks / os.sysconf('SC_CLK_TCK') if ticks else 0)


def _waiting(setup: Setup, records: RandomAccessDataSource) -> dict[str, float]:
    """Training for a while: 'steps', 'seconds', and 'waited' of these for data.

    'at_hand': seconds of as many steps whose batch is there already. What a run loses to its input
    is more than it waits, where what decodes takes cores or Python's lock from it.
    """
    compiled = CompiledFunctions.for_devices(setup, jax.devices()[:1])
    open_stream = functools.partial(StreamingPipeline, records, setup.config, compiled.mesh)
    with contextlib.closing(open_stream()) as inputs:
        first = next(inputs.train_chunks(0, 1, None))
    at_hand = _Training(compiled, (first._replace(first_step=k) for k in itertools.count()))
    at_hand.train_for(WAITING_SECONDS / 4)
    with contextlib.closing(open_stream()) as inputs:
        streamed = _Training(compiled, inputs.train_chunks(0, ENDLESS, None))
        before = inputs.waited
        streamed.train_for(WAITING_SECONDS)
        waited = inputs.waited - before
        at_hand.train_for(WAITING_SECONDS / 4)
    steps, as_many = streamed.steps, at_hand.seconds / at_hand.steps * streamed.steps
    return {'steps': steps, 'seconds': streamed.seconds, 'waited': waited, 'at_hand': as_many}


class _Training:
    """A run on some chunks, begun with a step that is not counted; sums `steps` and `seconds`."""

    def __init__(self, compiled: CompiledFunctions, chunks: Iterator[Chunk]):
        self._compiled, self._chunks = compiled, chunks
        self._state, self._metrics = compiled.init_state(), compiled.empty_metrics()
        self.steps, self.seconds = 0, 0.0
        self.train_for(0)
        self.steps, self.seconds = 0, 0.0

    def train_for(self, seconds: float) -> None:
        """Trains for some seconds, one step at least, at most one ahead of the device."""
        start, first = time.perf_counter(), self.steps
        while self.steps == first or time.perf_counter() - start < seconds:
            previous, chunk = self._metrics, next(self._chunks)
            self._state, self._metrics = self._compiled.train_chunk(self._state, previous, chunk)
            jax.block_until_ready(previous)
            self.steps += 1
        jax.block_until_ready(self._metrics)
        self.seconds += time.perf_counter() - start
