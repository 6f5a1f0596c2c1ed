"""What training changes: parameters, optimizer state and the step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

from mixer_dilated.training.randomness import purpose_key


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
