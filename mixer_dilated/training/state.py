"""What training changes: parameters, optimizer state and the step."""

import jax
import jax.numpy as jnp
import ml_collections
from flax.training.train_state import TrainState

from mixer_dilated.models.mixer import mixer_from_config
from mixer_dilated.training.optimizer import make_optimizer
from mixer_dilated.training.randomness import purpose_key


def create_train_state(
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
    total_steps: int,
    seed_key: jax.Array,
) -> TrainState:
    """A fresh state at step 0; traceable, so that it can be jitted, vmapped and sharded.

    Args:
      config: a resolved config.
      image_shape: (height, width, channels).
      num_classes: outputs of the head.
      total_steps: steps of the whole run, which the schedule needs.
      seed_key: `jax.random.key(config.seed)`.
    """
    model = mixer_from_config(config.model, num_classes)
    images = jnp.zeros((1, *image_shape), jnp.float32)
    params = model.init(purpose_key(seed_key, 'parameters'), images, train=False)['params']
    return TrainState.create(
        apply_fn=model.apply, params=params, tx=make_optimizer(config.optimizer, total_steps)
    )
