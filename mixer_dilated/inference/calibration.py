"""Calibration: whether probabilities are the shares of right answers, and a temperature for it."""

import math
import pathlib

import numpy as np
from jaxtyping import Float, Int

from mixer_dilated.errors import UserError
from mixer_dilated.files import exists, read_json, write_json
from mixer_dilated.training.run_folder import read_config

BINS = 15
LOWEST, HIGHEST = 0.01, 100.0


def expected_calibration_error(
    log_probabilities: Float[np.ndarray, 'examples classes'],
    labels: Int[np.ndarray, ' examples'],
    bins: int = BINS,
) -> float:
    """ECE = Σ_m |B_m| / n · |accuracy(B_m) - confidence(B_m)|  (Guo et al. 2017, eq. 3).

    B_m are the examples whose highest probability, the confidence, is in ((m - 1) / M, m / M].

    Args:
      log_probabilities: natural logarithms (n, classes).
      labels: (n,).
      bins: M.
    """
    confidence = np.exp(np.max(log_probabilities, axis=-1).astype(np.float64))
    if not np.isfinite(confidence).all():
        return float('nan')
    right = np.argmax(log_probabilities, axis=-1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    # |B_m| cancels: what is left of a bin is the sum of right - confidence.
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def negative_log_likelihood(
    log_probabilities: Float[np.ndarray, 'examples classes'], labels: Int[np.ndarray, ' examples']
) -> float:
    """Mean of -log p(label), in nats: the cross-entropy."""
    result = np.take_along_axis(log_probabilities, np.asarray(labels)[:, None], axis=-1)
    return float(-np.mean(result, dtype=np.float64))


def apply_temperature(
    log_probabilities: Float[np.ndarray, 'examples classes'], temperature: float
) -> Float[np.ndarray, 'examples classes']:
    """log softmax(log p / T), which is log softmax(logits / T); the order of classes stays.

    Args:
      log_probabilities: log p, natural logarithms (n, classes).
      temperature: T; above 1 makes a network less sure.
    """
    log_probabilities = np.asarray(log_probabilities, np.float64)
    if temperature == 1:
        return log_probabilities
    from scipy.special import log_softmax

    return log_softmax(log_probabilities / temperature, axis=-1)


def fit_temperature(
    key: str,
    log_probabilities: Float[np.ndarray, 'examples classes'],
    labels: Int[np.ndarray, ' examples'],
) -> float:
    """The temperature of the least negative log-likelihood (Guo et al. 2017, section 4.2).

    The likelihood has one optimum in 1 / T, and so in log T, which is searched.

    Args:
      key: where the examples come from, for the message.
      log_probabilities: natural logarithms (n, classes).
      labels: (n,).

    Raises:
      UserError: none from 0.01 to 100 is best: all answers are right, or no better than chance.
    """
    from scipy.optimize import minimize_scalar

    bounds = np.log([LOWEST, HIGHEST])
    result = minimize_scalar(
        lambda log_t: negative_log_likelihood(
            apply_temperature(log_probabilities, np.exp(log_t)), labels
        ),
        bounds=bounds,
        method='bounded',
        options={'xatol': 1e-5},
    )
    all_right = (
        log_probabilities.argmax(-1) == labels
    ).all()  # the least is then at no temperature
    if all_right or not np.isfinite(result.fun) or np.min(np.abs(result.x - bounds)) < 1e-3:
        raise UserError(
            f'{key}: no temperature from {LOWEST} to {HIGHEST} is best for its {len(labels)} '
            'examples (all answers are right, or no better than chance); take more of them'
        )
    return float(np.exp(result.x))


CALIBRATION = 'calibration.json'


def write_calibration(workdir: pathlib.Path, calibration: dict) -> None:
    """Writes the file.

    Args:
      workdir: the run's folder.
      calibration: 'step' of the checkpoint, 'temperatures' (one a seed), and the 'dataset', 'split'
        and 'examples' that they were fitted on.
    """
    write_json(workdir / CALIBRATION, calibration)


def read_calibration(workdir: pathlib.Path, step: int) -> dict | None:
    """Content of the file; None where it is not there, or belongs to another checkpoint.

    Args:
      workdir: the run's folder.
      step: of the checkpoint.

    Raises:
      UserError: the file is damaged.
    """
    path = workdir / CALIBRATION
    if not exists(path):
        return None
    result = read_json(path)
    temperatures = result.get('temperatures')
    seeds = read_config(workdir).num_seeds
    if (
        not isinstance(temperatures, list)
        or len(temperatures) != seeds
        or not all(type(t) in (int, float) and t > 0 and math.isfinite(t) for t in temperatures)
        or not all(type(result.get(name)) is int for name in ('step', 'examples'))
        or not all(type(result.get(name)) is str for name in ('dataset', 'split'))
    ):
        raise UserError(
            f'{path}: not a calibration of the {seeds} seeds of this run; remove it, or make it '
            'again with evaluate --calibrate=SPLIT'
        )
    return result if result['step'] == step else None


def read_temperatures(workdir: pathlib.Path, step: int) -> Float[np.ndarray, ' seeds']:
    """The temperature of every seed's probabilities: softmax(log p / T); 1 where none is fitted.

    Args:
      workdir: the run's folder.
      step: of the checkpoint that the probabilities come from.

    Raises:
      UserError: no run there, or its `calibration.json` is damaged.
    """
    result = read_calibration(workdir, step)
    if result:
        return np.array(result['temperatures'])
    return np.ones(read_config(workdir).num_seeds)
