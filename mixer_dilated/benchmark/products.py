"""The matrix products of a training step, and the speed of a machine at products alone."""

import collections
import dataclasses
import math
import time

import jax
import jax.numpy as jnp

from mixer_dilated.models.costs import Layer

DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class Product:
    """(rows × inner) · (inner × columns): 2 · rows · inner · columns FLOPs."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.columns


def large_product() -> Product:
    """The product whose speed is taken for the device's; a CPU's would fill no accelerator."""
    side = 2048 if jax.default_backend() == 'cpu' else 8192
    return Product(side, side, side)


def forward_products(
    layers: list[Layer], batch: int, phases: int = 1
) -> collections.Counter[Product]:
    """The products of the network's output for one batch, and how often each occurs.

    Args:
      layers: of the network.
      batch: images.
      phases: at which each image is shown, one after the other.
    """
    found = collections.Counter()
    for layer in layers:
        if layer.flops:
            found[_of_layer(layer, batch)] += phases
    return found


def training_products(layers: list[Layer], batch: int) -> collections.Counter[Product]:
    """The products of one training step: output, and gradients of kernels and of inputs.

    The gradient of the images, which nobody needs, is not among them.
    """
    found = forward_products(layers, batch)
    for layer in layers:
        if layer.flops:
            product = _of_layer(layer, batch)
            # Y = X · W: the gradients are Xᵀ · dY of the kernel and dY · Wᵀ of the input.
            found[Product(product.inner, product.rows, product.columns)] += 1
            if not layer.path[0].startswith('stem'):
                found[Product(product.rows, product.columns, product.inner)] += 1
    return found


def flops(products: collections.Counter[Product]) -> int:
    """FLOPs of all of them."""
    return sum(count * product.flops for product, count in products.items())


def _of_layer(layer: Layer, batch: int) -> Product:
    """A layer as a product with its kernel on the right."""
    outputs = math.prod(layer.output_shape)
    fan_in = layer.flops // (2 * outputs)
    features = layer.output_shape[-1]
    return Product(batch * outputs // features, fan_in, features)


class TimedProduct:
    """A product on one device, compiled and warm, repeated for some milliseconds at a time.

    Args:
      product: its shape.
      dtype: of both factors and of the result.
      milliseconds: about as long as one turn takes.
    """

    def __init__(self, product: Product, dtype: str, milliseconds: float = 20):
        device = jax.devices()[0]
        draw = jax.random.normal(jax.random.key(0), (2, 1))
        shapes = (product.rows, product.inner), (product.inner, product.columns)
        self._factors = [
            jax.device_put(jnp.full(shape, value).astype(dtype), device)
            for shape, value in zip(shapes, draw[:, 0], strict=True)
        ]
        self._repeat = jax.jit(_repeat)
        self._count = 1
        self.seconds()  # compiles
        while (seconds := self._turn()) * 1e3 < milliseconds and self._count < 10**6:
            self._count *= min(max(2, int(milliseconds / 1e3 / max(seconds, 1e-9))), 100)

    def seconds(self) -> float:
        """How long one product takes, the mean over a turn."""
        return self._turn() / self._count

    def _turn(self) -> float:
        start = time.perf_counter()
        jax.block_until_ready(self._repeat(*self._factors, self._count))
        return time.perf_counter() - start


def _repeat(left: jax.Array, right: jax.Array, count: int) -> jax.Array:
    """The product, `count` times over."""

    def again(_, carried):
        # The barrier ties each product to the one before: none can be left out or done early.
        factor, _ = jax.lax.optimization_barrier(carried)
        return factor, factor @ right

    result = jnp.zeros((left.shape[0], right.shape[1]), left.dtype)
    return jax.lax.fori_loop(0, count, again, (left, result))[1]
