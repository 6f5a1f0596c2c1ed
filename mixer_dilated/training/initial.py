"""`config.init_from`: the parameters that a run starts with, from a file or another run."""

import pathlib

import jax
import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mixer_dilated.models.mixer import mixer_from_config
from mixer_dilated.patches.geometry import Pair
from mixer_dilated.pretrained.archives import read_weights
from mixer_dilated.pretrained.fit import fitted
from mixer_dilated.pretrained.weights import Weights
from mixer_dilated.training.checkpoints import Checkpoints
from mixer_dilated.training.task import Task
from mixer_dilated.training.workdir import read_config, read_summary


def read_any(path: pathlib.Path) -> list[Weights]:
    """The weights of a file, of a folder that convert wrote, or of each seed of a run.

    Raises:
      InputError: nothing of the kind there, or it is damaged.
    """
    if not (path / 'checkpoints').is_dir():
        return [read_weights(path)]
    config = read_config(path)
    with Checkpoints(path, config, read_only=True) as checkpoints:
        arrays = flatten_dict(checkpoints.params(), sep='/')
    image_size = _image_size(path)
    return [
        Weights(
            {name: array[k] for name, array in arrays.items()}, config.model.to_dict(), image_size
        )
        for k in range(config.num_seeds)
    ]


def starting_params(task: Task) -> tuple[dict, list[str]]:
    """The parameters that `config.init_from` gives a task's network, with an axis of seeds.

    A run of as many seeds gives each its own; of anything else every seed has the same (of a run
    the first), and differs in what is random.

    Returns:
      Nested as in the network, without a head that is new; and in words what was adapted.

    Raises:
      InputError, MisfitError: they cannot be read, or do not fit.
    """
    config: ml_collections.ConfigDict = task.config
    path = pathlib.Path(config.init_from).expanduser()
    found = read_any(path)
    found = found if len(found) == config.num_seeds else found[:1] * config.num_seeds
    network = mixer_from_config(config.model, task.source.num_classes)
    shape = task.source.image_shape
    of_seeds = [fitted(each, network, shape, config.transfer, str(path)) for each in found]
    arrays = {name: np.stack([each[name] for each, _ in of_seeds]) for name in of_seeds[0][0]}
    return unflatten_dict(arrays, sep='/'), of_seeds[0][1]


def with_params(state, params: dict):
    """A state with some of its parameters replaced, laid out as they were.

    Args:
      state: a `TrainState` of every seed.
      params: nested, some of those that it has.
    """
    there, new = (flatten_dict(each, sep='/') for each in (state.params, params))
    placed = {name: jax.device_put(array, there[name].sharding) for name, array in new.items()}
    return state.replace(params=unflatten_dict({**there, **placed}, sep='/'))


def _image_size(path: pathlib.Path) -> Pair | None:
    """(height, width) of a run's images, from its summary; None if it is not finished."""
    summary = read_summary(path)
    return tuple(summary['image_shape'][:2]) if summary else None
