"""Parameters and optimizer state over the devices as the table of `partition_rules` says."""

import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixer_dilated.training.partition_rules import Partition, path_name


def state_shardings(abstract, mesh: Mesh, partition: Partition):
    """A tree of shardings, like `abstract`.

    Args:
      abstract: shapes of a state of all seeds, each with an axis of seeds first.
      mesh: the devices.
      partition: the table, read for them.
    """

    def sharding(path, leaf):
        return NamedSharding(
            mesh, PartitionSpec('seeds', *partition.spec(path_name(path), leaf.shape[1:]))
        )

    return jax.tree_util.tree_map_with_path(sharding, abstract)


def gathered(params, partition: Partition):
    """Parameters of one seed as the network takes them: what 'data' splits is put together.

    The gradient is added up over the devices and split again, each keeping its share. Without
    anything to put together `params` stay as they are.

    Args:
      params: of one seed, inside a program of `sharding.over_seeds`.
      partition: how they lie.
    """
    if not partition.gathers:
        return params

    def whole(path, leaf):
        name = path_name(path)
        split, joined = (
            found(name, leaf.shape) for found in (partition.spec, partition.gathered_spec)
        )
        return leaf if split == joined else _put_together(leaf, split, joined)

    return jax.tree_util.tree_map_with_path(whole, params)


def gathered_anew(loss: Callable, partition: Partition) -> Callable:
    """A loss whose gradient gathers parameters again, instead of keeping them whole until then."""
    if not partition.gathers:
        return loss
    return jax.checkpoint(loss, policy=lambda op, *_, **__: op.name != 'sharding_constraint')


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _put_together(array: jax.Array, split: PartitionSpec, joined: PartitionSpec) -> jax.Array:
    return jax.lax.with_sharding_constraint(array, joined)


def _forward(array, split, joined):
    return _put_together(array, split, joined), None


def _backward(split, joined, _, gradient):
    # Of `split` alone XLA would make a product that is laid out in another way, and move it.
    summed = jax.lax.with_sharding_constraint(gradient, joined)
    return (jax.lax.with_sharding_constraint(summed, split),)


_put_together.defvjp(_forward, _backward)
