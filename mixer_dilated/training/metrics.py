"""TensorBoard events, written by the thread that trains: an error of the disk ends the run there.

tensorboardX's own writer hands them to a thread; when that dies of a full disk, the next waits
for it for ever.
"""

import math
import pathlib
import statistics
import time
from collections.abc import Mapping

from mixer_dilated.errors import UserError
from mixer_dilated.files import error_context, json_line, write_json_lines
from mixer_dilated.training.checkpoint import RunState

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
