"""The trained network of a run, read from its folder: `load_trained`."""

import dataclasses
import pathlib
from collections.abc import Mapping

import jax
from flax.traverse_util import flatten_dict

from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.errors import AllHostsError, UserError
from mixer_dilated.models.mixer import MlpMixer
from mixer_dilated.parallel.multihost import broadcast, on_all_hosts
from mixer_dilated.paths import PathLike, as_path
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
    """The properties of the data set that a run was trained on, those that its network needs."""

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclasses.dataclass(frozen=True)
class Trained:
    """The network of a checkpoint."""

    setup: Setup
    model: MlpMixer
    params: dict  # on the host; every leaf has a leading axis of seeds
    step: int
    preprocessing: Preprocessing

    def variables(self, k: int = 0) -> dict:
        """The first argument of `model.apply`, of the k-th seed."""
        return {'params': jax.tree.map(lambda leaf: leaf[k], self.params)}


def load_trained(workdir: PathLike, *, best: bool = False) -> Trained:
    """Loads the newest undamaged checkpoint of a run, or that of the best validation accuracy.

    Raises UserError: no run or no checkpoint there.
    """
    workdir = as_path(workdir)
    setup, preprocessing = read_trained_setup(workdir)
    run = restore_checkpoint(workdir, CompiledFunctions.for_devices(setup), best=best)
    model = create_model(setup.config, setup.dataset.num_classes)
    return Trained(setup, model, jax.device_get(run.state.params), run.step, preprocessing)


def read_trained_setup(workdir: pathlib.Path) -> tuple[Setup, Preprocessing]:
    """Reads a run's setup, and how image files become its images, from its folder alone.

    A run without `preprocessing.json`, of an earlier version, reads its data set instead.

    Raises:
      UserError: no run there, a damaged file, or a run without it whose data set is not there.
    """
    config = read_config(workdir)
    content = read_preprocessing(workdir, config)
    shape = tuple(content['image_shape'])
    how = content['preprocess'], content['resize']
    try:
        settings = config.dataset.max_pixels, content.get('white', 0), config.dataset.decode_size
        preprocessing = Preprocessing(shape, *how, *settings)
    except UserError as error:
        raise UserError(f'{workdir / PREPROCESSING}: {error}; {REMOVE_HINT}') from None
    parts = [part for part in ('train', 'val', 'test') if f'{part}_examples' in content]
    counts = {part: content[f'{part}_examples'] for part in parts}
    dataset = RecordedDatasetInfo(config.dataset.name, shape, tuple(content['class_names']))
    return Setup(config, dataset, counts, grid_tokens(config, shape)), preprocessing


def restore_checkpoint(
    workdir: pathlib.Path, compiled: CompiledFunctions, *, best: bool = False
) -> RunState:
    """Restores the newest undamaged checkpoint of a run, or its best, sharded as `compiled` has it.

    Raises:
      UserError: no checkpoint there, none that can be read, or of a network for other data.
    """
    if broadcast((workdir / 'checkpoints').is_dir()):
        with Checkpoints(workdir, read_config(workdir), read_only=True) as checkpoints:
            restore = checkpoints.restore_best if best else checkpoints.restore
            abstract = compiled.abstract_run_state()
            shapes = on_all_hosts(checkpoints.parameter_shapes)
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
    """Raises UserError where shapes of parameters differ from those in a checkpoint.

    Else every checkpoint would seem to be damaged. The setup is by `preprocessing.json` or by a
    data set.
    """
    params = flatten_dict(abstract.state.params, sep='/')
    expected = {name: tuple(leaf.shape) for name, leaf in params.items()}
    differing = [name for name in shapes if expected.get(name, shapes[name]) != shapes[name]]
    if not differing:
        return
    source, hint = f'data set {setup.dataset.name!r}', 'name the data that it was trained on'
    if isinstance(setup.dataset, RecordedDatasetInfo):
        source, hint = workdir / PREPROCESSING, REMOVE_HINT
    name, cause = 'head/bias', f'class_names are {setup.dataset.num_classes}'
    if name not in differing:
        name, cause = differing[0], f'image_shape = {list(setup.dataset.image_shape)}'
    raise UserError(
        f'{source}: {cause}, and the checkpoints are of a network with {name} of '
        f'{list(shapes[name])}, not {list(expected[name])}; put back what was there, or {hint}'
    )
