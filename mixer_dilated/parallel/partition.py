"""Partition rules: which mesh axes split which axis of a parameter, and FSDP."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

# By the end of a parameter's path: for each of its axes, the axes of the mesh that may split it.
# 'model' splits both layers of an MLP by its hidden width, so that only their sum is exchanged.
# 'data' takes part with `config.mesh.fsdp` alone. What no rule names is small and stays whole.
RULES = (
    (r'(token|channel)_mixing/Dense_0/kernel', ((), ('model', 'data'))),
    (r'(token|channel)_mixing/Dense_0/bias', (('model',),)),
    (r'(token|channel)_mixing/Dense_1/kernel', (('model', 'data'), ())),
    (r'stem(_\d+)?/kernel(_\d+)?', ((), (), (), ('data',))),
    (r'head/kernel', (('data',), ())),
)


@dataclasses.dataclass(frozen=True)
class Partition:
    """Reads the table for one mesh.

    Attributes:
      mesh_shape: devices along each axis of the mesh, by its name.
      fsdp: whether 'data' splits parameters and optimizer state.
    """

    mesh_shape: Mapping[str, int]
    fsdp: bool = False

    @property
    def trivial(self) -> bool:
        """Whether every parameter is whole on every device of its seed."""
        return self.mesh_shape['model'] == 1 and not self.gathers

    @property
    def gathers(self) -> bool:
        """Whether parameters are split over 'data', and gathered where they are used."""
        return self.fsdp and self.mesh_shape['data'] > 1

    def spec(self, name: str, shape: tuple[int, ...]) -> PartitionSpec:
        """How the array of one seed lies: a parameter, or optimizer state that belongs to it.

        Args:
          name: its path, joined by '/'; that of optimizer state ends in the parameter's.
          shape: without an axis of seeds.

        Returns:
          The mesh axes of each axis. One that its axis does not divide by is left out.
        """
        return self._spec(name, shape, ('model', 'data') if self.gathers else ('model',))

    def gathered_spec(self, name: str, shape: tuple[int, ...]) -> PartitionSpec:
        """How a parameter lies while the network is computed: over 'model' alone."""
        return self._spec(name, shape, ('model',))

    def kept_whole(self, params) -> list[str]:
        """Names of the parameters that the table splits further than their axes divide.

        Args:
          params: of all seeds, or their shapes.
        """
        return [
            name
            for name, shape in ((name, leaf.shape[1:]) for name, leaf in named_leaves(params))
            for axis, size in zip(_rule(name, len(shape)), shape, strict=True)
            if self._dividing(axis, size) != self._there(axis)
        ]

    def _spec(self, name: str, shape: tuple[int, ...], used: tuple[str, ...]) -> PartitionSpec:
        found = [
            tuple(each for each in self._dividing(axis, size) if each in used)
            for axis, size in zip(_rule(name, len(shape)), shape, strict=True)
        ]
        # The spelling that JAX gives back: no tuple of one, nothing behind the last axis split.
        plain = [axis if len(axis) > 1 else axis[0] if axis else None for axis in found]
        while plain and plain[-1] is None:
            plain.pop()
        return PartitionSpec(*plain)

    def _there(self, axis: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the mesh axes of a rule that split anything in this mesh."""
        taking_part = ('model', 'data') if self.gathers else ('model',)
        return tuple(each for each in axis if each in taking_part and self.mesh_shape[each] > 1)

    def _dividing(self, axis: tuple[str, ...], size: int) -> tuple[str, ...]:
        """The first of them, as many as divide an axis of this size."""
        there = self._there(axis)
        while there and size % math.prod(self.mesh_shape[each] for each in there):
            there = there[:-1]
        return there


def named_leaves(tree) -> Iterator[tuple[str, jax.Array]]:
    """Every leaf with its path: 'opt_state/0/mu/head/kernel'."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield path_name(path), leaf


def path_name(path) -> str:
    """A path of JAX's as one name."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def _rule(name: str, ndim: int) -> tuple[tuple[str, ...], ...]:
    """The row of the table for an array of so many axes; of nothing if there is none."""
    for pattern, axes in RULES:
        if len(axes) == ndim and re.search(rf'(^|/){pattern}$', name):
            return axes
    return ((),) * ndim


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
      params: of one seed, inside a program of `mesh.vmap_seeds`.
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


def regather_in_backward(loss: Callable, partition: Partition) -> Callable:
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
