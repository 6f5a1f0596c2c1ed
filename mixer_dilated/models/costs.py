"""What a network costs: parameters, FLOPs and activations, layer by layer, without running it."""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Layer(NamedTuple):
    """One module that holds parameters, for one image.

    Attributes:
      path: module names from the top: ('MixerBlock_0', 'token_mixing', 'Dense_0').
      output_shape: of its output for one image: (tokens, channels), within token mixing
        (channels, hidden) and (channels, tokens).
      params: number of parameters.
      flops: floating point operations of its matrix products forward, 2 a multiply-add. Biases,
        norms, activations, smoothing and the selection of pixels are not counted.
    """

    path: tuple[str, ...]
    output_shape: tuple[int, ...]
    params: int
    flops: int


def layers(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of an `MlpMixer` in the plain form, in the order in which they are called.

    Or of another module called as `model(images, train=False)` whose layers are batch first.
    `image_shape` is (height, width, channels).
    """
    calls = []

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == '__call__':
            calls.append((context.module.path, output.shape[1:]))
        return output

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(record):
        init = functools.partial(model.init, train=False)
        params = jax.eval_shape(init, jax.random.key(0), images)['params']
    model_layers = []
    for path, output_shape in calls:
        module = functools.reduce(lambda scope, name: scope.get(name, {}), path, params)
        arrays = {name: leaf for name, leaf in module.items() if hasattr(leaf, 'shape')}
        if arrays:
            kernels = [leaf for name, leaf in arrays.items() if name.startswith('kernel')]
            fan_in = sum(kernel.size // kernel.shape[-1] for kernel in kernels)
            count = sum(leaf.size for leaf in arrays.values())
            flops = 2 * math.prod(output_shape) * fan_in
            model_layers.append(Layer(path, output_shape, count, flops))
    return model_layers


def num_params(model_layers: list[Layer]) -> int:
    """Parameters of the whole network."""
    return sum(layer.params for layer in model_layers)


def flops_per_image(model_layers: list[Layer]) -> int:
    """FLOPs of the matrix products forward, for one image (see `Layer.flops`)."""
    return sum(layer.flops for layer in model_layers)
