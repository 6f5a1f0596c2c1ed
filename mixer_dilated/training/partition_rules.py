"""Which axes of the mesh split which axis of a parameter: one table, by the parameter's name."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import jax
from jax.sharding import PartitionSpec

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
