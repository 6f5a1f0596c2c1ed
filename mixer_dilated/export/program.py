"""From a network to a StableHLO program for several platforms and any batch."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import traverse_util
from flax.training.train_state import TrainState
from jax import export
from jaxtyping import Array, Float, UInt8

from mixer_dilated.config import num_phases
from mixer_dilated.errors import UserError
from mixer_dilated.training.state import create_model
from mixer_dilated.training.step import class_log_probs

PLATFORMS = ('cpu', 'cuda', 'tpu')


def classifier(
    config: ml_collections.ConfigDict, num_classes: int, temperatures: Float[np.ndarray, ' seeds']
) -> Callable:
    """The function of weights and images that an export is.

    It holds a CPU's form of the network beside the plain one, which takes 1.4 to 2.1 times as long
    there.

    Args:
      config: a resolved config. If it asks for several phases, the probabilities of a seed are
        means over all of them.
      num_classes: outputs of the network.
      temperatures: T of every seed.

    Returns:
      A pure function of the weights (as `flat_weights` gives them) and uint8 images (B, H, W, C):
      the mean over the seeds of softmax(log p / T), probabilities float32 (B, classes).
    """

    plain, cpu = (create_model(config, num_classes, platform) for platform in (None, 'cpu'))

    def classify(
        weights: dict[str, Float[Array, 'seeds ...']],
        images: UInt8[Array, 'batch height width channels'],
    ) -> Float[Array, 'batch classes']:
        return jax.lax.platform_dependent(
            weights,
            images,
            cpu=functools.partial(classify_with, cpu),
            default=functools.partial(classify_with, plain),
        )

    def classify_with(model, weights, images):
        def of_seed(of_one):
            params, temperature = of_one
            state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.identity())
            found = class_log_probs(state, images, num_phases=num_phases(config))
            return jax.nn.softmax(found / temperature)

        params = traverse_util.unflatten_dict(weights, sep='/')
        # One seed after another: they need the memory of one.
        found = jax.lax.map(of_seed, (params, jnp.asarray(temperatures, jnp.float32)))
        return jnp.mean(found, axis=0)

    return classify


def flat_weights(params: dict) -> dict[str, np.ndarray]:
    """Parameters by the original's names: `stem/kernel`, `MixerBlock_0/LayerNorm_0/scale`."""
    flat = traverse_util.flatten_dict(params, sep='/')
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def exported_program(
    classify: Callable, weights: dict[str, np.ndarray], image_shape: tuple[int, int, int]
) -> bytes:
    """`classify`, lowered for `PLATFORMS` with a symbolic batch, as `jax.export` serialises it.

    The weights are arguments of the program: as constants in it, those of a large network would be
    folded anew wherever it is compiled, which takes seconds.

    Args:
      classify: of weights and images, see `classifier`.
      weights: their shapes and dtypes are the program's.
      image_shape: (height, width, channels).

    Raises:
      UserError: flatbuffers, which `jax.export` writes with, is not installed.
    """
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in weights.items()}
    (batch,) = export.symbolic_shape('batch')
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8)
    exported = export.export(jax.jit(classify), platforms=PLATFORMS)(shapes, images)
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise UserError(f'export: {error} (pip install flatbuffers)') from None
