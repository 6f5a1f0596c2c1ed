"""Metrics of every epoch: `metrics.jsonl` and TensorBoard events."""

import pathlib

from mixer_dilated.training.workdir import json_line, write_text


class MetricsWriter:
    """Appends one line and one set of TensorBoard scalars an epoch.

    Args:
      workdir: the run's folder.
      history: metrics of the epochs already done; whatever else the file held is dropped, so
        that a resumed run has each epoch once.
    """

    def __init__(self, workdir: pathlib.Path, history: list[dict]):
        from tensorboardX import SummaryWriter

        self._path = workdir / 'metrics.jsonl'
        write_text(self._path, ''.join(map(json_line, history)))
        next_step = history[-1]['step'] + 1 if history else None
        self._events = SummaryWriter(str(workdir / 'tensorboard'), purge_step=next_step)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._events.close()

    def write(self, row: dict) -> None:
        """Writes the metrics of one epoch; `row['step']` is TensorBoard's abscissa."""
        with self._path.open('a') as file:
            file.write(json_line(row))
        for name, value in row.items():
            if name != 'step':
                self._events.add_scalar(name, value, row['step'])
