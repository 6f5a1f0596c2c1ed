"""Metrics of a run: rows of JSON, and scalars for TensorBoard."""

import contextlib
import functools
import itertools
import json
import math
import operator
import pathlib
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping

import jax
from ml_collections import ConfigDict

from mixer_dilated.errors import UserError
from mixer_dilated.files import append_json_lines, error_context, write_bytes, write_json_lines
from mixer_dilated.parallel.multihost import to_numpy
from mixer_dilated.paths import is_bucket
from mixer_dilated.training.optimizer import learning_rate_schedule
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.setup import Setup

METRICS, SPEED, TENSORBOARD = 'metrics.jsonl', 'speed.jsonl', 'tensorboard'
FLUSH_SECONDS = 10.0


class MetricsWriter:
    """Appends to `metrics.jsonl` a line an epoch and seed, to `speed.jsonl` a line an epoch, and
    to the TensorBoard events one set of scalars an epoch.

    Everything in `metrics.jsonl` follows from the config and the data: a run that was stopped and
    resumed leaves the bytes of one that was not. Rows that `run` does not have are dropped.

    The events are written by the thread that trains, so that a full disk ends the run there: that
    of tensorboardX's own `SummaryWriter` dies of it, and the next write blocks for ever. For a
    bucket they are written to a local file, of which a copy is put there. A run that resumes writes
    all of them again: a kill loses those since the last flush.

    Raises UserError if a file cannot be written, as its methods do.
    """

    def __init__(self, workdir: pathlib.Path, run: RunState):
        with _not_imported('torch', 'boto3', 'google.cloud.storage'):
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import SessionLog

        self._workdir, self._folder = workdir, workdir / TENSORBOARD
        write_json_lines(workdir / METRICS, run.metrics)
        write_json_lines(workdir / SPEED, run.speed)
        self._to_copy = tempfile.TemporaryDirectory() if is_bucket(workdir) else None
        folder = pathlib.Path(self._to_copy.name) if self._to_copy else self._folder
        with error_context(self._folder):
            folder.mkdir(parents=True, exist_ok=True)
            # The time in the name: a run may be stopped and resumed within a second.
            self._events = EventsWriter(str(folder / 'events'), f'.{time.time_ns()}')
            # TensorBoard drops what earlier files hold.
            self._write_event(0, session_log=SessionLog(status=SessionLog.START))
            self._flushed = time.monotonic()
            speed = {row['epoch']: row for row in run.speed}
            for epoch, rows in itertools.groupby(run.metrics, operator.itemgetter('epoch')):
                self._write_scalars([*rows], speed.get(epoch, {}))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            with error_context(self._folder):
                self._flush()
                self._events.close()
        except UserError:
            if kind is None:
                raise
        finally:
            if self._to_copy:
                self._to_copy.cleanup()

    def write(self, rows: list[dict], speed: dict) -> None:
        """Writes the metrics of one epoch, a row a seed; TensorBoard gets the means over seeds."""
        append_json_lines(self._workdir / METRICS, rows)
        append_json_lines(self._workdir / SPEED, [speed])
        with error_context(self._folder):
            self._write_scalars(rows, speed)
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._flush()

    def _write_scalars(self, rows: list[dict], speed: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        names = [name for name, value in rows[0].items() if value is not None]
        means = {name: statistics.fmean(row[name] for row in rows) for name in names}
        scalars = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in (means | speed).items()
            if name not in ('step', 'seed') and math.isfinite(value)
        ]
        self._write_event(rows[0]['step'], summary=Summary(value=scalars))

    def _flush(self) -> None:
        self._events.flush()
        self._flushed = time.monotonic()
        for file in pathlib.Path(self._to_copy.name).iterdir() if self._to_copy else ():
            write_bytes(self._folder / file.name, file.read_bytes())

    def _write_event(self, step: int, **content) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(wall_time=time.time(), step=step, **content))


@contextlib.contextmanager
def _not_imported(*names: str) -> Iterator[None]:
    """Lets imports of these fail: tensorboardX would take seconds for what is not used here."""
    absent = {*names} - sys.modules.keys()
    sys.modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def epoch_rows(setup: Setup, run: RunState, epoch: int, result: dict | None) -> list[dict]:
    """The rows of `metrics.jsonl`, one a seed; without an evaluation its values are None."""
    config, steps, split = setup.config, setup.steps_of_epoch(epoch), setup.epoch_split
    training = to_numpy(run.epoch_metrics).compute(steps, config.batch)
    learning_rate = _learning_rate(config.optimizer.to_json(), setup.total_steps)
    rows = [
        {
            'epoch': epoch,
            'step': run.step,
            'seed': config.seed + k,
            'train_loss': float(training['loss'][k]),
            'train_accuracy': float(training['accuracy'][k]),
            'skipped_steps': int(training['skipped'][k]),
            f'{split}_loss': float(result['loss'][k]) if result else None,
            **accuracies(setup, split, result, k),
            'learning_rate': float(learning_rate(run.step - 1)),
        }
        for k in range(config.num_seeds)
    ]
    for row in rows:
        if skipped := row['skipped_steps']:
            text = f'{skipped} of {steps} steps left out, their loss or gradient was not finite'
            warnings.warn(f'epoch {epoch}, seed {row["seed"]}: {text}', stacklevel=2)
    return rows


@functools.lru_cache(maxsize=1)
def _learning_rate(optimizer: str, total_steps: int) -> Callable[[int], jax.Array]:
    """The schedule as one program; each of its operations alone would be compiled too."""
    return jax.jit(learning_rate_schedule(ConfigDict(json.loads(optimizer)), total_steps))


def accuracies(setup: Setup, part: str, result: dict | None, k: int) -> dict[str, float | None]:
    """{'test_accuracy': …} of the k-th seed, of more than ten classes 'test_top5_accuracy' too.

    `part` is 'train', 'val' or 'test', `result` of `CompiledFunctions.evaluate`, or None for values
    that are None.
    """
    counts = {'accuracy': 'correct'}
    if setup.dataset.num_classes > 10:
        counts['top5_accuracy'] = 'top5'
    return {
        f'{part}_{name}': result and int(result[count][k]) / setup.num_examples[part]
        for name, count in counts.items()
    }


def epoch_speed(setup: Setup, run: RunState, epoch: int, waited: float) -> dict:
    """The row of `speed.jsonl`, of an epoch that waited some seconds for its images."""
    images = setup.config.num_seeds * setup.steps_of_epoch(epoch) * setup.config.batch
    speed = {'epoch': epoch, 'seconds': run.seconds, 'images_per_second': images / run.seconds}
    return {**speed, 'input_share': min(1.0, waited / run.seconds)}
