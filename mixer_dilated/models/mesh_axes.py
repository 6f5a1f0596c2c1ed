"""What a network says of the mesh it is computed on: names of axes, never how many devices.

The mesh is that around the call (`jax.sharding.get_abstract_mesh`); without one, or on one device,
nothing here has an effect.
"""

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float


def batch_is_split() -> bool:
    """Whether each device has a part of the batch, which a joined axis would make it gather."""
    return _size('data') > 1


def split_hidden_layer(hidden: Float[Array, '...'], axis: int) -> Float[Array, '...']:
    """Splits the hidden layer of an MLP over the mesh axis 'model'.

    The first linear map then computes a part of its outputs on each device, and the second one, a
    part of whose inputs that is, a sum over devices, which is all that they exchange.

    Args:
      hidden: of all units, or of the examples of one device.
      axis: of the units.
    """
    if _size('model') == 1:
        return hidden
    spec = [PartitionSpec.UNCONSTRAINED] * hidden.ndim
    spec[axis] = 'model'
    return jax.lax.with_sharding_constraint(hidden, PartitionSpec(*spec))


def _size(axis: str) -> int:
    return dict(jax.sharding.get_abstract_mesh().shape).get(axis, 1)
