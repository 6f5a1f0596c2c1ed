"""The trained network of a run, for use in code: `load_trained`."""

import dataclasses
import pathlib

import jax
import numpy as np

from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.inference.evaluation import restore_checkpoint
from mixer_dilated.inference.recorded_setup import read_trained_setup
from mixer_dilated.models.mixer import MlpMixer
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import create_model


@dataclasses.dataclass(frozen=True)
class Trained:
    """The network of a checkpoint.

    Attributes:
      setup: what was trained.
      model: the network.
      params: of all seeds, on the host; every leaf has a leading axis of seeds.
      step: of the checkpoint.
      preprocessing: how image files become its images.
    """

    setup: Setup
    model: MlpMixer
    params: dict
    step: int
    preprocessing: Preprocessing

    def variables(self, k: int = 0) -> dict:
        """What `model.apply` takes as its first argument, of the k-th seed."""
        return {'params': jax.tree.map(lambda leaf: leaf[k], self.params)}


def load_trained(workdir: pathlib.Path, *, best: bool = False) -> Trained:
    """Loads the newest undamaged checkpoint of a run, or its best; the data need not be there.

    Args:
      workdir: the run's folder.
      best: the checkpoint of the highest test accuracy instead.

    Raises:
      UserError: no run or no checkpoint there.
    """
    workdir = pathlib.Path(workdir)
    setup, preprocessing = read_trained_setup(workdir)
    run = restore_checkpoint(workdir, CompiledFunctions.for_devices(setup), best=best)
    model = create_model(setup.config, setup.dataset.num_classes)
    params = jax.tree.map(np.asarray, jax.device_get(run.state.params))
    return Trained(setup, model, params, run.step, preprocessing)
