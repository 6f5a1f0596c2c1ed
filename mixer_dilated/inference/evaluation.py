"""Evaluates a checkpoint of a run: `evaluate_checkpoint`."""

import contextlib
import pathlib
import warnings
import zlib

import numpy as np
from jaxtyping import Float, Int32

from mixer_dilated.config import changed
from mixer_dilated.data.examples import Dataset, check_disjoint, count_examples
from mixer_dilated.data.input_pipeline import open_input
from mixer_dilated.dataset_names import split_path
from mixer_dilated.errors import UserError
from mixer_dilated.files import write_json
from mixer_dilated.inference.calibration import (
    CALIBRATION,
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    read_calibration,
)
from mixer_dilated.inference.trained import restore_checkpoint
from mixer_dilated.parallel.multihost import (
    DATA_DIFFERS,
    assert_equal_across_hosts,
    on_all_hosts,
    on_primary,
)
from mixer_dilated.paths import PathLike, as_path, exists, expand_user, is_bucket
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.data_record import open_setup
from mixer_dilated.training.run_folder import read_config, versions, with_checksum
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.step import is_in_top5


def evaluate_checkpoint(
    workdir: PathLike,
    split: str | None = None,
    data_dir: str | None = None,
    *,
    dataset: Dataset | None = None,
    best: bool = False,
    calibrate: str | None = None,
) -> dict:
    """Evaluates the newest undamaged checkpoint of a run, or its best.

    Args:
      workdir: the run's folder.
      split: examples to evaluate, in TFDS split syntax; the run's test split if None.
      data_dir: where prepared data lies, or what a relative path in `dataset.name` is below; the
        folder or file itself if that path is absolute, or not there. Where the run's config says if
        None.
      dataset: to take for that of the run.
      best: the checkpoint of the highest validation accuracy instead.
      calibrate: examples to fit a temperature for each seed on, for the run's `calibration.json`.

    Returns:
      'dataset', 'split', 'examples', 'epoch', 'step', 'calibration' (the content of that file if
      it is of this checkpoint and was fitted on other examples, else None), 'classes' (where their
      numbers of examples differ, of each its 'name', 'examples' and 'accuracy', the mean over the
      seeds, None without examples; else empty) and 'results': of each seed its 'seed', 'loss' (the
      negative log-likelihood), 'accuracy', with more than ten classes 'top5_accuracy', 'correct'
      and 'ece' (expected calibration error); with a calibration also its 'temperature', and
      'calibrated_loss' and 'calibrated_ece' at that.

    Raises:
      UserError: no run or no checkpoint there, no such data, or a split to calibrate on that
        shares examples with the one that is evaluated or the one trained on.
    """
    workdir = as_path(workdir)
    setup = on_all_hosts(_open_setup, workdir, data_dir, dataset)
    dataset, sizes = setup.config.dataset, setup.dataset.split_sizes
    split = dataset.test_split if split is None else split
    assert_equal_across_hosts(
        [split, best, calibrate, setup.config.to_dict(), versions()],
        'the processes evaluate different things, or see different runs; start all with the same '
        'command, on a disk that all share',
    )
    assert_equal_across_hosts(setup.dataset.identity, DATA_DIFFERS)
    examples = on_all_hosts(count_examples, '--split', split, sizes)
    if calibrate is not None:
        others = {'config.dataset.train_split': dataset.train_split, '--split': split}
        on_all_hosts(check_disjoint, '--calibrate', calibrate, others, sizes)
    compiled = on_all_hosts(CompiledFunctions.for_devices, setup)
    run = restore_checkpoint(workdir, compiled, best=best)
    if calibrate is not None:
        temperatures = _fit_calibration(compiled, run, calibrate)
        on_primary(write_json, workdir / CALIBRATION, temperatures)
    calibration = on_primary(read_calibration, workdir, run.step)
    try:
        if calibration:
            check_disjoint('', split, {'': calibration['split']}, sizes)
    except UserError:
        warnings.warn(
            f'the temperature is left out: it was fitted on {calibration["split"]!r}, and examples '
            f'of that are in {split!r}',
            stacklevel=2,
        )
        calibration = None
    log_probs, labels = _predict(compiled, run, split)
    temperatures = calibration['temperatures'] if calibration else [None] * len(log_probs)
    return {
        'dataset': dataset.name,
        'split': split,
        'examples': examples,
        'step': run.step,
        'epoch': run.step / setup.steps_per_epoch,
        'calibration': calibration,
        'classes': _evaluate_classes(setup.dataset.class_names, log_probs, labels),
        'results': [
            {'seed': setup.config.seed + k, **_evaluate_seed(log_probs[k], labels, temperature)}
            for k, temperature in enumerate(temperatures)
        ],
    }


