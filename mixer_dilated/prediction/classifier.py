"""A trained run as a function from images to probabilities: `Classifier`."""

import pathlib

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from mixer_dilated.data.examples import Examples
from mixer_dilated.inference.calibration import apply_temperature, read_temperatures
from mixer_dilated.inference.evaluation import restore_checkpoint
from mixer_dilated.inference.recorded_setup import read_trained_setup
from mixer_dilated.training.compiled import CompiledFunctions


class Classifier:
    """The network of a run, of all its seeds, for batches of one size.

    Args:
      workdir: the run's folder.
      batch: images a call.
      best: the checkpoint of the highest test accuracy instead of the newest.

    Attributes:
      batch: images a call.
      class_names: of every class.
      preprocessing: how files become its images.

    Raises:
      UserError: no run or no checkpoint there.
    """

    def __init__(self, workdir: pathlib.Path, batch: int, *, best: bool = False):
        setup, self.preprocessing = read_trained_setup(workdir)
        self.batch = batch
        self.class_names = setup.dataset.class_names
        self._programs = CompiledFunctions.for_devices(setup.changed({'batch_eval': batch}))
        snapshot = restore_checkpoint(workdir, self._programs, best=best)
        self._state = snapshot.state
        self._sums = self._programs.empty_sums()
        self._temperatures = read_temperatures(workdir, snapshot.step)
        self._labels = np.zeros(batch, np.int32)  # which nothing looks at

    def __call__(
        self, images: UInt8[np.ndarray, 'batch height width channels']
    ) -> Float[Array, 'seeds batch classes']:
        """Natural logarithms of the probabilities, begun to be computed on the devices.

        It is compiled at the first call.

        Args:
          images: uint8 (B, H, W, C), with B = `batch`.
        """
        inputs = self._programs.in_memory(Examples(images, self._labels))
        (chunk,) = inputs.eval_chunks()
        _, log_probs = self._programs.eval_chunk(self._state, self._sums, chunk)
        return log_probs[:, 0, : self.batch]

    def probabilities(
        self, log_probabilities: Float[Array, 'seeds batch classes']
    ) -> Float[np.ndarray, 'batch classes']:
        """The mean over the seeds, each at the temperature fitted for it, on the host."""
        of_seeds = zip(jax.device_get(log_probabilities), self._temperatures, strict=True)
        return np.mean([np.exp(apply_temperature(*of_seed)) for of_seed in of_seeds], axis=0)
