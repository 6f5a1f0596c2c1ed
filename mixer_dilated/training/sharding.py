"""How state and data lie on the devices: one mesh, named axes, no code that counts devices."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixer_dilated.errors import InputError


def make_mesh() -> Mesh:
    """All devices along the axis 'data'; a single device is the mesh of size 1."""
    try:
        return Mesh(np.array(jax.devices()), ('data',))
    except RuntimeError as error:
        cause = ' '.join(str(error).split())
        raise InputError(f'JAX finds no device: {cause}; look at JAX_PLATFORMS') from None


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device whole: the state, and a data set that fits."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split over the devices along the first axis: a batch."""
    return NamedSharding(mesh, PartitionSpec('data'))


def check_batch(batch: int, mesh: Mesh) -> None:
    """Raises InputError if the devices along 'data' do not divide `config.batch`."""
    devices = mesh.shape['data']
    if batch % devices:
        down = batch // devices * devices
        near = ' or '.join(str(size) for size in (down, down + devices) if size)
        raise InputError(
            f'config.batch = {batch}: {devices} devices do not divide it; allowed are '
            f'multiples of {devices}, like {near}'
        )
