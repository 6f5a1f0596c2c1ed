"""`calibration.json` in a run's folder: the temperatures of one checkpoint."""

import math
import pathlib

import numpy as np
from jaxtyping import Float

from mixer_dilated.errors import InputError
from mixer_dilated.training.workdir import read_config, read_json, write_json

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
      InputError: the file is damaged.
    """
    path = workdir / CALIBRATION
    if not path.is_file():
        return None
    found = read_json(path)
    temperatures = found.get('temperatures') if isinstance(found, dict) else None
    seeds = read_config(workdir).num_seeds
    if (
        not isinstance(temperatures, list)
        or len(temperatures) != seeds
        or not all(type(t) in (int, float) and t > 0 and math.isfinite(t) for t in temperatures)
        or not all(type(found.get(name)) is int for name in ('step', 'examples'))
        or not all(type(found.get(name)) is str for name in ('dataset', 'split'))
    ):
        raise InputError(
            f'{path}: not a calibration of the {seeds} seeds of this run; remove it, or make it '
            'again with evaluate --calibrate=SPLIT'
        )
    return found if found['step'] == step else None


def temperatures(workdir: pathlib.Path, step: int) -> Float[np.ndarray, ' seeds']:
    """The temperature of every seed's probabilities: softmax(log p / T); 1 where none is fitted.

    Args:
      workdir: the run's folder.
      step: of the checkpoint that the probabilities come from.

    Raises:
      InputError: no run there, or its `calibration.json` is damaged.
    """
    found = read_calibration(workdir, step)
    if found:
        return np.array(found['temperatures'])
    return np.ones(read_config(workdir).num_seeds)
