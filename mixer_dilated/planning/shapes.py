"""The shapes of a network and of its training state, without computing anything."""

import dataclasses

import jax
from flax.training.train_state import TrainState

from mixer_dilated.models.costs import Layer, num_params
from mixer_dilated.training.optimizer import make_optimizer
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import create_model, create_train_state, network_layers


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Of one seed, whatever mesh, dtype and parts of a batch it is trained with.

    Attributes:
      layers: of the network, for one image.
      state: parameters and optimizer state, as shapes.
    """

    layers: list[Layer]
    state: TrainState

    @property
    def num_params(self) -> int:
        """Parameters of the network."""
        return num_params(self.layers)


def shapes_of(setup: Setup) -> Shapes:
    """The shapes of a task's network and state; nothing is computed."""
    config, source = setup.config, setup.dataset
    network = create_model(config, source.num_classes)
    optimizer = make_optimizer(config.optimizer, setup.total_steps)

    def create(key):
        return create_train_state(network, optimizer, source.image_shape, key)

    key = jax.eval_shape(lambda: jax.random.key(0))
    return Shapes(network_layers(setup), jax.eval_shape(create, key))
