"""The activation of a Mixer's MLPs, in both of its forms."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def exact_gelu(x: Float[Array, '...']) -> Float[Array, '...']:
    """x · Φ(x), Φ the normal distribution's cumulative function (paper eq. 3).

    Equal to `nn.gelu(x, approximate=False)` to rounding. Its derivative, Φ(x) + x · φ(x), is
    computed from x alone: one array is kept for it, and erf costs less than erfc on a CPU.
    """
    return x * _cumulative(x)


def _forward(x):
    return exact_gelu(x), x


def _backward(x, dy):
    density = jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return (dy * (_cumulative(x) + x * density),)


exact_gelu.defvjp(_forward, _backward)


def _cumulative(x):
    return (1 + jax.lax.erf(x * math.sqrt(0.5))) / 2


GELU = {
    'exact': exact_gelu,
    'tanh': functools.partial(nn.gelu, approximate=True),
}
