"""Training from a config to a run's folder: `train_and_evaluate`."""

import contextlib
import dataclasses
import math
import pathlib
import secrets
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
import ml_collections
import numpy as np
from flax.training.train_state import TrainState

from mixer_dilated.data.examples import Examples
from mixer_dilated.errors import NonFiniteError, Stopped, UserError
from mixer_dilated.files import write_text
from mixer_dilated.parallel.multihost import (
    OTHER_DATA,
    any_host,
    assert_equal_across_hosts,
    broadcast,
    on_all_hosts,
    on_primary,
    to_numpy,
    translate_host_loss,
)
from mixer_dilated.training.checkpoint import (
    SEEN_WITHIN_SECONDS,
    Checkpoints,
    RunState,
    array_checksums,
)
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.data_file import check_same_data, data_facts
from mixer_dilated.training.epoch import epoch_metrics
from mixer_dilated.training.metrics import METRICS, MetricsWriter, has_rows
from mixer_dilated.training.optimizer import learning_rate_schedule
from mixer_dilated.training.results import (
    drawn_weights,
    run_summary,
    write_augmented_images,
    write_predictions,
    write_weights,
)
from mixer_dilated.training.run_folder import (
    check_place,
    check_same_config,
    claim,
    file_checksums,
    locked,
    read_summary,
    versions,
    write_summary,
)
from mixer_dilated.training.setup import Setup, create_setup, write_preprocessing
from mixer_dilated.training.state import (
    InitialParams,
    load_initial_params,
    with_params,
    write_initial,
)
from mixer_dilated.training.streamed_examples import StreamedExamples, closing, open_examples


class Progress:
    """Told how far a run is; this one keeps silent, others print."""

    def starts(self, setup: Setup) -> None:
        """The config fits; data and programs are made ready next."""

    def restores(self) -> None:
        """From here on a stop is asked for with `stop_requested`, and nothing else ends it."""

    def already_finished(self, workdir: pathlib.Path) -> None:
        """The folder holds this very run, finished; its summary is returned as it is."""

    def initialised(self, initial: dict) -> None:
        """The run begins with weights of `config.init_from`; content of `initial.json`."""

    def compiled(self, setup: Setup, step: int) -> None:
        """All is ready; `step` steps were done by an earlier process."""

    def epoch_done(self, rows: list[dict], speed: dict) -> None:
        """An epoch is trained, and evaluated if it is its turn.

        Args:
          rows: its rows of `metrics.jsonl`, one a seed.
          speed: its row of `speed.jsonl`.
        """

    def trained(self) -> None:
        """All epochs are done and saved."""

    def stop_requested(self) -> bool:
        """Whether the run should save what it has and stop; asked about once a second."""
        return False


PIECE_SECONDS = 1.0
FIRST_PIECE, GROWTH = 8, 4


class Pace:
    """Cuts epochs into pieces of about a second, after which a run may save or stop.

    Args:
      settings: `config.checkpoints`.
    """

    def __init__(self, settings: ml_collections.ConfigDict):
        self._every_steps = settings.every_steps
        self._every_seconds = settings.every_minutes * 60
        self._piece = FIRST_PIECE
        self._saved_at = -math.inf  # the first is due at once

    def next_piece(self, step: int, steps_left: int) -> int:
        """Steps of the next piece.

        Args:
          step: steps that are done.
          steps_left: of this epoch; at least one.
        """
        piece = min(self._piece, steps_left)
        if self._every_steps:
            piece = min(piece, self._every_steps - step % self._every_steps)
        return piece

    def took(self, steps: int, seconds: float) -> None:
        """Learns from a piece how long the next should be; all processes say the same."""
        fitting = int(PIECE_SECONDS * steps / max(seconds, 1e-9))
        self._piece = max(1, min(fitting, GROWTH * max(steps, self._piece)))

    def save_due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        at_step = self._every_steps and step % self._every_steps == 0
        since = broadcast(time.monotonic() - self._saved_at)
        return bool(at_step) or since >= self._every_seconds

    def saved(self) -> None:
        """A checkpoint was begun."""
        self._saved_at = time.monotonic()


