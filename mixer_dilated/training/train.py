"""Training from a config to a run's folder: `train_and_evaluate`."""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
from ml_collections import ConfigDict

from mixer_dilated.config import changed, fit_patches, is_auto
from mixer_dilated.data.examples import Dataset
from mixer_dilated.data.input_pipeline import InputPipeline, class_counts, open_input
from mixer_dilated.errors import Preempted
from mixer_dilated.files import error_context, read_bytes
from mixer_dilated.parallel.mesh import check_batch, fit_devices
from mixer_dilated.parallel.multihost import (
    CONFIGS_DIFFER,
    WEIGHTS_DIFFER,
    any_host,
    assert_equal_across_hosts,
    broadcast,
    check_shared_disk,
    on_all_hosts,
    on_primary,
    process_count,
    to_numpy,
    translate_host_loss,
)
from mixer_dilated.paths import PathLike, as_path, exists, orbax_path
from mixer_dilated.training.checkpoint import Checkpoints
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.data_record import open_setup, record_data
from mixer_dilated.training.finite import check_finite, check_parameters
from mixer_dilated.training.metrics import METRICS, MetricsWriter, epoch_rows, epoch_speed
from mixer_dilated.training.results import run_summary, write_results
from mixer_dilated.training.run_folder import (
    RESULTS,
    check_none_skipped,
    check_workdir,
    claim,
    file_checksums,
    keep_gelu,
    lock_folder,
    read_config,
    read_finished,
    update_config,
    versions,
    write_summary,
)
from mixer_dilated.training.run_progress import Progress
from mixer_dilated.training.run_state import RunState, array_checksums
from mixer_dilated.training.setup import (
    Setup,
    check_keep_best,
    image_size_of_run,
    write_preprocessing,
)
from mixer_dilated.training.state import (
    InitialParams,
    load_initial_params,
    replace_params,
    write_initial,
)

CHUNK_SECONDS = 1.0  # of training, after which the run may save or stop
FIRST_CHUNK, CHUNK_GROWTH = 8, 4
TRACED_STEPS = 10


