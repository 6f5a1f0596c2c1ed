"""LayerNorm with its derivative written out, which XLA makes fewer passes over memory of."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-6


class LayerNorm(nn.Module):
    """`nn.LayerNorm` over the last axis: the same parameters, numbers to rounding, and defaults.

    Statistics are computed in float32 whatever the dtype of the input; the result has the dtype
    of the input.
    """

    @nn.compact
    def __call__(self, x: Float[Array, '*rows channels']) -> Float[Array, '*rows channels']:
        scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
        bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
        return layer_norm(x, scale, bias)


@jax.custom_vjp
def layer_norm(
    x: Float[Array, '*rows channels'],
    scale: Float[Array, ' channels'],
    bias: Float[Array, ' channels'],
) -> Float[Array, '*rows channels']:
    """(x - mean) / sqrt(variance + 1e-6) · scale + bias, mean and variance over the channels.

    Args:
      x: (*rows, C), float32 or bfloat16.
      scale, bias: float32 (C,).
    """
    return _forward(x, scale, bias)[0]


def _forward(x, scale, bias):
    mean, inverse_deviation = _statistics(x)
    y = (x - mean) * inverse_deviation * scale + bias
    return y.astype(x.dtype), (x, mean, inverse_deviation, scale)


def _backward(saved, dy):
    """With n = (x - mean) / deviation and g = dy · scale:

    dx = (g - mean(g) - n · mean(g · n)) / deviation,  dscale = Σ dy · n,  dbias = Σ dy.
    """
    x, mean, inverse_deviation, scale = saved
    dy_rows, rows = dy.astype(jnp.float32), tuple(range(dy.ndim - 1))
    normed = (x - mean) * inverse_deviation
    dy_normed = dy_rows * normed
    g = dy_rows * scale
    dx = (g - _row_means(g) - normed * _row_means(dy_normed * scale)) * inverse_deviation
    return dx.astype(dy.dtype), jnp.sum(dy_normed, axis=rows), jnp.sum(dy_rows, axis=rows)


layer_norm.defvjp(_forward, _backward)


def _statistics(x: Float[Array, 'rows channels']) -> tuple[jax.Array, jax.Array]:
    """Mean and 1 / sqrt(variance + 1e-6) of every row, float32 (rows, 1)."""
    x = x.astype(jnp.float32)
    mean = _row_means(x)
    variance = jnp.maximum(_row_means(x * x) - mean * mean, 0)
    return mean, jax.lax.rsqrt(variance + EPSILON)


def _row_means(x: Float[Array, 'rows channels']) -> Float[Array, 'rows 1']:
    """Means over the channels.

    On CPUs as a product with a column of 1/C: XLA's reductions over the last axis are slow there.
    """
    return jax.lax.platform_dependent(
        x,
        cpu=lambda x: x @ jnp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype),
        default=functools.partial(jnp.mean, axis=-1, keepdims=True),
    )
