"""What training changes, and the parameters it starts with."""

import dataclasses
import pathlib
import warnings

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
from mixer_dilated.models.cpu import CpuMlpMixer
from mixer_dilated.models.mixer import MlpMixer
from mixer_dilated.parallel.mesh import purpose_key, put_on_mesh
from mixer_dilated.pretrained.adapt import adapt_params
from mixer_dilated.pretrained.weight_files import Weights, read_weights
from mixer_dilated.training.checkpoint import Checkpoints
from mixer_dilated.training.run_folder import read_config
from mixer_dilated.training.setup import Setup, read_trained_setup


def create_model(
    config: ml_collections.ConfigDict, num_classes: int, platform: str | None = None
) -> MlpMixer:
    """The network that `config.model` describes, in the form that its devices compute fastest.

    Args:
      config: a resolved config.
      num_classes: outputs of the head.
      platform: of the devices: 'cpu', 'gpu' or 'tpu'. All forms have the same parameters; without
        a platform it is the plain one, `MlpMixer`.
    """
    model = config.model
    network = CpuMlpMixer if platform == 'cpu' else MlpMixer
    return network(
        branches=patch_branches(model),
        num_classes=num_classes,
        num_blocks=model.num_blocks,
        hidden_dim=model.hidden_dim,
        tokens_mlp_dim=model.tokens_mlp_dim,
        channels_mlp_dim=model.channels_mlp_dim,
        dropout_rate=model.dropout_rate,
        gelu=model.gelu,
        branch_merge=model.branch_merge,
        blur=model.blur,
        stoch_depth=model.stoch_depth,
        remat=model.remat,
        dtype=jnp.dtype(config.dtype),
    )


def create_train_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    seed_key: jax.Array,
) -> TrainState:
    """A fresh state at step 0; traceable, so that it can be jitted, vmapped and sharded.

    Args:
      model: a module called as `model(images, train=False)`.
      optimizer: what turns gradients into updates.
      image_shape: (height, width, channels).
      seed_key: `jax.random.key(config.seed)`.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    params = model.init(purpose_key(seed_key, 'parameters'), images, train=False)['params']
    return TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)


def load_seed_weights(path: pathlib.Path) -> list[Weights]:
    """The weights of a file, of a folder that convert wrote, or of each seed of a run.

    Raises:
      UserError: nothing of the kind there, or it is damaged.
    """
    if not (path / 'checkpoints').is_dir():
        return [read_weights(path)]
    config = read_config(path)
    with Checkpoints(path, config, read_only=True) as checkpoints:
        arrays = flatten_dict(checkpoints.params(), sep='/')
    image_size = read_trained_setup(path)[0].dataset.image_shape[:2]
    return [
        Weights(
            {name: array[k] for name, array in arrays.items()}, config.model.to_dict(), image_size
        )
        for k in range(config.num_seeds)
    ]


@dataclasses.dataclass(frozen=True)
class InitialParams:
    """Parameters to start with.

    Attributes:
      params: nested as in the network, each with an axis of seeds; without those that start as
        they would without `config.init_from`.
      adapted: in words what was done to them, and how the network is unlike that of the weights.
    """

    params: dict
    adapted: list[str]


def load_initial_params(setup: Setup) -> InitialParams:
    """The parameters that `config.init_from` gives a task's network; none if it is ''.

    A run of as many seeds gives each its own; of anything else every seed has the same (of a run
    the first), and differs in what is random.

    Raises:
      UserError, ShapeMismatchError: they cannot be read, or do not fit.
    """
    config = setup.config
    if not config.init_from:
        return InitialParams({}, [])
    path = pathlib.Path(config.init_from).expanduser()
    sources = load_seed_weights(path)
    _warn_of_gelu(sources[0], config.model.gelu, path)
    sources = sources if len(sources) == config.num_seeds else sources[:1] * config.num_seeds
    network = create_model(config, setup.dataset.num_classes)
    shape = setup.dataset.image_shape
    of_seeds = [
        adapt_params(weights, network, shape, config.transfer, str(path)) for weights in sources
    ]
    arrays = {name: np.stack([weights[name] for weights, _ in of_seeds]) for name in of_seeds[0][0]}
    return InitialParams(unflatten_dict(arrays, sep='/'), of_seeds[0][1])


def _warn_of_gelu(weights: Weights, gelu: str, path: pathlib.Path) -> None:
    """Warns where weights that do not say their GELU get another than the original's."""
    if weights.model is None and gelu != 'tanh':
        warnings.warn(
            f'config.model.gelu = {gelu!r}: weights of the original, if these are some, were '
            f"trained with 'tanh' ({path}); for that set --config.model.gelu=tanh",
            stacklevel=3,
        )


def replace_params(state: TrainState, initial: InitialParams) -> TrainState:
    """The state of every seed with the parameters of `initial`, laid out as those it had."""
    current, new = (flatten_dict(weights, sep='/') for weights in (state.params, initial.params))
    placed_params = {
        name: put_on_mesh(array, current[name].sharding) for name, array in new.items()
    }
    return state.replace(params=unflatten_dict({**current, **placed_params}, sep='/'))


def write_initial(
    workdir: pathlib.Path, initial: InitialParams, setup: Setup, result: dict
) -> dict:
    """Writes `initial.json`: what a run began with, and how good that was; returns its content.

    Args:
      workdir: the run's folder.
      initial: its first parameters.
      setup: what is trained.
      result: of `epoch.evaluate` on the test examples, before the first step.
    """
    content = {
        'init_from': setup.config.init_from,
        'adapted': initial.adapted,
        'test_accuracy': [int(correct) / setup.test_examples for correct in result['correct']],
    }
    write_json(workdir / 'initial.json', content)
    return content