class Trainer:
    """The epochs of a run: trains, evaluates, writes metrics, saves, and stops when asked.

    Args:
      setup: what is trained.
      programs: its programs.
      checkpoints: where it is saved.
      writer: of its metrics, on the first process.
      progress: told how far it is, and asked whether it should stop.
    """

    def __init__(
        self,
        setup: Setup,
        programs: CompiledFunctions,
        checkpoints: Checkpoints,
        writer: MetricsWriter | None,
        progress: Progress,
    ):
        self._setup = setup
        self._programs = programs
        self._checkpoints = checkpoints
        self._writer = writer
        self._progress = progress
        self._pace = Pace(setup.config.checkpoints)

    def run(
        self,
        snapshot: RunState,
        train: Examples | StreamedExamples,
        test: Examples | StreamedExamples,
    ) -> RunState:
        """Trains what is left of the epochs.

        Args:
          snapshot: where to start; its arrays are used up.
          train, test: on the devices, or on their way.

        Returns:
          The end of the last epoch, saved.

        Raises:
          UserError, NonFiniteError, Stopped: as `train_and_evaluate`.
        """
        run_steps, evaluate = self._programs.train_steps(train), self._programs.evaluation(test)
        steps, config = self._setup.steps_per_epoch, self._setup.config
        for epoch in range(snapshot.epochs_done + 1, config.num_epochs + 1):
            while snapshot.step < epoch * steps:
                self._stop_if_asked(snapshot)
                snapshot = self._piece(snapshot, epoch, run_steps)
            # No stop here: a checkpoint of this step without its metrics would stand in the way of
            # the one with them.
            evaluated = epoch % config.eval_every == 0 or epoch == config.num_epochs
            testing = to_numpy(evaluate(snapshot.state)) if evaluated else None
            snapshot = self._epoch_done(snapshot, epoch, testing)
        self._save(snapshot)
        self._checkpoints.wait()
        return snapshot

    def _piece(self, snapshot: RunState, epoch: int, run_steps: Callable) -> RunState:
        """Trains the next steps of an epoch, about a second of them."""
        begin, end = snapshot.step, epoch * self._setup.steps_per_epoch
        count = self._pace.next_piece(begin, end - begin)
        start = time.perf_counter()
        state, sums = jax.block_until_ready(run_steps(snapshot.state, snapshot.sums, count))
        seconds = broadcast(time.perf_counter() - start)
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

    def _epoch_done(self, snapshot: RunState, epoch: int, testing: Mapping | None) -> RunState:
        """Tells and saves the metrics of an epoch; `testing` is its evaluation, if it has one."""
        rows, speed = self._rows(snapshot, epoch, testing), self._speed(snapshot, epoch)
        snapshot = RunState(
            snapshot.state,
            self._programs.zero_sums(),
            [*snapshot.metrics, *rows],
            [*snapshot.speed, speed],
        )
        best = snapshot.best_step == snapshot.step and self._setup.config.checkpoints.keep_best
        if best or self._pace.save_due(snapshot.step):
            self._save(snapshot)
        if epoch == 1:
            self._checkpoints.wait()  # where there are metrics, a checkpoint was
        on_primary(lambda: self._writer.write(rows, speed))
        self._progress.epoch_done(rows, speed)
        return snapshot

    def _rows(self, snapshot: RunState, epoch: int, testing: Mapping | None) -> list[dict]:
        """The rows of `metrics.jsonl`, one a seed; without an evaluation its values are None."""
        config, steps = self._setup.config, self._setup.steps_per_epoch
        training = epoch_metrics(to_numpy(snapshot.sums), steps, config.batch)
        schedule = learning_rate_schedule(config.optimizer, self._setup.total_steps)
        examples = self._setup.test_examples
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

    def _speed(self, snapshot: RunState, epoch: int) -> dict:
        """The row of `speed.jsonl`."""
        config = self._setup.config
        images = config.num_seeds * self._setup.steps_per_epoch * config.batch
        return {
            'epoch': epoch,
            'seconds': snapshot.seconds,
            'images_per_second': images / snapshot.seconds,
        }

    def _check_finite(self, snapshot: RunState, epoch: int) -> None:
        config = self._setup.config
        sums = to_numpy(snapshot.sums)
        if not sums.skipped.any():
            return
        if config.on_nonfinite == 'skip':
            self._check_parameters(snapshot)
            return
        first = sums.first_skipped[sums.skipped > 0].min()
        seeds = [str(config.seed + k) for k in (sums.first_skipped == first).nonzero()[0]]
        raise NonFiniteError(
            f'epoch {epoch}, step {first}: the loss or its gradient is not finite (seed '
            f'{", ".join(seeds)}); {self._likely_causes()}, or leave such steps out: '
            '--config.on_nonfinite=skip'
        )

    def _check_parameters(self, snapshot: RunState) -> None:
        """Raises NonFiniteError if a parameter is not finite, after steps whose losses were."""
        pieces = (
            piece.data
            for leaf in jax.tree.leaves(snapshot.state.params)
            for piece in leaf.addressable_shards
            if piece.replica_id == 0
        )
        if not any_host(not all(np.isfinite(piece).all() for piece in pieces)):
            return
        raise NonFiniteError(
            f'step {snapshot.step}: parameters are not finite, which no further step can mend; '
            f'{self._likely_causes()}'
        )

    def _likely_causes(self) -> str:
        there, optimizer = self._checkpoints.newest, self._setup.config.optimizer
        kept = 'there is no checkpoint yet' if there is None else f'that of step {there} is kept'
        return (
            f'{kept}. Likely a learning rate too high '
            f'(config.optimizer.base_lr = {optimizer.base_lr}), gradients without a limit '
            f'(config.optimizer.grad_norm_clip = {optimizer.grad_norm_clip}) or no warm-up '
            f'(config.optimizer.warmup_steps = {optimizer.warmup_steps}). Train with other values '
            'in another folder'
        )

    def _stop_if_asked(self, snapshot: RunState) -> None:
        if any_host(self._progress.stop_requested()):
            self._save(snapshot)
            self._checkpoints.wait()
            raise Stopped(snapshot.step)

    def _save(self, snapshot: RunState) -> None:
        self._check_parameters(snapshot)  # what is kept can be used
        self._checkpoints.save(snapshot)
        self._pace.saved()


