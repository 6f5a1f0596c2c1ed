"""How seeds, batches and data lie on the devices: one mesh with named axes.

The mesh has an axis 'seeds', over which the seeds of a run are dealt out, an axis 'data', over
which each seed's batch is split, and an axis 'model', over which each MLP of a seed's network is
(`partition_rules`). One device is the mesh of size 1×1×1.
"""

import math
import zlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixer_dilated.config import changed
from mixer_dilated.errors import UserError

AXES = ('seeds', 'data', 'model')


def make_mesh(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh of `config.mesh`; neighbours along 'model' are the nearest to each other.

    Args:
      config: a resolved config.
      devices: all there are if None.

    Raises:
      UserError: no device, or a mesh that does not fit (see `mesh_sizes`).
    """
    devices = list(all_devices() if devices is None else devices)
    sizes = mesh_sizes(config, len(devices))
    laid_out = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(laid_out, AXES)


def all_devices() -> list[jax.Device]:
    """All there are. Raises UserError if JAX finds none."""
    try:
        return jax.devices()
    except RuntimeError as error:
        cause = ' '.join(str(error).split())
        raise UserError(f'JAX finds no device: {cause}; look at JAX_PLATFORMS') from None


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


def put_on_mesh(tree, sharding: NamedSharding):
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


def process_local_indices(
    sharding: NamedSharding, shape: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
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


def make_global_array(
    array: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...]
) -> jax.Array:
    """The array of which every process has its `process_local_indices`.

    Args:
      array: that part, on the host.
      sharding: of the whole.
      shape: of the first axes of the whole; the others are those of the part.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    own = process_local_indices(sharding, shape)

    def piece(index):
        inside = [
            slice(*np.searchsorted(numbers, axis.indices(size)[:2]))
            for axis, size, numbers in zip(index, shape, own, strict=False)
        ]
        return array[tuple(inside)]

    whole = (*shape, *array.shape[len(shape) :])
    return jax.make_array_from_callback(whole, sharding, piece)


def shard_batch(array: jax.Array, axis: int = 0) -> jax.Array:
    """Splits an array of one seed's program over that seed's devices, along the batch axis.

    The mesh is that of `vmap_seeds`; without one the array stays as it is.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*[None] * axis, 'data'))


def vmap_seeds(function: Callable, mesh: Mesh) -> Callable:
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
    """Raises UserError if the devices along 'data', times the parts that are computed one after
    the other, do not divide `config.batch`."""
    devices = mesh.shape['data']
    shares = devices * accum_steps
    if batch % shares:
        down = batch // shares * shares
        near = ' or '.join(str(size) for size in (down, down + shares) if size)
        parts = f', times config.accum_steps = {accum_steps},' if accum_steps > 1 else ''
        raise UserError(
            f'config.batch = {batch}: {devices} devices{parts} do not divide it; allowed are '
            f'multiples of {shares}, like {near}'
        )


def without_mesh(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """`config` with the sizes of `config.mesh` left to the devices."""
    return changed(config, {'mesh.seed': 0, 'mesh.data': 0, 'mesh.model': 1})


def fitting_mesh(config: ml_collections.ConfigDict, devices: int) -> ml_collections.ConfigDict:
    """`config` of a run that other devices may have trained: its mesh is kept if it fits here.

    Args:
      config: a resolved config.
      devices: how many there are.
    """
    try:
        mesh_sizes(config, devices)
    except UserError:
        return without_mesh(config)
    return config


def mesh_sizes(config: ml_collections.ConfigDict, devices: int) -> tuple[int, int, int]:
    """Devices along the axes 'seeds', 'data' and 'model'; all devices are used.

    Where `config.mesh` leaves it open (0), as many devices as divide the seeds are for them, and
    the rest splits batches.

    Args:
      config: a resolved config.
      devices: how many there are.

    Raises:
      UserError: the sizes do not fit the devices, the seeds or the widths of the network.
    """
    seed, data, model = (config.mesh[name] for name in ('seed', 'data', 'model'))
    _check_model(config, devices)
    rest = devices // model
    if seed:
        _check_seed(config, rest)
    fits = [rest // count for count in ([seed] if seed else _divisors(rest, config.num_seeds))]
    if data and data not in fits:
        raise UserError(
            f'config.mesh.data = {data}: does not fit {_counted(devices)} with '
            f'config.num_seeds = {config.num_seeds}, config.mesh.seed = {seed} and '
            f'config.mesh.model = {model}; allowed are {_listed(fits)}, or 0 for what is left'
        )
    seed = seed or (rest // data if data else math.gcd(config.num_seeds, rest))
    return seed, rest // seed, model


def _check_model(config: ml_collections.ConfigDict, devices: int) -> None:
    model = config.mesh.model
    widths = {key: config.model[key] for key in ('tokens_mlp_dim', 'channels_mlp_dim')}
    fits = _listed(_divisors(devices, *widths.values()))
    if devices % model:
        raise UserError(
            f'config.mesh.model = {model}: does not divide the {_counted(devices)}; allowed are '
            f'{fits}'
        )
    for key, width in widths.items():
        if width % model:
            raise UserError(
                f'config.mesh.model = {model}: does not divide config.model.{key} = {width}; '
                f'allowed are {fits}'
            )


def _check_seed(config: ml_collections.ConfigDict, rest: int) -> None:
    """`rest` devices are not taken by 'model'."""
    seed, fits = config.mesh.seed, _divisors(config.num_seeds, rest)
    if seed in fits:
        return
    what = (
        f'config.num_seeds = {config.num_seeds}'
        if config.num_seeds % seed
        else f'the {_counted(rest)} that config.mesh.model = {config.mesh.model} leaves'
    )
    raise UserError(
        f'config.mesh.seed = {seed}: does not divide {what}; allowed are {_listed(fits)}, or 0 for '
        'as many as fit'
    )


def _divisors(*numbers: int) -> list[int]:
    """Of all the numbers, ascending."""
    common = math.gcd(*numbers)
    return [each for each in range(1, common + 1) if common % each == 0]


def _listed(numbers: list[int]) -> str:
    return ', '.join(map(str, sorted(numbers)))


def _counted(devices: int) -> str:
    return '1 device' if devices == 1 else f'{devices} devices'


def seed_keys(seed: int, num_seeds: int) -> jax.Array:
    """The keys of the seeds `seed`, `seed` + 1, … of a run: an array of keys (num_seeds,)."""
    return jax.vmap(jax.random.key)(jnp.uint32(seed) + jnp.arange(num_seeds, dtype=jnp.uint32))


def purpose_key(seed_key: jax.Array, purpose: str, index: int | jax.Array = 0) -> jax.Array:
    """The key of one purpose ('permutation', 'dropout', …) at one epoch or step.

    Args:
      seed_key: the key of one seed, one of `seed_keys`.
      purpose: what the numbers are for; two purposes never share numbers.
      index: epoch or step.
    """
    key = jax.random.fold_in(seed_key, zlib.crc32(purpose.encode()))
    return jax.random.fold_in(key, index)


def split_microbatches(batch, accum_steps: int):
    """A tree of arrays (batch, …) as one of (parts, batch / parts, …).

    Part i has the examples i, i + parts, i + 2 · parts, …: of a batch that is split over devices
    each has its share of every part, and nothing moves.

    Args:
      batch: arrays of one seed, their first axis the batch.
      accum_steps: parts; they divide the batch.
    """

    def parts(array):
        rows = array.reshape(-1, accum_steps, *array.shape[1:])
        return shard_batch(rows.swapaxes(0, 1), axis=1)

    return jax.tree.map(parts, batch)
