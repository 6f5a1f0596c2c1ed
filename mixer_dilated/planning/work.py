"""What one device computes and moves through its memory in a step: `Work`."""

import collections
import dataclasses

from mixer_dilated.benchmark.products import (
    Product,
    flops,
    forward_products,
    training_products,
)
from mixer_dilated.models.costs import Layer
from mixer_dilated.planning.hardware import Hardware
from mixer_dilated.planning.memory import FLOAT32
from mixer_dilated.planning.share import Share

# Arrays, read or written, of an elementwise step forward and backward. Of the width of a token:
# LayerNorm reads for its statistics, reads and writes; its gradient reads two arrays twice and
# writes one; a residual connection reads two and writes one; a bias's gradient reads one. Of a
# hidden layer: GELU reads and writes, its gradient reads two and writes one, and the bias's reads.
TOKENS_FORWARD, TOKENS_BACKWARD = 2 * (3 + 3), 2 * (5 + 3 + 1)
HIDDEN_FORWARD, HIDDEN_BACKWARD = 2, 4


@dataclasses.dataclass(frozen=True)
class Work:
    """One step of one device.

    Attributes:
      products: matrix products, and how often each occurs.
      elementwise_bytes: read and written between products: LayerNorm, GELU, residual connections.
      update_bytes: read and written by the optimizer.
      dtype_bytes: of a number of a product.
    """

    products: collections.Counter[Product]
    elementwise_bytes: int
    update_bytes: int
    dtype_bytes: int

    @property
    def flops(self) -> int:
        """Of the matrix products, 2 a multiply-add."""
        return flops(self.products)

    @property
    def memory_bytes(self) -> int:
        """Read and written by all of it, each array of a product once."""
        return (
            sum(self._bytes_of(product) * count for product, count in self.products.items())
            + self.elementwise_bytes
            + self.update_bytes
        )

    def seconds(self, hardware: Hardware, dtype: str) -> dict[str, float]:
        """The roofline of each piece of work, one after the other.

        A product takes as long as its FLOPs at the peak, or its arrays at the memory's bandwidth,
        whichever is longer; all else takes its arrays at that bandwidth.

        Returns:
          'products', 'elementwise', 'update'.
        """
        peak, bandwidth = hardware.peak_flops[dtype], hardware.memory_bandwidth
        return {
            'products': sum(
                max(product.flops / peak, self._bytes_of(product) / bandwidth) * count
                for product, count in self.products.items()
            ),
            'elementwise': self.elementwise_bytes / (hardware.elementwise_bandwidth or bandwidth),
            'update': self.update_bytes / bandwidth,
        }

    def _bytes_of(self, product: Product) -> int:
        rows, inner, columns = product.rows, product.inner, product.columns
        return self.dtype_bytes * (rows * inner + inner * columns + rows * columns)


def _computed_anew(layers: list[Layer]) -> list[Layer]:
    """Of rematerialised blocks; no gradient needs what their last layer gives."""
    return [
        layer
        for layer in layers
        if layer.path[0].startswith('MixerBlock')
        and layer.path[-2:] != ('channel_mixing', 'Dense_1')
    ]


def work_of(share: Share, parameter_bytes: int, state_bytes: int) -> Work:
    """What a device does in a step.

    Args:
      share: the device's part of it.
      parameter_bytes, state_bytes: of parameters and of optimizer state on the device.
    """
    layers = list(share.layers)
    products = training_products(layers, share.images)
    if share.remat:
        products.update(forward_products(_computed_anew(layers), share.images))
    rounds = share.parts * share.seeds
    products = collections.Counter({each: count * rounds for each, count in products.items()})
    forward = 2 if share.remat else 1
    numbers = share.num_blocks * (
        (forward * TOKENS_FORWARD + TOKENS_BACKWARD) * share.stream
        + (forward * HIDDEN_FORWARD + HIDDEN_BACKWARD) * sum(share.hidden)
    )
    # Images become floats, and floats patches.
    images = share.images * (share.pixels * (1 + 2 * FLOAT32) + share.features * share.dtype_bytes)
    return Work(
        products=products,
        elementwise_bytes=rounds * (numbers * share.dtype_bytes + images),
        # The norm of the gradient reads it; the update reads it again, and reads and writes the
        # rest.
        update_bytes=2 * (parameter_bytes + state_bytes) + 2 * parameter_bytes,
        dtype_bytes=share.dtype_bytes,
    )
