"""How seeds, batches and data lie on the devices: one mesh with named axes.

The axis 'seeds' shares out the seeds of a run, 'data' the batch of each seed, and 'model' the MLPs
of a seed's network (`partition.RULES`). One device is the mesh of size 1×1×1.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from mixer_dilated.config import changed
from mixer_dilated.errors import UserError
from mixer_dilated.parallel.multihost import all_devices, process_count

AXES = ('seeds', 'data', 'model')


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `config.mesh`, on all devices if None are given; neighbours along 'model' are the
    nearest to each other. Raises UserError: no device, or a mesh that does not fit them.
    """
    devices = list(all_devices() if devices is None else devices)
    sizes = mesh_sizes(config, len(devices))
    array = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(array, AXES)


def mesh_sizes(config: ConfigDict, devices: int) -> tuple[int, int, int]:
    """Devices along the axes 'seeds', 'data' and 'model'; all of a number of devices are used.

    Where a size of `config.mesh` is 0, as many devices as divide the seeds share them out, and the
    rest splits batches. Raises UserError: the sizes do not fit the devices, the seeds or the widths
    of the network.
    """
    seed, data, model = (config.mesh[name] for name in ('seed', 'data', 'model'))

    def refuse(axis: str, problem: str, allowed: list[int], automatic: str = '') -> NoReturn:
        sizes = f'{", ".join(map(str, sorted(allowed)))}{automatic}'
        value = config.mesh[axis]
        raise UserError(f'config.mesh.{axis} = {value}: does not {problem}; allowed are {sizes}')

    divided = {f'the {_count(devices)}': devices}
    for key in ('tokens_mlp_dim', 'channels_mlp_dim'):
        divided[f'config.model.{key} = {config.model[key]}'] = config.model[key]
    for name, number in divided.items():
        if number % model:
            refuse('model', f'divide {name}', _divisors(*divided.values()))
    rest = devices // model
    if seed and (rest % seed or config.num_seeds % seed):
        name = f'the {_count(rest)} that config.mesh.model = {model} leaves'
        if config.num_seeds % seed:
            name = f'config.num_seeds = {config.num_seeds}'
        divisors = _divisors(config.num_seeds, rest)
        refuse('seed', f'divide {name}', divisors, ', or 0 for as many as fit')
    fitting = [rest // count for count in ([seed] if seed else _divisors(rest, config.num_seeds))]
    if data and data not in fitting:
        others = f'config.num_seeds = {config.num_seeds}, config.mesh.seed = {seed}'
        problem = f'fit {_count(devices)} with {others} and config.mesh.model = {model}'
        refuse('data', problem, fitting, ', or 0 for what is left')
    seed = seed or (rest // data if data else math.gcd(config.num_seeds, rest))
    return seed, rest // seed, model


def _divisors(*numbers: int) -> list[int]:
    common = math.gcd(*numbers)
    return [divisor for divisor in range(1, common + 1) if common % divisor == 0]


def _count(devices: int) -> str:
    return '1 device' if devices == 1 else f'{devices} devices'


def fit_mesh(config: ConfigDict, devices: int) -> ConfigDict:
    """`config` of a run that other devices may have trained: its mesh is kept if it fits here, else
    left to the devices.
    """
    try:
        mesh_sizes(config, devices)
    except UserError:
        return changed(config, {'mesh.seed': 0, 'mesh.data': 0, 'mesh.model': 1})
    return config


def check_batch(batch: int, mesh: Mesh, accum_steps: int = 1) -> None:
    """Raises UserError unless devices along 'data' times microbatches divide `config.batch`."""
    parts = mesh.shape['data'] * accum_steps
    if batch % parts:
        below = batch // parts * parts
        near = ' or '.join(str(size) for size in (below, below + parts) if size)
        times = f', times config.accum_steps = {accum_steps},' if accum_steps > 1 else ''
        raise UserError(
            f'config.batch = {batch}: {mesh.shape["data"]} devices{times} do not divide it; '
            f'allowed are multiples of {parts}, like {near}'
        )


def fit_devices(config: ConfigDict) -> list[jax.Device]:
    """The devices for a run that others began: as many as its batch can be split over.

    Warns if some are left out. Several hosts use all devices, or `check_batch` refuses them.
    """
    devices = all_devices()
    if process_count() > 1:
        return devices

    def fits(count: int) -> bool:
        try:
            _, data, _ = mesh_sizes(config, count)
        except UserError:  # `config.mesh` is for another number
            return False
        return config.batch % (data * config.accum_steps) == 0

    # Where none fits, all are refused later.
    fitting = next(filter(fits, range(len(devices), 0, -1)), len(devices))
    if fitting < len(devices):
        problem = f'{len(devices)} devices do not divide it, or do not fit config.mesh'
        text = f'config.batch = {config.batch}: {problem}; resumes with {fitting} of them'
        warnings.warn(text, stacklevel=2)
    return devices[:fitting]


def on_cpu(mesh: Mesh) -> bool:
    """Whether the devices are CPUs.

    Then `create_model` returns `CpuMlpMixer`, `vmap_seeds` runs seeds in sequence, a step that is
    not finite is always skipped, and small networks are initialised without optimisation by XLA.
    `extract_patches` and RandAugment choose with `jax.lax.platform_dependent`.
    """
    return mesh.devices.flat[0].platform == 'cpu'


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device: a data set that fits."""
    return NamedSharding(mesh, PartitionSpec())


def seeds_sharding(mesh: Mesh, *axes: str) -> NamedSharding:
    """Of arrays (seeds, …): the state of a run; further axes over those named of the mesh."""
    return NamedSharding(mesh, PartitionSpec('seeds', *axes))


def put_on_mesh(tree, sharding: NamedSharding):
    """Puts arrays, of which every host has the whole, on the devices."""
    return jax.tree.map(lambda array: make_global_array(array, sharding, array.shape), tree)


def process_local_indices(
    sharding: NamedSharding, shape: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """Indices along each axis, rising, of the part of an array that this host's devices hold.

    They need not be neighbours: a host of a TPU slice has a square of its chips. `shape` is of as
    many axes as the sharding names, or more.
    """
    slices = sharding.addressable_devices_indices_map(shape).values()
    return tuple(
        np.unique(np.concatenate([np.arange(size)[index[axis]] for index in slices]))
        for axis, size in enumerate(shape)
    )


def make_global_array(
    local: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...]
) -> jax.Array:
    """The array of which every host has the part of `process_local_indices`, or the whole.

    `shape` is that of the first axes of the whole; the others are those of the part.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(local, sharding)
    whole_shape = (*shape, *local.shape[len(shape) :])
    return jax.make_array_from_process_local_data(sharding, local, whole_shape)


def shard_batch(array: jax.Array, axis: int = 0) -> jax.Array:
    """Shards an array of one seed's program over that seed's devices, along the batch axis.

    The mesh is that of `vmap_seeds`; without one the array stays as it is.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*[None] * axis, 'data'))


def split_microbatches(batch, count: int):
    """A tree of arrays (batch, …) as one of (count, batch / count, …).

    Microbatch i has the examples i, i + count, …: each device has its share of every microbatch,
    and nothing moves.
    """

    def split(array):
        rows = array.reshape(-1, count, *array.shape[1:])
        return shard_batch(rows.swapaxes(0, 1), axis=1)

    return jax.tree.map(split, batch)


def vmap_seeds(function: Callable, mesh: Mesh) -> Callable:
    """`function(*own, shared)` for every seed: arguments and results gain an axis of seeds.

    The seeds of one device are vmapped on accelerators, but for a single one. On CPUs they are
    computed one after the other, which is as fast there and runs the very program that a seed has
    alone.

    `function` takes trees that every seed has its own of, and last a tree that all seeds share; the
    result is to be jitted.
    """

    def seeds_of_device(*arguments):
        *own, shared = arguments

        def one_seed(own):
            return function(*own, shared)

        if on_cpu(mesh):
            return jax.lax.map(one_seed, own)
        if len(jax.tree.leaves(own)[0]) == 1:  # vmap turns a condition into two branches
            result = one_seed(jax.tree.map(lambda leaf: leaf[0], own))
            return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), result)
        return jax.vmap(one_seed)(own)

    def all_seeds(*arguments):
        return jax.shard_map(
            seeds_of_device,
            mesh=mesh,
            in_specs=(*[PartitionSpec('seeds')] * (len(arguments) - 1), PartitionSpec()),
            out_specs=PartitionSpec('seeds'),
            axis_names={'seeds'},
            check_vma=False,
        )(*arguments)

    return all_seeds
