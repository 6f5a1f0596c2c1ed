"""How seeds, batches and data lie on the devices: one mesh with named axes.

The mesh has an axis 'seeds', over which the seeds of a run are dealt out, an axis 'data', over
which each seed's batch is split, and an axis 'model', over which each MLP of a seed's network is
(`partition_rules`). One device is the mesh of size 1×1×1.
"""

from collections.abc import Callable, Sequence

import jax
import ml_collections
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixer_dilated.errors import InputError
from mixer_dilated.training.mesh_sizes import mesh_sizes

AXES = ('seeds', 'data', 'model')


def make_mesh(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh of `config.mesh`; neighbours along 'model' are the nearest to each other.

    Args:
      config: a resolved config.
      devices: all there are if None.

    Raises:
      InputError: no device, or a mesh that does not fit (see `mesh_sizes`).
    """
    devices = list(all_devices() if devices is None else devices)
    sizes = mesh_sizes(config, len(devices))
    laid_out = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(laid_out, AXES)


def all_devices() -> list[jax.Device]:
    """All there are. Raises InputError if JAX finds none."""
    try:
        return jax.devices()
    except RuntimeError as error:
        cause = ' '.join(str(error).split())
        raise InputError(f'JAX finds no device: {cause}; look at JAX_PLATFORMS') from None


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device whole: a data set that fits."""
    return NamedSharding(mesh, PartitionSpec())


def seeds_sharding(mesh: Mesh) -> NamedSharding:
    """Dealt out along the first axis, seed by seed: the state of a run."""
    return NamedSharding(mesh, PartitionSpec('seeds'))


def batches_sharding(mesh: Mesh) -> NamedSharding:
    """Dealt out by seed, and each seed's split over its devices: a batch (seeds, batch, …)."""
    return NamedSharding(mesh, PartitionSpec('seeds', 'data'))


def shared_batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split over the devices of each seed: a batch (batch, …) that all seeds see."""
    return NamedSharding(mesh, PartitionSpec('data'))


def placed(tree, sharding: NamedSharding):
    """Puts arrays, of which every process has the whole, on the devices.

    Args:
      tree: of arrays on the host.
      sharding: of each of them.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place(array):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(place, tree)


def own_part(sharding: NamedSharding, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Which part of an array the devices of this process hold: numbers along each axis, rising.

    They need not be neighbours: a host of a TPU slice has a square of its chips.

    Args:
      sharding: of the array.
      shape: of as many of its axes as the sharding names, or more.
    """
    pieces = sharding.addressable_devices_indices_map(shape).values()
    return tuple(
        np.unique(np.concatenate([np.arange(size)[each[axis]] for each in pieces]))
        for axis, size in enumerate(shape)
    )


def from_own_part(array: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...]) -> jax.Array:
    """The array of which every process has its `own_part`.

    Args:
      array: that part, on the host.
      sharding: of the whole.
      shape: of the first axes of the whole; the others are those of the part.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    own = own_part(sharding, shape)

    def piece(index):
        inside = [
            slice(*np.searchsorted(numbers, axis.indices(size)[:2]))
            for axis, size, numbers in zip(index, shape, own, strict=False)
        ]
        return array[tuple(inside)]

    whole = (*shape, *array.shape[len(shape) :])
    return jax.make_array_from_callback(whole, sharding, piece)


def split_batch(array: jax.Array, axis: int = 0) -> jax.Array:
    """Splits an array of one seed's program over that seed's devices, along the batch axis.

    The mesh is that of `over_seeds`; without one the array stays as it is.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*[None] * axis, 'data'))


def over_seeds(function: Callable, mesh: Mesh) -> Callable:
    """`function(*of_seed, shared)` for every seed: arguments and results gain an axis of seeds.

    The seeds of one device are computed at once (`vmap`) on accelerators. On CPUs they take turns
    inside the program, which is as fast there and runs the very program that a seed has alone.

    Args:
      function: of trees that every seed has its own of, and last of a tree that all seeds share.
      mesh: the devices.

    Returns:
      A function to be jitted, of the same arguments, each but the last with an axis of seeds first.
    """

    def on_device(*arguments):
        *of_seeds, shared = arguments

        def of_one(of_seed):
            return function(*of_seed, shared)

        return jax.lax.map(of_one, of_seeds) if on_cpu(mesh) else jax.vmap(of_one)(of_seeds)

    def of_all(*arguments):
        dealt_out = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(*[PartitionSpec('seeds')] * (len(arguments) - 1), PartitionSpec()),
            out_specs=PartitionSpec('seeds'),
            axis_names={'seeds'},
            check_vma=False,
        )
        return dealt_out(*arguments)

    return of_all


def on_cpu(mesh: Mesh) -> bool:
    """Whether the devices are CPUs."""
    return mesh.devices.flat[0].platform == 'cpu'


def check_batch(batch: int, mesh: Mesh, accum_steps: int = 1) -> None:
    """Raises InputError if the devices along 'data', times the parts that are computed one after
    the other, do not divide `config.batch`."""
    devices = mesh.shape['data']
    shares = devices * accum_steps
    if batch % shares:
        down = batch // shares * shares
        near = ' or '.join(str(size) for size in (down, down + shares) if size)
        parts = f', times config.accum_steps = {accum_steps},' if accum_steps > 1 else ''
        raise InputError(
            f'config.batch = {batch}: {devices} devices{parts} do not divide it; allowed are '
            f'multiples of {shares}, like {near}'
        )
