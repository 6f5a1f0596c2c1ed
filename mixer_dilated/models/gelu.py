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

    Computed in float32: `nn.gelu(x, approximate=False)` but for 2e-7 · |x|, since erf costs less
    than erfc on a CPU. Its derivative, Φ(x) + x · φ(x), is computed from x alone: one array is
    kept for it.
    """
    wide = x.astype(jnp.float32)
    return (wide * _cumulative(wide)).astype(x.dtype)


def _forward(x):
    return exact_gelu(x), x


def _backward(x, dy):
    wide = x.astype(jnp.float32)
    density = jnp.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
    derivative = _cumulative(wide) + wide * density
    return ((dy.astype(jnp.float32) * derivative).astype(x.dtype),)


exact_gelu.defvjp(_forward, _backward)


def _cumulative(x):
    return (1 + jax.lax.erf(x * math.sqrt(0.5))) / 2


GELU = {
    'exact': exact_gelu,
    'tanh': functools.partial(nn.gelu, approximate=True),
}
