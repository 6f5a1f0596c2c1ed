"""What a run tells of every epoch: `metrics.jsonl`, `speed.jsonl` and TensorBoard events."""

import pathlib
import statistics

from mixer_dilated.errors import InputError
from mixer_dilated.training.events import EventsFile
from mixer_dilated.training.snapshot import Snapshot
from mixer_dilated.training.workdir import json_line, told, write_json_lines

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

    def __init__(self, workdir: pathlib.Path, snapshot: Snapshot):
        self._workdir = workdir
        write_json_lines(workdir / METRICS, snapshot.metrics)
        write_json_lines(workdir / SPEED, snapshot.speed)
        next_step = snapshot.metrics[-1]['step'] + 1 if snapshot.metrics else 0
        with told(workdir / 'tensorboard'):
            self._events = EventsFile(workdir / 'tensorboard', next_step)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            with told(self._workdir / 'tensorboard'):
                self._events.close()
        except InputError:
            if kind is None:
                raise

    def write(self, rows: list[dict], speed: dict) -> None:
        """Writes the metrics of one epoch, a row a seed; TensorBoard gets the means over seeds."""
        for name, lines in ((METRICS, rows), (SPEED, [speed])):
            path = self._workdir / name
            with told(path), path.open('a') as file:
                file.write(''.join(map(json_line, lines)))
        means = {
            name: statistics.fmean(row[name] for row in rows)
            for name, value in rows[0].items()
            if name not in ('step', 'seed') and value is not None
        }
        with told(self._workdir / 'tensorboard'):
            self._events.write(means | speed, rows[0]['step'])


def has_rows(path: pathlib.Path) -> bool:
    """Whether a file of rows holds any."""
    return path.is_file() and path.stat().st_size > 0
