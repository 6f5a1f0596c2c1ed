"""The matrix products of a training step, counted by their shapes."""

import collections
import math
from typing import NamedTuple

from mixer_dilated.models.costs import Layer


class Matmul(NamedTuple):
    """(rows × inner) · (inner × columns): 2 · rows · inner · columns FLOPs."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.columns


def forward_matmuls(
    layers: list[Layer], batch: int, phases: int = 1
) -> collections.Counter[Matmul]:
    """The products of the network's output for one batch, and how often each occurs.

    Args:
      layers: of the network.
      batch: images.
      phases: at which each image is evaluated.
    """
    counts = collections.Counter()
    for layer in layers:
        if layer.flops:
            counts[_layer_matmul(layer, batch)] += phases
    return counts


def training_matmuls(layers: list[Layer], batch: int) -> collections.Counter[Matmul]:
    """The products of one training step: output, and gradients of kernels and of inputs.

    The gradient of the images, which is not needed, is not among them.
    """
    counts = forward_matmuls(layers, batch)
    for layer in layers:
        if layer.flops:
            rows, inner, columns = _layer_matmul(layer, batch)
            # Y = X · W: the gradients are Xᵀ · dY of the kernel and dY · Wᵀ of the input.
            counts[Matmul(inner, rows, columns)] += 1
            if not layer.path[0].startswith('stem'):
                counts[Matmul(rows, columns, inner)] += 1
    return counts


def flops(counts: collections.Counter[Matmul]) -> int:
    """FLOPs of all of them."""
    return sum(count * matmul.flops for matmul, count in counts.items())


def _layer_matmul(layer: Layer, batch: int) -> Matmul:
    """A layer as a product with its kernel on the right."""
    outputs = math.prod(layer.output_shape)
    features = layer.output_shape[-1]
    return Matmul(batch * outputs // features, layer.flops // (2 * outputs), features)
