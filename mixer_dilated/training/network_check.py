"""Whether what a run is said to be trained on makes the network that its checkpoints hold."""

import pathlib
from collections.abc import Mapping

from flax.traverse_util import flatten_dict

from mixer_dilated.errors import InputError
from mixer_dilated.training import preprocessing_file
from mixer_dilated.training.snapshot import Snapshot
from mixer_dilated.training.task import Task

CLASSES = 'head/bias'  # its last axis


def check_network(
    workdir: pathlib.Path, task: Task, abstract: Snapshot, there: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises InputError where they differ: else every checkpoint would seem to be damaged.

    Args:
      workdir: the run's folder.
      task: what it is said to be trained on, by `preprocessing.json` or by a data set.
      abstract: shapes of the network's arrays by that.
      there: shapes of the parameters of a checkpoint of the same config; {} if not known.
    """
    params = flatten_dict(abstract.state.params, sep='/')
    here = {name: tuple(leaf.shape) for name, leaf in params.items()}
    differing = [name for name in there if name in here and here[name] != there[name]]
    if not differing:
        return
    of_file = isinstance(task.source, preprocessing_file.NotedSource)
    where = workdir / preprocessing_file.NAME if of_file else f'data set {task.source.name!r}'
    way_on = preprocessing_file.way_on() if of_file else 'name the data that it was trained on'
    if CLASSES in differing:
        raise InputError(
            f'{where}: class_names are {task.source.num_classes}, and the network of the '
            f'checkpoints has {there[CLASSES][-1]} classes; put back those that were there, or '
            f'{way_on}'
        )
    name = differing[0]
    raise InputError(
        f'{where}: image_shape = {list(task.source.image_shape)}: the checkpoints are of a network '
        f'for another, with {name} of {list(there[name])}, not {list(here[name])}; put back the '
        f'one that was there, or {way_on}'
    )
