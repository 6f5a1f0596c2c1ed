"""Calibration: whether confidence is the probability of being right, and temperature scaling."""

import math
import pathlib

import numpy as np
from jaxtyping import Float, Int

from mixer_dilated.errors import UserError
from mixer_dilated.files import read_json
from mixer_dilated.paths import exists
from mixer_dilated.training.run_folder import read_config, with_checksum

BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
CALIBRATION = 'calibration.json'


def expected_calibration_error(
    log_probs: Float[np.ndarray, 'examples classes'], labels: Int[np.ndarray, ' examples']
) -> float:
    """ECE = Σ_m |B_m| / n · |accuracy(B_m) - confidence(B_m)|  (Guo et al. 2017, eq. 3).

    B_m are the examples whose highest probability, the confidence, is in ((m - 1) / 15, m / 15].
    """
    confidence = np.exp(np.max(log_probs, axis=-1).astype(np.float64))
    if not np.isfinite(confidence).all():
        return float('nan')
    correct = np.argmax(log_probs, axis=-1) == labels
    bin_index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    # |B_m| cancels: what is left of a bin is the sum of correct - confidence.
    gaps = np.bincount(bin_index, weights=correct - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def negative_log_likelihood(
    log_probs: Float[np.ndarray, 'examples classes'], labels: Int[np.ndarray, ' examples']
) -> float:
    """Mean of -log p(label), in nats: the cross-entropy."""
    log_likelihoods = np.take_along_axis(log_probs, np.asarray(labels)[:, None], axis=-1)
    return float(-np.mean(log_likelihoods, dtype=np.float64))


def apply_temperature(
    log_probs: Float[np.ndarray, 'examples classes'], temperature: float
) -> Float[np.ndarray, 'examples classes']:
    """log softmax(log p / T) = log softmax(logits / T), in float64; the order of classes stays.

    `temperature` is T; above 1 it lowers the confidence.
    """
    log_probs = np.asarray(log_probs, np.float64)
    if temperature == 1:
        return log_probs
    from scipy.special import log_softmax

    return log_softmax(log_probs / temperature, axis=-1)


def fit_temperature(
    key: str, log_probs: Float[np.ndarray, 'examples classes'], labels: Int[np.ndarray, ' examples']
) -> float:
    """Fits the temperature of the least negative log-likelihood (Guo et al. 2017, section 4.2).

    The likelihood has a single optimum in 1 / T, and so in log T, which is searched. Raises
    UserError, with `key`: the best is not between 0.01 and 100, as when all predictions are right,
    or no better than chance.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_t: float) -> float:
        return negative_log_likelihood(apply_temperature(log_probs, np.exp(log_t)), labels)

    bounds = np.log([MIN_TEMPERATURE, MAX_TEMPERATURE])
    fit = minimize_scalar(loss, bounds=bounds, method='bounded', options={'xatol': 1e-5})
    all_correct = (log_probs.argmax(-1) == labels).all()  # T → 0 is best then
    if all_correct or not np.isfinite(fit.fun) or np.min(np.abs(fit.x - bounds)) < 1e-3:
        raise UserError(
            f'{key}: no temperature from {MIN_TEMPERATURE} to {MAX_TEMPERATURE} is best for its '
            f'{len(labels)} examples (all answers are right, or no better than chance); take more '
            'of them'
        )
    return float(np.exp(fit.x))


def read_calibration(workdir: pathlib.Path, step: int) -> dict | None:
    """Reads `calibration.json`; None if there is none, or it is of another checkpoint.

    It has 'step' of the checkpoint, 'temperatures' (one per seed), 'dataset', 'split' and number
    of 'examples' that they were fitted on, and, but for earlier versions, a 'checksum'. Raises
    UserError if the file is damaged.
    """
    path = workdir / CALIBRATION
    if not exists(path):
        return None
    calibration, num_seeds = read_json(path), read_config(workdir).num_seeds
    temperatures = calibration.get('temperatures')
    types = {'step': int, 'examples': int, 'dataset': str, 'split': str}
    if (
        any(type(calibration.get(name)) is not kind for name, kind in types.items())
        or not isinstance(temperatures, list)
        or len(temperatures) != num_seeds
        or not all(type(t) in (int, float) and t > 0 and math.isfinite(t) for t in temperatures)
        or ('checksum' in calibration and calibration != with_checksum(calibration))
    ):
        raise UserError(
            f'{path}: not a calibration of the {num_seeds} seeds of this run; remove it, or make '
            'it again with evaluate --calibrate=SPLIT'
        )
    return calibration if calibration['step'] == step else None


def read_temperatures(workdir: pathlib.Path, step: int) -> Float[np.ndarray, ' seeds']:
    """Reads the temperature of every seed for `apply_temperature`; 1 where none was fitted."""
    calibration = read_calibration(workdir, step)
    return np.array(
        calibration['temperatures'] if calibration else [1.0] * read_config(workdir).num_seeds
    )