# Files of a finished run that its summary has the checksums of.
RESULTS = (METRICS, 'predictions.npz', 'weights.npz')
# 'train' and 'test'.
Data = Mapping[str, Examples | StreamedExamples]
# What processes are told that do not train the same.
OTHER_CONFIG = (
    'the processes were started with different configs, or have different versions installed; '
    'start all with the same command, in the same environment (or apart from each other, with '
    '--num_processes=1 and each in a folder of its own)'
)
OTHER_WEIGHTS = 'config.init_from: the processes read different weights; give all the same file'


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    name: str = '',
    started: float | None = None,
    progress: Progress | None = None,
) -> dict | None:
    """Trains a config in a folder, from its newest checkpoint if it has one.

    Args:
      config: a resolved config.
      workdir: the run's folder; made if it is not there.
      name: what to call the run; the folder's name if empty.
      started: `time.perf_counter()` at the start of the process, from which start-up counts.
      progress: told how far the run is, and asked whether it should stop.

    Returns:
      The content of `summary.json`; None on other processes than the first.

    Raises:
      UserError: the config does not fit the data, the devices or the folder; another process
        works in the folder; something cannot be read or written.
      NonFiniteError: the loss or its gradient is not finite, and `config.on_nonfinite` is 'stop'.
      Stopped: the run was asked to stop, and its state is saved.
    """
    started = time.perf_counter() if started is None else started
    progress = progress or Progress()
    assert_equal_across_hosts([config.to_dict(), versions()], OTHER_CONFIG)
    finished = on_primary(_finished, workdir, config)
    if broadcast(bool(finished)):
        progress.already_finished(workdir)
        return finished
    on_primary(check_place, workdir, 'run', 'config.json')
    if jax.process_count() > 1:
        on_primary(create_setup, config)  # where there is something to prepare, one process does so
    starts = broadcast(not (workdir / 'checkpoints').exists())
    setup, programs, initial = on_all_hosts(_prepared, config, starts=starts)
    with contextlib.ExitStack() as ending:
        on_primary(ending.enter_context, locked(workdir))
        on_primary(claim, workdir, config, versions())
        _check_seen(workdir)
        progress.starts(setup)
        with Checkpoints(workdir, config) as checkpoints, translate_host_loss():
            saved = checkpoints.any_there()
            examples = on_all_hosts(_read_and_compile, setup, programs, initialise=not saved)
            ending.enter_context(closing(*examples.values()))
            on_primary(write_preprocessing, workdir, setup)
            facts = {part: data_facts(setup, part, found) for part, found in examples.items()}
            assert_equal_across_hosts(facts, OTHER_DATA)
            on_primary(check_same_data, workdir, facts, saved=saved)
            placed = {part: programs.place(found) for part, found in examples.items()}
            progress.restores()
            snapshot = on_all_hosts(_restored, workdir, config, checkpoints, programs)
            if snapshot is None:
                snapshot = _first_snapshot(workdir, setup, programs, initial, placed, progress)
            jax.block_until_ready((snapshot.arrays, placed))
            startup = time.perf_counter() - started
            progress.compiled(setup, snapshot.step)
            with on_primary(MetricsWriter, workdir, snapshot) or contextlib.nullcontext() as writer:
                trainer = Trainer(setup, programs, checkpoints, writer, progress)
                snapshot = trainer.run(snapshot, placed['train'], placed['test'])
            progress.trained()
        results = _final_results(workdir, setup, programs, snapshot.state, examples, placed)
        seconds = {'startup': startup, 'compile': programs.compile_seconds}
        summary = run_summary(setup, name or workdir.name, snapshot, results, seconds)
        files = on_primary(file_checksums, workdir, RESULTS)
        return on_primary(write_summary, workdir, {**summary, 'files': files})