def train_and_evaluate(
    config: Mapping,
    workdir: PathLike,
    dataset: Dataset | None = None,
    *,
    name: str = '',
    started: float | None = None,
    progress: Progress | None = None,
    trace: PathLike | None = None,
) -> dict | None:
    """Trains a config in a folder, from its newest checkpoint if it has one.

    Args:
      config: nested; keys that are left out have their defaults.
      workdir: the run's folder; made if it does not exist.
      dataset: to take for that of `config.dataset.name`, like `dataset_of_arrays`.
      name: of the run; the folder's name if empty.
      started: `time.perf_counter()` when the process started, from which start-up counts.
      progress: observes the run, and may ask it to stop.
      trace: folder for a `jax.profiler` trace of `TRACED_STEPS` steps after the first chunk.

    Returns:
      The content of `summary.json`; None on other processes than the first.

    Raises:
      UserError: the config does not fit the data, the devices or the folder; another process
        works in the folder; something cannot be read or written.
      NonFiniteError: the loss or its gradient is not finite, and `config.on_nonfinite` is 'stop'.
      Preempted: the run was asked to stop, and its state is saved.
    """
    started = started or time.perf_counter()
    if trace:
        with error_context(trace, 'trace'):
            pathlib.Path(trace).mkdir(parents=True, exist_ok=True)
    progress, workdir = progress or Progress(), as_path(workdir)
    config = keep_gelu(workdir, changed(config, {'dataset.name': dataset.name} if dataset else {}))
    assert_equal_across_hosts([config.to_dict(), versions()], CONFIGS_DIFFER)
    if is_auto(config.model):
        image_size = broadcast(on_primary(image_size_of_run, workdir, config, dataset))
        config = fit_patches(config, tuple(image_size))
    summary = on_primary(read_finished, workdir, config)
    if broadcast(bool(summary)):
        progress.on_already_finished(workdir)
        return summary
    on_primary(check_workdir, workdir, 'run', 'config.json')
    if process_count() > 1:
        on_primary(open_setup, workdir, config, dataset)  # prepares the data set once, where needed

    # Set up. What does not fit is refused before there is a folder.
    is_new = broadcast(not all(exists(workdir / name) for name in ('config.json', 'checkpoints')))
    setup, compiled, initial = on_all_hosts(_set_up, workdir, config, dataset, is_new=is_new)
    checkpointing = config.checkpoints
    with contextlib.ExitStack() as stack:
        on_primary(stack.enter_context, lock_folder(workdir))
        on_primary(claim, workdir, config)
        check_shared_disk(workdir)
        progress.on_start(setup)
        checkpoints = stack.enter_context(Checkpoints(workdir, config))
        stack.enter_context(translate_host_loss())  # `checkpoints` then does not wait
        has_checkpoint = checkpoints.has_any()
        inputs = on_all_hosts(_open_and_compile, setup, compiled, initialise=not has_checkpoint)
        for part in inputs.values():
            stack.callback(part.close)
        on_primary(write_preprocessing, workdir, setup)
        checksums = {part: inputs[part].checksums() for part in inputs}
        record_data(workdir, setup, checksums, saved=has_checkpoint)
        on_primary(update_config, workdir, config)

        # Restore.
        progress.on_restore()
        run = on_all_hosts(_restore, workdir, checkpoints, compiled)
        if run is None:
            run = _first_run_state(workdir, compiled, initial, inputs, progress)
        state, metrics = jax.block_until_ready((run.state, run.epoch_metrics))
        startup = time.perf_counter() - started
        counts = class_counts(inputs['train'].data_source, setup.dataset.num_classes)
        progress.on_ready(setup, run.step, counts)

        # Train. A chunk is about a second of steps, after which the run may save or stop.
        logs = stack.enter_context(contextlib.ExitStack())
        writer = on_primary(lambda: logs.enter_context(MetricsWriter(workdir, run)))
        step, chunk_steps, saved_at = run.step, FIRST_CHUNK, -math.inf
        trace_from = step + FIRST_CHUNK if trace else math.inf
        if trace:
            compiled.eval_function_of(setup.epoch_split)  # so that the trace shows no compiler
        # A late stream ends a chunk; several hosts do the same steps, late or not.
        stream_seconds = CHUNK_SECONDS if process_count() == 1 else None
        for epoch in range(run.epochs_done + 1, setup.num_epochs + 1):
            last_step, waited = setup.last_step(epoch), inputs['train'].waited
            while step < last_step:
                if any_host(progress.stop_requested()):
                    _save(checkpoints, run, wait=True)
                    raise Preempted(step)
                begin, start = step, time.perf_counter()
                num_steps = min(chunk_steps, last_step - step)
                if every := checkpointing.every_steps:
                    num_steps = min(num_steps, every - step % every)
                tracing = contextlib.nullcontext()
                if step >= trace_from:
                    num_steps, trace_from = min(num_steps, TRACED_STEPS), math.inf
                    options = jax.profiler.ProfileOptions()
                    options.python_tracer_level = 0  # Python's calls would hide the device's
                    tracing = jax.profiler.trace(
                        trace, create_perfetto_trace=True, profiler_options=options
                    )
                with tracing:
                    for chunk in inputs['train'].train_chunks(step, num_steps, stream_seconds):
                        previous = metrics
                        state, metrics = compiled.train_chunk(state, metrics, chunk)
                        jax.block_until_ready(previous)  # the host is at most one chunk ahead
                        step += chunk.num_steps
                    jax.block_until_ready(metrics)
                seconds = broadcast(time.perf_counter() - start)
                run = dataclasses.replace(
                    run, state=state, epoch_metrics=metrics, seconds=run.seconds + seconds
                )
                if step == begin:  # the data is late
                    continue
                fitting = int(CHUNK_SECONDS * (step - begin) / max(seconds, 1e-9))
                chunk_steps = max(1, min(fitting, CHUNK_GROWTH * max(step - begin, chunk_steps)))
                check_finite(run, epoch, checkpoints)
                # At the end of an epoch its metrics come first.
                if step < last_step and _save_due(checkpointing, step, saved_at):
                    saved_at = _save(checkpoints, run)

            # Evaluate and log. No stop here: a checkpoint of this step without its metrics would
            # stand in the way of the one with them.
            evaluates = epoch % config.eval_every == 0 or epoch == setup.num_epochs
            result = compiled.evaluate(state, inputs[setup.epoch_split]) if evaluates else None
            rows = epoch_rows(setup, run, epoch, result)
            speed = epoch_speed(setup, run, epoch, inputs['train'].waited - waited)
            metrics = compiled.empty_metrics()
            run = RunState(state, metrics, [*run.metrics, *rows], [*run.speed, speed])
            is_best = checkpointing.keep_best and run.best_step == step
            if is_best or _save_due(checkpointing, step, saved_at):
                saved_at = _save(checkpoints, run)
            if epoch == 1:
                checkpoints.wait()  # a run with metrics has a checkpoint
            on_primary(lambda rows=rows, speed=speed: writer.write(rows, speed))
            progress.on_epoch_end(rows, speed)
        _save(checkpoints, run, wait=True)
        logs.close()
        progress.on_train_end()

        # Results.
        results = write_results(workdir, compiled, state, inputs)
        seconds = {'startup': startup, 'compile': compiled.compile_seconds}
        summary = run_summary(setup, name or workdir.name, run, results, seconds)
        files = on_primary(file_checksums, workdir, RESULTS)
        return on_primary(write_summary, workdir, {**summary, 'files': files})


