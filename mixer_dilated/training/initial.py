"""`config.init_from`: the parameters that a run starts with, from a file or another run."""

import dataclasses
import pathlib
import warnings

import numpy as np
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict, unflatten_dict

from mixer_dilated.models.mixer import mixer_from_config
from mixer_dilated.pretrained.archives import read_weights
from mixer_dilated.pretrained.fit import fitted
from mixer_dilated.pretrained.weights import Weights
from mixer_dilated.training.checkpoints import Checkpoints
from mixer_dilated.training.preprocessing_file import read_trained_task
from mixer_dilated.training.sharding import placed
from mixer_dilated.training.task import Task
from mixer_dilated.training.workdir import read_config, write_json


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
    image_size = read_trained_task(path)[0].source.image_shape[:2]
    return [
        Weights(
            {name: array[k] for name, array in arrays.items()}, config.model.to_dict(), image_size
        )
        for k in range(config.num_seeds)
    ]


@dataclasses.dataclass(frozen=True)
class Initial:
    """Parameters to start with.

    Attributes:
      params: nested as in the network, each with an axis of seeds; without those that start as
        they would without `config.init_from`.
      adapted: in words what was done to them, and how the network is unlike that of the weights.
    """

    params: dict
    adapted: list[str]


def starting_params(task: Task) -> Initial:
    """The parameters that `config.init_from` gives a task's network; none if it is ''.

    A run of as many seeds gives each its own; of anything else every seed has the same (of a run
    the first), and differs in what is random.

    Raises:
      InputError, MisfitError: they cannot be read, or do not fit.
    """
    config = task.config
    if not config.init_from:
        return Initial({}, [])
    path = pathlib.Path(config.init_from).expanduser()
    found = read_any(path)
    _warn_of_gelu(found[0], config.model.gelu, path)
    found = found if len(found) == config.num_seeds else found[:1] * config.num_seeds
    network = mixer_from_config(config.model, task.source.num_classes)
    shape = task.source.image_shape
    of_seeds = [fitted(each, network, shape, config.transfer, str(path)) for each in found]
    arrays = {name: np.stack([each[name] for each, _ in of_seeds]) for name in of_seeds[0][0]}
    return Initial(unflatten_dict(arrays, sep='/'), of_seeds[0][1])


def _warn_of_gelu(weights: Weights, gelu: str, path: pathlib.Path) -> None:
    """Warns where weights that do not say their GELU get another than the original's."""
    if weights.model is None and gelu != 'tanh':
        warnings.warn(
            f'config.model.gelu = {gelu!r}: weights of the original, if these are some, were '
            f"trained with 'tanh' ({path}); for that set --config.model.gelu=tanh",
            stacklevel=3,
        )


def with_params(state: TrainState, initial: Initial) -> TrainState:
    """The state of every seed with the parameters of `initial`, laid out as those it had."""
    there, new = (flatten_dict(each, sep='/') for each in (state.params, initial.params))
    laid_out = {name: placed(array, there[name].sharding) for name, array in new.items()}
    return state.replace(params=unflatten_dict({**there, **laid_out}, sep='/'))


def write_initial(workdir: pathlib.Path, initial: Initial, task: Task, result: dict) -> dict:
    """Writes `initial.json`: what a run began with, and how good that was; returns its content.

    Args:
      workdir: the run's folder.
      initial: its first parameters.
      task: what is trained.
      result: of `epoch.evaluate` on the test examples, before the first step.
    """
    content = {
        'init_from': task.config.init_from,
        'adapted': initial.adapted,
        'test_accuracy': [int(correct) / task.test_examples for correct in result['correct']],
    }
    write_json(workdir / 'initial.json', content)
    return content
