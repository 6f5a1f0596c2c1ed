"""Metrics of every epoch: `metrics.jsonl` and TensorBoard events."""

import pathlib
import statistics
import time

from mixer_dilated.training.workdir import json_line, write_text


class MetricsWriter:
    """Appends one line an epoch and seed, and one set of TensorBoard scalars an epoch.

    Args:
      workdir: the run's folder.
      history: metrics of the epochs already done; whatever else the file held is dropped, so
        that a resumed run has each epoch once.
    """

    def __init__(self, workdir: pathlib.Path, history: list[dict]):
        from tensorboardX import SummaryWriter

        self._path = workdir / 'metrics.jsonl'
        write_text(self._path, ''.join(map(json_line, history)))
        next_step = history[-1]['step'] + 1 if history else 0
        self._events = SummaryWriter(
            str(workdir / 'tensorboard'),
            purge_step=next_step,
            # A file of its own, though the run be stopped and resumed within a second.
            filename_suffix=f'.{time.time_ns()}',
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._events.close()

    def write(self, rows: list[dict]) -> None:
        """Writes the metrics of one epoch, a row a seed; TensorBoard gets the means over seeds."""
        with self._path.open('a') as file:
            file.write(''.join(map(json_line, rows)))
        for name in rows[0]:
            if name not in ('step', 'seed') and rows[0][name] is not None:
                mean = statistics.fmean(row[name] for row in rows)
                self._events.add_scalar(name, mean, rows[0]['step'])
