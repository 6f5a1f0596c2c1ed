"""The forms of the network that a CPU computes faster."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def exact_gelu(x: Float[Array, '...']) -> Float[Array, '...']:
    """x · Φ(x), Φ the normal distribution's cumulative function (paper eq. 3).

    Computed in float32: `nn.gelu(x, approximate=False)` but for 2e-7 · |x|, since erf costs less
    than erfc on a CPU. Its derivative, Φ(x) + x · φ(x), is computed from x alone: one array is
    kept for it.
    """
    wide = x.astype(jnp.float32)
    return (wide * _cumulative(wide)).astype(x.dtype)


def _gelu_forward(x):
    return exact_gelu(x), x


def _gelu_backward(x, dy):
    wide = x.astype(jnp.float32)
    density = jnp.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
    derivative = _cumulative(wide) + wide * density
    return ((dy.astype(jnp.float32) * derivative).astype(x.dtype),)


exact_gelu.defvjp(_gelu_forward, _gelu_backward)


def _cumulative(x):
    return (1 + jax.lax.erf(x * math.sqrt(0.5))) / 2


GELU = {
    'exact': exact_gelu,
    'tanh': functools.partial(nn.gelu, approximate=True),
}


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
    return _layer_norm_forward(x, scale, bias)[0]


def _layer_norm_forward(x, scale, bias):
    mean, inverse_deviation = _statistics(x)
    y = (x - mean) * inverse_deviation * scale + bias
    return y.astype(x.dtype), (x, mean, inverse_deviation, scale)


def _layer_norm_backward(saved, dy):
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


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


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


def call_rematerialised(block: nn.Module, x: jax.Array, train: bool) -> jax.Array:
    """`block(x, train)` that keeps nothing for its gradient but its parameters and `x`.

    `nn.remat` does not serve on CPUs: XLA drops its barrier there and computes everything anew as
    early as it can, so that all of it is kept after all.

    Args:
      block: a bound module that has been initialised. Its dropout draws other numbers than without
        rematerialisation.
      x: its input.
      train: its other argument.
    """
    module, variables = block.unbind()
    rngs = {'dropout': block.make_rng('dropout')} if block.has_rng('dropout') else {}

    def apply(variables, x, rngs):
        return module.apply(variables, x, train, rngs=rngs)

    return _anew(apply)(variables, x, rngs)


def _anew(function: Callable) -> Callable:
    @jax.custom_vjp
    def output(variables, x, rngs):
        return function(variables, x, rngs)

    def forward(variables, x, rngs):
        return function(variables, x, rngs), (variables, x, rngs)

    def backward(saved, dy):
        variables, x, rngs = saved
        # Nothing can be computed from this x before dy is there.
        x = x + 0 * dy[(0,) * dy.ndim]
        _, gradient = jax.vjp(lambda variables, x: function(variables, x, rngs), variables, x)
        return (*gradient(dy), None)

    output.defvjp(forward, backward)
    return output