def _open_setup(workdir: pathlib.Path, data_dir: str | None, dataset: Dataset | None) -> Setup:
    config, changes = read_config(workdir), {}
    if data_dir is not None:
        kind, path = split_path(config.dataset.name)
        path = expand_user(path)
        is_named = kind and path.is_absolute()
        if kind and not is_bucket(data_dir):  # a folder may have another name now
            is_named = is_named or not exists(expand_user(data_dir) / path)
        key = 'dataset.name' if is_named else 'dataset.data_dir'
        changes[key] = f'{kind}:{data_dir}' if is_named else data_dir
    return open_setup(workdir, changed(config, changes), dataset)


def _predict(
    compiled: CompiledFunctions, run: RunState, split: str
) -> tuple[Float[np.ndarray, 'seeds examples classes'], Int32[np.ndarray, ' examples']]:
    """Log-probabilities of the examples of a split, and their labels."""
    setup = compiled.setup
    inputs = on_all_hosts(open_input, setup.config, setup.dataset, split, compiled.mesh)
    with contextlib.closing(inputs):
        _, log_probs = compiled.evaluate_and_predict(run.state, inputs)
        labels = np.asarray(inputs.labels)
    assert_equal_across_hosts(zlib.crc32(labels), DATA_DIFFERS)
    return log_probs, labels


def _fit_calibration(compiled: CompiledFunctions, run: RunState, split: str) -> dict:
    """Fits a temperature for each seed; returns the content of `calibration.json`."""
    log_probs, labels = _predict(compiled, run, split)
    key, of = f'--calibrate = {split!r}', {'dataset': compiled.setup.config.dataset.name}
    temperatures = [fit_temperature(key, of_seed, labels) for of_seed in log_probs]
    of |= {'split': split, 'step': run.step, 'examples': len(labels)}
    return with_checksum(of | {'temperatures': temperatures})


def _evaluate_classes(
    names: tuple[str, ...],
    log_probs: Float[np.ndarray, 'seeds examples classes'],
    labels: Int32[np.ndarray, ' examples'],
) -> list[dict]:
    counts = np.bincount(labels, minlength=len(names))
    if counts.min() == counts.max():
        return []
    correct = (log_probs.argmax(-1) == labels).mean(0)
    sums = np.bincount(labels, correct, minlength=len(names))
    return [
        {'name': name, 'examples': count, 'accuracy': right / count if count else None}
        for name, count, right in zip(names, counts.tolist(), sums.tolist(), strict=True)
    ]


def _evaluate_seed(
    log_probs: Float[np.ndarray, 'examples classes'],
    labels: Int32[np.ndarray, ' examples'],
    temperature: float | None,
) -> dict:
    correct = int((log_probs.argmax(-1) == labels).sum())
    results = {
        'loss': negative_log_likelihood(log_probs, labels),
        'accuracy': correct / len(labels),
        'correct': correct,
        'ece': expected_calibration_error(log_probs, labels),
    }
    if log_probs.shape[-1] > 10:
        results['top5_accuracy'] = float(np.mean(is_in_top5(log_probs, labels)))
    if temperature is not None:
        calibrated = apply_temperature(log_probs, temperature)
        results['temperature'] = temperature
        results['calibrated_loss'] = negative_log_likelihood(calibrated, labels)
        results['calibrated_ece'] = expected_calibration_error(calibrated, labels)
    return results