def _set_up(
    workdir: pathlib.Path, config: ConfigDict, dataset: Dataset | None, *, is_new: bool
) -> tuple[Setup, CompiledFunctions, InitialParams | None]:
    orbax_path(workdir)  # a bucket that orbax cannot reach
    setup = open_setup(workdir, config, dataset)
    # Runs of earlier versions went by their test accuracy, and go on so.
    if is_new or not read_config(workdir).checkpoints.keep_best:
        check_keep_best(setup)
    compiled = CompiledFunctions(setup, None if is_new else fit_devices(config))
    check_batch(config.batch, compiled.mesh, config.accum_steps)
    return setup, compiled, load_initial_params(setup) if is_new else None


def _open_and_compile(
    setup: Setup, compiled: CompiledFunctions, *, initialise: bool
) -> dict[str, InputPipeline]:
    """Opens the splits while the training functions are compiled.

    The evaluation is compiled while the run trains; what fails then fails again in an evaluation.
    """
    config, dataset = setup.config, setup.dataset
    threads = ThreadPoolExecutor(1)
    try:
        compiling = threads.submit(compiled.compile_training, initialise=initialise)
        splits = {part: config.dataset[f'{part}_split'] for part in setup.num_examples}
        inputs = {part: open_input(config, dataset, splits[part], compiled.mesh) for part in splits}
        inputs['train'].prepare()
        compiling.result()
        if compiled.platform != 'gpu':  # whose compiler tries kernels, in the memory of a step
            threads.submit(compiled.eval_function_of, setup.epoch_split)
    finally:
        threads.shutdown(wait=False)  # an error, or Ctrl-C, does not wait for the compiler
    return inputs


def _restore(
    workdir: pathlib.Path, checkpoints: Checkpoints, compiled: CompiledFunctions
) -> RunState | None:
    has_rows = exists(workdir / METRICS) and bool(read_bytes(workdir / METRICS))
    run = checkpoints.restore(compiled.abstract_run_state(), expected=has_rows)
    if run is not None:
        skipped = sum(row['skipped_steps'] for row in run.metrics)
        skipped += int(to_numpy(run.epoch_metrics.skipped).sum())
        check_none_skipped(workdir, checkpoints.config, skipped)
    return run


def _first_run_state(
    workdir: pathlib.Path,
    compiled: CompiledFunctions,
    initial: InitialParams | None,
    inputs: dict[str, InputPipeline],
    progress: Progress,
) -> RunState:
    setup = compiled.setup
    initial = initial or on_all_hosts(load_initial_params, setup)
    assert_equal_across_hosts(array_checksums(initial.params), WEIGHTS_DIFFER)
    state = replace_params(compiled.init_state(), initial)
    if setup.config.init_from:
        result = compiled.evaluate(state, inputs[setup.epoch_split])
        progress.on_initial_params(on_primary(write_initial, workdir, initial, setup, result))
    return RunState(state, compiled.empty_metrics())


def _save_due(checkpointing: ConfigDict, step: int, saved_at: float) -> bool:
    every, seconds = checkpointing.every_steps, broadcast(time.monotonic() - saved_at)
    return (every and step % every == 0) or seconds >= 60 * checkpointing.every_minutes


def _save(checkpoints: Checkpoints, run: RunState, *, wait: bool = False) -> float:
    check_parameters(run, checkpoints)  # with 'stop' accelerators apply steps that are not finite
    checkpoints.save(run)
    if wait:
        checkpoints.wait()
    return time.monotonic()
