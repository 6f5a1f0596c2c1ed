"""A run's setup from its folder alone, without its data set: `read_trained_setup`."""

import dataclasses
import pathlib
from collections.abc import Mapping

from flax.traverse_util import flatten_dict

from mixer_dilated.data.examples import Examples
from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.errors import UserError
from mixer_dilated.training.run_folder import read_config
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.setup import (
    PREPROCESSING,
    REMOVE_HINT,
    Setup,
    grid_tokens,
    read_preprocessing,
)


@dataclasses.dataclass(frozen=True)
class RecordedDatasetInfo:
    """The properties of the data set that a run was trained on, as a `Dataset` without examples."""

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    split_sizes: dict[str, int]
    fingerprint: str = ''

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        return self.image_shape

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def read(self, split: str) -> Examples:
        raise UserError(f'the examples of {self.name} are not in the folder of the run')


def read_trained_setup(workdir: pathlib.Path) -> tuple[Setup, Preprocessing]:
    """The setup of a run from its folder alone, and how image files are brought to its form.

    A run without `preprocessing.json`, of an earlier version, reads its data set instead.

    Raises:
      UserError: no run there, a damaged file, or a run without it whose data set is not there.
    """
    config = read_config(workdir)
    content = read_preprocessing(workdir, config)
    shape = tuple(content['image_shape'])
    try:
        preprocessing = Preprocessing(
            shape, content['preprocess'], content['resize'], config.dataset.max_pixels
        )
    except UserError as error:
        raise UserError(f'{workdir / PREPROCESSING}: {error}; {REMOVE_HINT}') from None
    counts = {part: content[f'{part}_examples'] for part in ('train', 'test')}
    dataset = RecordedDatasetInfo(config.dataset.name, shape, tuple(content['class_names']), counts)
    tokens = grid_tokens(config, shape)
    return Setup(config, dataset, counts['train'], counts['test'], tokens), preprocessing


def check_network(
    workdir: pathlib.Path,
    setup: Setup,
    abstract: RunState,
    shapes: Mapping[str, tuple[int, ...]],
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
    recorded = isinstance(setup.dataset, RecordedDatasetInfo)
    source = workdir / PREPROCESSING if recorded else f'data set {setup.dataset.name!r}'
    hint = REMOVE_HINT if recorded else 'name the data that it was trained on'
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
