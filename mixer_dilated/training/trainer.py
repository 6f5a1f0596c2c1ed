"""The epochs of a run: `Trainer`."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping

import jax
import numpy as np

from mixer_dilated.data.examples import Examples
from mixer_dilated.errors import NotFiniteError, Stopped
from mixer_dilated.training.agreement import any_says, first_says, on_first, on_host
from mixer_dilated.training.checkpoints import Checkpoints
from mixer_dilated.training.epoch import epoch_metrics
from mixer_dilated.training.metrics import MetricsWriter
from mixer_dilated.training.optimizer import learning_rate_schedule
from mixer_dilated.training.pace import Pace
from mixer_dilated.training.programs import Programs
from mixer_dilated.training.progress import Progress
from mixer_dilated.training.snapshot import Snapshot
from mixer_dilated.training.streamed_examples import StreamedExamples
from mixer_dilated.training.task import Task


class Trainer:
    """The epochs of a run: trains, evaluates, writes metrics, saves, and stops when asked.

    Args:
      task: what is trained.
      programs: its programs.
      checkpoints: where it is saved.
      writer: of its metrics, on the first process.
      progress: told how far it is, and asked whether it should stop.
    """

    def __init__(
        self,
        task: Task,
        programs: Programs,
        checkpoints: Checkpoints,
        writer: MetricsWriter | None,
        progress: Progress,
    ):
        self._task = task
        self._programs = programs
        self._checkpoints = checkpoints
        self._writer = writer
        self._progress = progress
        self._pace = Pace(task.config.checkpoints)

    def run(
        self,
        snapshot: Snapshot,
        train: Examples | StreamedExamples,
        test: Examples | StreamedExamples,
    ) -> Snapshot:
        """Trains what is left of the epochs.

        Args:
          snapshot: where to start; its arrays are used up.
          train, test: on the devices, or on their way.

        Returns:
          The end of the last epoch, saved.

        Raises:
          InputError, NotFiniteError, Stopped: as `train_and_evaluate`.
        """
        run_steps, evaluate = self._programs.train_steps(train), self._programs.evaluation(test)
        steps, config = self._task.steps_per_epoch, self._task.config
        for epoch in range(snapshot.epochs_done + 1, config.num_epochs + 1):
            while snapshot.step < epoch * steps:
                self._stop_if_asked(snapshot)
                snapshot = self._piece(snapshot, epoch, run_steps)
            # No stop here: a checkpoint of this step without its metrics would stand in the way of
            # the one with them.
            evaluated = epoch % config.eval_every == 0 or epoch == config.num_epochs
            testing = on_host(evaluate(snapshot.state)) if evaluated else None
            snapshot = self._epoch_done(snapshot, epoch, testing)
        self._save(snapshot)
        self._checkpoints.wait()
        return snapshot

    def _piece(self, snapshot: Snapshot, epoch: int, run_steps: Callable) -> Snapshot:
        """Trains the next steps of an epoch, about a second of them."""
        begin, end = snapshot.step, epoch * self._task.steps_per_epoch
        count = self._pace.next_piece(begin, end - begin)
        start = time.perf_counter()
        state, sums = jax.block_until_ready(run_steps(snapshot.state, snapshot.sums, count))
        seconds = first_says(time.perf_counter() - start)
        snapshot = dataclasses.replace(
            snapshot, state=state, sums=sums, seconds=snapshot.seconds + seconds
        )
        if snapshot.step == begin:  # the data is slow to come: time to look up
            return snapshot
        self._pace.took(snapshot.step - begin, seconds)
        self._check_finite(snapshot, epoch)
        # At the end of an epoch its metrics come first.
        if snapshot.step < end and self._pace.save_due(snapshot.step):
            self._save(snapshot)
        return snapshot

    def _epoch_done(self, snapshot: Snapshot, epoch: int, testing: Mapping | None) -> Snapshot:
        """Tells and saves the metrics of an epoch; `testing` is its evaluation, if it has one."""
        rows, speed = self._rows(snapshot, epoch, testing), self._speed(snapshot, epoch)
        snapshot = Snapshot(
            snapshot.state,
            self._programs.zero_sums(),
            [*snapshot.metrics, *rows],
            [*snapshot.speed, speed],
        )
        best = snapshot.best_step == snapshot.step and self._task.config.checkpoints.keep_best
        if best or self._pace.save_due(snapshot.step):
            self._save(snapshot)
        if epoch == 1:
            self._checkpoints.wait()  # where there are metrics, a checkpoint was
        on_first(lambda: self._writer.write(rows, speed))
        self._progress.epoch_done(rows, speed)
        return snapshot

    def _rows(self, snapshot: Snapshot, epoch: int, testing: Mapping | None) -> list[dict]:
        """The rows of `metrics.jsonl`, one a seed; without an evaluation its values are None."""
        config, steps = self._task.config, self._task.steps_per_epoch
        training = epoch_metrics(on_host(snapshot.sums), steps, config.batch)
        schedule = learning_rate_schedule(config.optimizer, self._task.total_steps)
        examples = self._task.test_examples
        rows = [
            {
                'epoch': epoch,
                'step': snapshot.step,
                'seed': config.seed + k,
                'train_loss': float(training['loss'][k]),
                'train_accuracy': float(training['accuracy'][k]),
                'skipped_steps': int(training['skipped'][k]),
                'test_loss': float(testing['loss'][k]) if testing else None,
                'test_accuracy': int(testing['correct'][k]) / examples if testing else None,
                'learning_rate': float(schedule(snapshot.step - 1)),
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

    def _speed(self, snapshot: Snapshot, epoch: int) -> dict:
        """The row of `speed.jsonl`."""
        config = self._task.config
        images = config.num_seeds * self._task.steps_per_epoch * config.batch
        return {
            'epoch': epoch,
            'seconds': snapshot.seconds,
            'images_per_second': images / snapshot.seconds,
        }

    def _check_finite(self, snapshot: Snapshot, epoch: int) -> None:
        config = self._task.config
        sums = on_host(snapshot.sums)
        if not sums.skipped.any():
            return
        if config.on_nonfinite == 'skip':
            self._check_parameters(snapshot)
            return
        first = sums.first_skipped[sums.skipped > 0].min()
        seeds = [str(config.seed + k) for k in (sums.first_skipped == first).nonzero()[0]]
        raise NotFiniteError(
            f'epoch {epoch}, step {first}: the loss or its gradient is not finite (seed '
            f'{", ".join(seeds)}); {self._likely_causes()}, or leave such steps out: '
            '--config.on_nonfinite=skip'
        )

    def _check_parameters(self, snapshot: Snapshot) -> None:
        """Raises NotFiniteError if a parameter is not finite, after steps whose losses were."""
        pieces = (
            piece.data
            for leaf in jax.tree.leaves(snapshot.state.params)
            for piece in leaf.addressable_shards
            if piece.replica_id == 0
        )
        if not any_says(not all(np.isfinite(piece).all() for piece in pieces)):
            return
        raise NotFiniteError(
            f'step {snapshot.step}: parameters are not finite, which no further step can mend; '
            f'{self._likely_causes()}'
        )

    def _likely_causes(self) -> str:
        there, optimizer = self._checkpoints.newest, self._task.config.optimizer
        kept = 'there is no checkpoint yet' if there is None else f'that of step {there} is kept'
        return (
            f'{kept}. Likely a learning rate too high '
            f'(config.optimizer.base_lr = {optimizer.base_lr}), gradients without a limit '
            f'(config.optimizer.grad_norm_clip = {optimizer.grad_norm_clip}) or no warm-up '
            f'(config.optimizer.warmup_steps = {optimizer.warmup_steps}). Train with other values '
            'in another folder'
        )

    def _stop_if_asked(self, snapshot: Snapshot) -> None:
        if any_says(self._progress.stop_requested()):
            self._save(snapshot)
            self._checkpoints.wait()
            raise Stopped(snapshot.step)

    def _save(self, snapshot: Snapshot) -> None:
        self._check_parameters(snapshot)  # what is kept can be used
        self._checkpoints.save(snapshot)
        self._pace.saved()