def _check_seen(workdir: pathlib.Path) -> None:
    """Raises AllHostsError unless all processes see the folder in which the first writes."""
    if jax.process_count() == 1:
        return
    mark, said = workdir / '.seen', broadcast(secrets.token_hex())
    on_primary(write_text, mark, said)
    on_all_hosts(_wait_for, mark, said)
    on_primary(mark.unlink)


def _wait_for(mark: pathlib.Path, said: str) -> None:
    until = time.monotonic() + SEEN_WITHIN_SECONDS
    while not mark.exists() or mark.read_text() != said:
        if time.monotonic() > until:
            raise UserError(
                f'--workdir={mark.parent}: this process does not see the folder of process 0; name '
                'one on a disk that all processes share'
            )
        time.sleep(0.1)


def _prepared(
    config: ml_collections.ConfigDict, *, starts: bool
) -> tuple[Setup, CompiledFunctions, InitialParams | None]:
    """What is refused, if it is, before there is a folder; no parameters if there were steps."""
    setup = create_setup(config)
    programs = CompiledFunctions(setup)
    programs.check_batch()
    return setup, programs, load_initial_params(setup) if starts else None


def _finished(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> dict | None:
    """The summary of the finished run in a folder; None if there is none, or files are damaged."""
    summary = read_summary(workdir)
    if not summary:
        return None
    check_same_config(workdir, config)
    _check_none_left_out(workdir, config, summary['skipped_steps'])
    there = file_checksums(workdir, RESULTS)
    damaged = [name for name in RESULTS if there[name] != summary['files'][name]]
    if damaged:
        warnings.warn(
            f'{workdir}: {", ".join(damaged)} damaged or gone; made again from the checkpoint',
            stacklevel=3,
        )
        return None
    return summary


def _restored(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    checkpoints: Checkpoints,
    programs: CompiledFunctions,
) -> RunState | None:
    """The newest snapshot; None if nothing was trained yet."""
    snapshot = checkpoints.restore(
        programs.abstract_snapshot(), expected=has_rows(workdir / METRICS)
    )
    if snapshot is None:
        return None
    left_out = sum(row['skipped_steps'] for row in snapshot.metrics)
    left_out += int(to_numpy(snapshot.sums.skipped).sum())
    _check_none_left_out(workdir, config, left_out)
    return snapshot


def _check_none_left_out(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, skipped_steps: int
) -> None:
    if skipped_steps and config.on_nonfinite == 'stop':
        raise UserError(
            f"config.on_nonfinite = 'stop': {workdir} holds a run that left out {skipped_steps} "
            "steps; allowed is 'skip', or a new folder"
        )


def _first_snapshot(
    workdir: pathlib.Path,
    setup: Setup,
    programs: CompiledFunctions,
    initial: InitialParams | None,
    placed: Data,
    progress: Progress,
) -> RunState:
    """Before the first step; what weights from elsewhere score is written."""
    initial = initial or on_all_hosts(load_initial_params, setup)
    assert_equal_across_hosts(array_checksums(initial.params), OTHER_WEIGHTS)
    state = with_params(programs.create_state(), initial)
    if setup.config.init_from:
        result = to_numpy(programs.evaluation(placed['test'])(state))
        progress.initialised(on_primary(write_initial, workdir, initial, setup, result))
    return RunState(state, programs.zero_sums())


def _final_results(
    workdir: pathlib.Path,
    setup: Setup,
    programs: CompiledFunctions,
    state: TrainState,
    examples: Data,
    placed: Data,
) -> dict:
    """Of `epoch.evaluate` after the last step, on every part; predictions, weights and augmented
    images are written.
    """
    results = {part: programs.evaluation(found)(state) for part, found in placed.items()}
    predicted = programs.prediction(placed['test'])(state)
    results, predicted = to_numpy((results, predicted))
    on_primary(write_predictions, workdir, examples['test'], predicted, setup.image_size)
    on_primary(write_weights, workdir, drawn_weights(state.params))
    on_primary(write_augmented_images, workdir, setup.config, examples['train'], setup.image_size)
    return results


def _read_and_compile(setup: Setup, programs: CompiledFunctions, *, initialise: bool) -> Data:
    """Reads the examples, 'train' and 'test', while the training programs are compiled."""
    config = setup.config.dataset
    threads = ThreadPoolExecutor(1)
    try:
        compiling = threads.submit(programs.compile_training, initialise=initialise)
        examples = {
            part: open_examples(setup, config[f'{part}_split']) for part in ('train', 'test')
        }
        compiling.result()
    finally:
        threads.shutdown(wait=False)  # an error, or Ctrl-C, does not wait for the compiler
    return examples
