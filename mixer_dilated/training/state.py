"""The train state, and the parameters that it starts with."""

import dataclasses
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict, unflatten_dict

from mixer_dilated.config import patch_branches
from mixer_dilated.files import write_json
from mixer_dilated.models.costs import Layer, layers
from mixer_dilated.models.cpu import CpuMlpMixer
from mixer_dilated.models.mixer import MlpMixer
from mixer_dilated.parallel.mesh import put_on_mesh
from mixer_dilated.pretrained.adapt import adapt_params
from mixer_dilated.pretrained.weight_files import Weights, read_weights
from mixer_dilated.pretrained.weights_path import weights_path
from mixer_dilated.random_keys import purpose_key
from mixer_dilated.training.checkpoint import Checkpoints
from mixer_dilated.training.run_folder import read_config
from mixer_dilated.training.setup import Setup, read_preprocessing


def create_model(
    config: ml_collections.ConfigDict, num_classes: int, platform: str | None = None
) -> MlpMixer:
    """The network that `config.model` describes, in the form that its devices compute fastest.

    All forms have the same parameters; without a platform, 'cpu', 'gpu' or 'tpu', it is `MlpMixer`.
    """
    model, network = config.model, CpuMlpMixer if platform == 'cpu' else MlpMixer
    keys = {*model} - {'patches', 'max_tokens', 'branches', 'phases'}  # that make the geometries
    return network(
        branches=patch_branches(model),
        num_classes=num_classes,
        dtype=jnp.dtype(config.dtype),
        **{key: model[key] for key in keys},
    )


def network_layers(setup: Setup) -> list[Layer]:
    """The layers of the network of a setup (see `models.costs`)."""
    model = create_model(setup.config, setup.dataset.num_classes)
    return layers(model, setup.dataset.image_shape)


def create_train_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    seed_key: jax.Array,
) -> TrainState:
    """A fresh state at step 0; traceable, so that it can be jitted, vmapped and sharded.

    `image_shape` is (height, width, channels), `seed_key` `jax.random.key(config.seed)`.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    params = model.init(purpose_key(seed_key, 'parameters'), images, train=False)['params']
    return TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)


def load_seed_weights(path: pathlib.Path) -> list[Weights]:
    """Loads the weights of every seed of a run; those of any other folder or file as of one seed.

    Raises:
      UserError: no weights there, or they are damaged.
    """
    if not (path / 'checkpoints').is_dir():
        return [read_weights(path)]
    config = read_config(path)
    with Checkpoints(path, config, read_only=True) as checkpoints:
        arrays = flatten_dict(checkpoints.params(), sep='/')
    size = tuple(read_preprocessing(path, config)['image_shape'][:2])
    return [
        Weights({name: array[k] for name, array in arrays.items()}, config.model.to_dict(), size)
        for k in range(config.num_seeds)
    ]


@dataclasses.dataclass(frozen=True)
class InitialParams:
    """Pretrained parameters to start with, and sentences on what was adapted.

    They are nested as in the network, each array with a leading axis of seeds; without those that
    are initialised as in a run from scratch.
    """

    params: dict
    adapted: list[str]


def load_initial_params(setup: Setup) -> InitialParams:
    """Loads the parameters of `config.init_from` and adapts them to the network; none if it is ''.

    From a run with as many seeds each seed gets its own, otherwise all get those of the first.

    Raises:
      UserError, ShapeMismatchError: the weights cannot be read, or do not fit.
    """
    config = setup.config
    if not config.init_from:
        return InitialParams({}, [])
    path = weights_path(config.init_from)
    weights = load_seed_weights(path)
    if len(weights) != config.num_seeds:
        weights = weights[:1] * config.num_seeds
    network, shape = create_model(config, setup.dataset.num_classes), setup.dataset.image_shape
    adapted = [
        adapt_params(seed_weights, network, shape, config.transfer, str(path))
        for seed_weights in weights
    ]
    arrays, notes = adapted[0]
    stacked = {name: np.stack([seed_arrays[name] for seed_arrays, _ in adapted]) for name in arrays}
    return InitialParams(unflatten_dict(stacked, sep='/'), notes)


def replace_params(state: TrainState, initial: InitialParams) -> TrainState:
    """Replaces the parameters that `initial` has; each array keeps the sharding of the old one."""
    params = flatten_dict(state.params, sep='/')
    for name, array in flatten_dict(initial.params, sep='/').items():
        params[name] = put_on_mesh(array, params[name].sharding)
    return state.replace(params=unflatten_dict(params, sep='/'))


def write_initial(
    workdir: pathlib.Path, initial: InitialParams, setup: Setup, result: dict
) -> dict:
    """Writes and returns `initial.json`: what was adapted, and the accuracy before training.

    `result` is of `evaluate` of `setup.epoch_split`.
    """
    split = setup.epoch_split
    accuracies = [int(correct) / setup.num_examples[split] for correct in result['correct']]
    content = {'init_from': setup.config.init_from, 'adapted': initial.adapted}
    content[f'{split}_accuracy'] = accuracies
    write_json(workdir / 'initial.json', content)
    return content
