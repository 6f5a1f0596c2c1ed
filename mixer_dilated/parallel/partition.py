"""Partition rules: which mesh axes split which axis of a parameter, and FSDP."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

# By the end of a parameter's path: for each of its axes, the axes of the mesh that may split it.
# 'model' splits both layers of an MLP by its hidden width, so that only their sum is exchanged.
# 'data' takes part with `config.mesh.fsdp` alone. What no rule names is small and stays
# whole: a new layer that is large needs a rule.
RULES = (
    (r'(token|channel)_mixing/Dense_0/kernel', ((), ('model', 'data'))),
    (r'(token|channel)_mixing/Dense_0/bias', (('model',),)),
    (r'(token|channel)_mixing/Dense_1/kernel', (('model', 'data'), ())),
    (r'stem(_\d+)?/kernel(_\d+)?', ((), (), (), ('data',))),
    (r'head/kernel', (('data',), ())),
)


@dataclasses.dataclass(frozen=True)
class Partition:
    """The rules for one mesh.

    Attributes:
      mesh_shape: devices along each axis of the mesh, by its name.
      fsdp: whether 'data' splits parameters and optimizer state.
    """

    mesh_shape: Mapping[str, int]
    fsdp: bool = False

    def spec(self, name: str, shape: tuple[int, ...]) -> PartitionSpec:
        """The mesh axes of each axis of an array of one seed; those that do not divide it left out.

        `name` is the path of a parameter, joined by '/', or of optimizer state, which ends in it.
        """
        spec = [
            self._fitting_axes(axes, size)
            for axes, size in zip(_rule(name, len(shape)), shape, strict=True)
        ]
        # As JAX writes it: no tuple of one, nothing behind the last axis that is split.
        spec = [axes if len(axes) > 1 else axes[0] if axes else None for axes in spec]
        while spec and spec[-1] is None:
            spec.pop()
        return PartitionSpec(*spec)

    def unsharded_params(self, params) -> list[str]:
        """Names of the parameters (seeds, …) that a rule splits, but the mesh does not divide."""
        return [
            name
            for name, leaf in named_leaves(params)
            for axes, size in zip(_rule(name, leaf.ndim - 1), leaf.shape[1:], strict=True)
            if self._fitting_axes(axes, size) != self._used_axes(axes)
        ]

    def _used_axes(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """The mesh axes of a rule that split anything in this mesh."""
        used = ('model', 'data') if self.fsdp else ('model',)
        return tuple(axis for axis in axes if axis in used and self.mesh_shape[axis] > 1)

    def _fitting_axes(self, axes: tuple[str, ...], size: int) -> tuple[str, ...]:
        """The first mesh axes of a rule, as many as divide an axis of this size."""
        axes = self._used_axes(axes)
        while axes and size % math.prod(self.mesh_shape[axis] for axis in axes):
            axes = axes[:-1]
        return axes


def _rule(name: str, ndim: int) -> tuple[tuple[str, ...], ...]:
    for pattern, axes in RULES:
        if len(axes) == ndim and re.search(rf'(^|/){pattern}$', name):
            return axes
    return ((),) * ndim


def compiler_options(platform: str, fsdp: bool) -> dict[str, str]:
    """Options of XLA for the functions of a run.

    A TPU's compiler multiplies by gathered parameters in rounds, each of which sends a part on
    ("windowed einsum"); on 64 devices it gathers them by one sum that nothing is computed beside,
    and on a v6e computes nothing beside gathers. Gathers beside other products are better: on 16
    v5e a step of L/16 takes 0.60 of the cycles and 0.55 of the temporaries.
    """
    if platform != 'tpu' or not fsdp:
        return {}
    flags = 'enable_async_collective_fusion', 'enable_async_collective_fusion_fuse_all_gather'
    flags += 'enable_async_collective_fusion_multiple_steps', 'prefer_async_allgather_to_allreduce'
    return {
        'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000',
        'xla_enable_async_all_gather': 'true',
        **{f'xla_tpu_{flag}': 'true' for flag in flags},
    }


def named_leaves(tree) -> Iterator[tuple[str, jax.Array]]:
    """Every leaf with its path: 'opt_state/0/mu/head/kernel'."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator='/'), leaf


def state_shardings(abstract, mesh: Mesh, partition: Partition):
    """A tree of shardings, like `abstract`: shapes of a state with an axis of seeds first."""
    specs = (partition.spec(name, leaf.shape[1:]) for name, leaf in named_leaves(abstract))
    shardings = [NamedSharding(mesh, PartitionSpec('seeds', *spec)) for spec in specs]
    return jax.tree.unflatten(jax.tree.structure(abstract), shardings)


def split_hidden_layer(hidden: Float[Array, '...'], axis: int) -> Float[Array, '...']:
    """Splits the hidden layer of an MLP, along its axis of units, over the mesh axis 'model'.

    Each device computes a part of the first linear map's outputs, which are a part of the second
    one's inputs: the sum over devices is all that they exchange.
    """
    if _mesh_size('model') == 1:
        return hidden
    spec = [PartitionSpec.UNCONSTRAINED] * hidden.ndim
    spec[axis] = 'model'
    return jax.lax.with_sharding_constraint(hidden, PartitionSpec(*spec))


def batch_is_split() -> bool:
    """Whether each device has a part of the batch, which a merged axis would make it gather."""
    return _mesh_size('data') > 1


def _mesh_size(axis: str) -> int:
    return dict(jax.sharding.get_abstract_mesh().shape).get(axis, 1)
