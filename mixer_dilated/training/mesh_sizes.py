"""`config.mesh` against the devices that are there: `mesh_sizes`, `fitting_mesh`."""

import math

import ml_collections

from mixer_dilated.config import changed
from mixer_dilated.errors import InputError


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
    except InputError:
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
      InputError: the sizes do not fit the devices, the seeds or the widths of the network.
    """
    seed, data, model = (config.mesh[name] for name in ('seed', 'data', 'model'))
    _check_model(config, devices)
    rest = devices // model
    if seed:
        _check_seed(config, rest)
    fits = [rest // count for count in ([seed] if seed else _divisors(rest, config.num_seeds))]
    if data and data not in fits:
        raise InputError(
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
        raise InputError(
            f'config.mesh.model = {model}: does not divide the {_counted(devices)}; allowed are '
            f'{fits}'
        )
    for key, width in widths.items():
        if width % model:
            raise InputError(
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
    raise InputError(
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
