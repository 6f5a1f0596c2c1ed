"""TensorBoard events, written by the thread that trains: an error of the disk ends the run there.

tensorboardX's own writer hands them to a thread; when that dies of a full disk, the next waits
for it for ever.
"""

import math
import pathlib
import statistics
import time
import warnings
from collections.abc import Mapping

from mixer_dilated.errors import UserError
from mixer_dilated.files import error_context, json_line, write_json_lines
from mixer_dilated.parallel.multihost import to_numpy
from mixer_dilated.training.optimizer import learning_rate_schedule
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.setup import Setup

FLUSH_SECONDS = 10.0


class EventsFile:
    """Scalars by step, in a new file of events.

    Args:
      folder: made if it is not there.
      first_step: what earlier files of the folder hold from this step on is void.

    Raises:
      OSError: as its methods, if the file cannot be written.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._event = Event
        # A file of its own, though the run be stopped and resumed within a second.
        self._file = EventsWriter(str(folder / 'events'), f'.{time.time_ns()}')
        start = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(wall_time=time.time(), step=first_step, session_log=start))
        self._flushed = time.monotonic()

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Adds a scalar a name; those that are not finite, which no curve shows, are left out."""
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
            if math.isfinite(value)
        ]
        self._file.write_event(
            self._event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
        )
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is still in memory."""
        self._file.close()


METRICS, SPEED = 'metrics.jsonl', 'speed.jsonl'


class MetricsWriter:
    """Appends to `metrics.jsonl` a line an epoch and seed, to `speed.jsonl` a line an epoch, and
    to the TensorBoard events one set of scalars an epoch.

    Everything in `metrics.jsonl` follows from the config and the data: a run that was stopped and
    resumed leaves the bytes of one that was not. How long it took is in `speed.jsonl`.

    Args:
      workdir: the run's folder.
      snapshot: with the rows of the epochs already done; whatever else the files held is dropped,
        so that a resumed run has each epoch once.
    """

    def __init__(self, workdir: pathlib.Path, snapshot: RunState):
        self._workdir = workdir
        write_json_lines(workdir / METRICS, snapshot.metrics)
        write_json_lines(workdir / SPEED, snapshot.speed)
        next_step = snapshot.metrics[-1]['step'] + 1 if snapshot.metrics else 0
        with error_context(workdir / 'tensorboard'):
            self._events = EventsFile(workdir / 'tensorboard', next_step)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            with error_context(self._workdir / 'tensorboard'):
                self._events.close()
        except UserError:
            if kind is None:
                raise

    def write(self, rows: list[dict], speed: dict) -> None:
        """Writes the metrics of one epoch, a row a seed; TensorBoard gets the means over seeds."""
        for name, lines in ((METRICS, rows), (SPEED, [speed])):
            path = self._workdir / name
            with error_context(path), path.open('a') as file:
                file.write(''.join(map(json_line, lines)))
        means = {
            name: statistics.fmean(row[name] for row in rows)
            for name, value in rows[0].items()
            if name not in ('step', 'seed') and value is not None
        }
        with error_context(self._workdir / 'tensorboard'):
            self._events.write(means | speed, rows[0]['step'])


def has_rows(path: pathlib.Path) -> bool:
    """Whether a file of rows holds any."""
    return path.is_file() and path.stat().st_size > 0


def epoch_rows(setup: Setup, run: RunState, epoch: int, result: dict | None) -> list[dict]:
    """The rows of `metrics.jsonl`, one a seed; without an evaluation its values are None."""
    config, steps = setup.config, setup.steps_per_epoch
    training = to_numpy(run.sums).compute(steps, config.batch)
    schedule = learning_rate_schedule(config.optimizer, setup.total_steps)
    rows = [
        {
            'epoch': epoch,
            'step': run.step,
            'seed': config.seed + k,
            'train_loss': float(training['loss'][k]),
            'train_accuracy': float(training['accuracy'][k]),
            'skipped_steps': int(training['skipped'][k]),
            'test_loss': float(result['loss'][k]) if result else None,
            'test_accuracy': int(result['correct'][k]) / setup.test_examples if result else None,
            'learning_rate': float(schedule(run.step - 1)),
        }
        for k in range(config.num_seeds)
    ]
    for row in rows:
        if row['skipped_steps']:
            warnings.warn(
                f'epoch {epoch}, seed {row["seed"]}: {row["skipped_steps"]} of {steps} steps '
                'left out, their loss or gradient was not finite',
                stacklevel=2,
            )
    return rows


def epoch_speed(setup: Setup, run: RunState, epoch: int) -> dict:
    """The row of `speed.jsonl`."""
    images = setup.config.num_seeds * setup.steps_per_epoch * setup.config.batch
    return {
        'epoch': epoch,
        'seconds': run.seconds,
        'images_per_second': images / run.seconds,
    }
