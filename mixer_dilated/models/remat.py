"""Rematerialisation: a gradient that computes a block anew instead of keeping what is inside it."""

from collections.abc import Callable

import flax.linen as nn
import jax


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
