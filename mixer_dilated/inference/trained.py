"""The trained network of a run, read from its folder: `load_trained`."""

import dataclasses
import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.errors import AllHostsError, UserError
from mixer_dilated.files import as_path
from mixer_dilated.models.mixer import MlpMixer
from mixer_dilated.parallel.multihost import broadcast, on_all_hosts
from mixer_dilated.training.checkpoint import Checkpoints
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.run_folder import read_config
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.setup import (
    PREPROCESSING,
    REMOVE_HINT,
    Setup,
    grid_tokens,
    read_preprocessing,
)
from mixer_dilated.training.state import create_model


@dataclasses.dataclass(frozen=True)
class RecordedDatasetInfo:
    """The properties of the data set that a run was trained on, as a `Dataset` without examples."""

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    split_sizes: dict[str, int]

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        return self.image_shape

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclasses.dataclass(frozen=True)
class Trained:
    """The network of a checkpoint.

    Attributes:
      setup: the config and the properties of the data set.
      model: the network.
      params: of all seeds, on the host; every leaf has a leading axis of seeds.
      step: of the checkpoint.
      preprocessing: how image files become the network's images.
    """

    setup: Setup
    model: MlpMixer
    params: dict
    step: int
    preprocessing: Preprocessing

    def variables(self, k: int = 0) -> dict:
        """The first argument of `model.apply`, of the k-th seed."""
        return {'params': jax.tree.map(lambda leaf: leaf[k], self.params)}


def load_trained(workdir: pathlib.Path, *, best: bool = False) -> Trained:
    """Loads the newest undamaged checkpoint of a run, or its best, without its data set.

    Args:
      workdir: the run's folder.
      best: the checkpoint of the highest validation accuracy instead.

    Raises:
      UserError: no run or no checkpoint there.
    """
    workdir = as_path(workdir)
    setup, preprocessing = read_trained_setup(workdir)
    run = restore_checkpoint(workdir, CompiledFunctions.for_devices(setup), best=best)
    model = create_model(setup.config, setup.dataset.num_classes)
    params = jax.tree.map(np.asarray, jax.device_get(run.state.params))
    return Trained(setup, model, params, run.step, preprocessing)


def read_trained_setup(workdir: pathlib.Path) -> tuple[Setup, Preprocessing]:
    """Reads a run's setup, and how image files become its images, from its folder alone.

    A run without `preprocessing.json`, of an earlier version, reads its data set instead.

    Raises:
      UserError: no run there, a damaged file, or a run without it whose data set is not there.
    """
    config = read_config(workdir)
    content = read_preprocessing(workdir, config)
    shape = tuple(content['image_shape'])
    try:
        preprocessing = Preprocessing(
            shape,
            content['preprocess'],
            content['resize'],
            config.dataset.max_pixels,
            content.get('white', 0),
        )
    except UserError as error:
        raise UserError(f'{workdir / PREPROCESSING}: {error}; {REMOVE_HINT}') from None
    keys = {part: f'{part}_examples' for part in ('train', 'val', 'test')}
    counts = {part: content[key] for part, key in keys.items() if key in content}
    dataset = RecordedDatasetInfo(config.dataset.name, shape, tuple(content['class_names']), counts)
    tokens = grid_tokens(config, shape)
    setup = Setup(config, dataset, counts['train'], counts['test'], tokens, counts.get('val', 0))
    return setup, preprocessing


def restore_checkpoint(
    workdir: pathlib.Path, compiled: CompiledFunctions, *, best: bool = False
) -> RunState:
    """Restores the newest undamaged checkpoint of a run, or its best.

    Args:
      workdir: the run's folder.
      compiled: of the run's setup, which determines how the state is sharded.
      best: the checkpoint of the highest validation accuracy instead.

    Raises:
      UserError: no checkpoint there, none that can be read, or of a network for other data.
    """
    if broadcast((workdir / 'checkpoints').is_dir()):
        with Checkpoints(workdir, read_config(workdir), read_only=True) as checkpoints:
            restore = checkpoints.restore_best if best else checkpoints.restore
            abstract = compiled.abstract_run_state()
            shapes = checkpoints.parameter_shapes()
            on_all_hosts(_check_network, workdir, compiled.setup, abstract, shapes)
            run = restore(abstract)
        if run:
            return run
    raise AllHostsError(
        f'{workdir}: no checkpoint there; remove this folder, and the command that trained it '
        'makes one'
    )


def _check_network(
    workdir: pathlib.Path, setup: Setup, abstract: RunState, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises UserError where shapes differ: else every checkpoint would seem to be damaged.

    Args:
      workdir: the run's folder.
      setup: by `preprocessing.json` or by a data set.
      abstract: shapes of the arrays of its network.
      shapes: of the parameters of a checkpoint of the same config; {} if not known.
    """
    params = flatten_dict(abstract.state.params, sep='/')
    expected = {name: tuple(leaf.shape) for name, leaf in params.items()}
    differing = [name for name in shapes if expected.get(name, shapes[name]) != shapes[name]]
    if not differing:
        return
    if isinstance(setup.dataset, RecordedDatasetInfo):
        source, hint = workdir / PREPROCESSING, REMOVE_HINT
    else:
        source, hint = f'data set {setup.dataset.name!r}', 'name the data that it was trained on'
    if 'head/bias' in differing:
        raise UserError(
            f'{source}: class_names are {setup.dataset.num_classes}, and the network of the '
            f'checkpoints has {shapes["head/bias"][-1]} classes; put back those that were there, '
            f'or {hint}'
        )
    name = differing[0]
    raise UserError(
        f'{source}: image_shape = {list(setup.dataset.image_shape)}: the checkpoints are of a '
        f'network for another, with {name} of {list(shapes[name])}, not {list(expected[name])}; '
        f'put back the one that was there, or {hint}'
    )
