"""The train state, and the parameters that it starts with."""

import pathlib
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

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


def create_model(config: ConfigDict, num_classes: int, platform: str | None = None) -> MlpMixer:
    """The network of `config.model`: on the platform 'cpu' `CpuMlpMixer`, else `MlpMixer`."""
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

    Raises UserError if no weights are there, or they are damaged.
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


class InitialParams(NamedTuple):
    """Pretrained parameters to start with, and sentences on what was adapted.

    They are nested as in the network, each array with a leading axis of seeds; without those that
    are initialised as in a run from scratch.
    """

    params: dict
    adapted: list[str]


def load_initial_params(setup: Setup) -> InitialParams:
    """Loads the parameters of `config.init_from` and adapts them to the network; none if it is ''.

    From a run with as many seeds each seed gets its own, otherwise all get those of the first.
    Raises UserError if the weights cannot be read, ShapeMismatchError if they do not fit.
    """
    config = setup.config
    if not config.init_from:
        return InitialParams({}, [])
    path = weights_path(config.init_from)
    weights = load_seed_weights(path)
    if len(weights) != config.num_seeds:
        weights = weights[:1] * config.num_seeds
    network = create_model(config, setup.dataset.num_classes)
    settings = network, setup.dataset.image_shape, config.transfer, str(path)
    arrays, notes = zip(*(adapt_params(of_seed, *settings) for of_seed in weights), strict=True)
    stacked = {name: np.stack([of_seed[name] for of_seed in arrays]) for name in arrays[0]}
    return InitialParams(unflatten_dict(stacked, sep='/'), notes[0])


def replace_params(state: TrainState, initial: InitialParams) -> TrainState:
    """Replaces the parameters that `initial` has; each array keeps the sharding of the old one."""
    params = flatten_dict(state.params, sep='/')
    for name, array in flatten_dict(initial.params, sep='/').items():
        params[name] = put_on_mesh(array, params[name].sharding)
    return state.replace(params=unflatten_dict(params, sep='/'))


def write_initial(
    workdir: pathlib.Path, initial: InitialParams, setup: Setup, result: dict
) -> dict:
    """Writes and returns `initial.json`, with the accuracies of `result`, an evaluation of
    `setup.epoch_split`.
    """
    split, content = setup.epoch_split, {'init_from': setup.config.init_from}
    content['adapted'], count = initial.adapted, setup.num_examples[split]
    content[f'{split}_accuracy'] = [int(correct) / count for correct in result['correct']]
    write_json(workdir / 'initial.json', content)
    return content
