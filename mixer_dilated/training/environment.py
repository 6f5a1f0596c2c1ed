"""What computes: versions and devices."""

import importlib.metadata
import platform

import jax

import mixer_dilated

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def versions() -> dict[str, str]:
    """Versions of everything that the bits of a result, or the form of a checkpoint, depend on."""
    return {
        'mixer_dilated': mixer_dilated.__version__,
        **{package: importlib.metadata.version(package) for package in PACKAGES},
    }


def environment() -> dict:
    """'versions' of what computes, and the 'device' it computes on."""
    return {
        'versions': {'python': platform.python_version(), **versions()},
        'device': {
            'platform': jax.default_backend(),
            'kind': jax.devices()[0].device_kind,
            'count': jax.device_count(),
        },
    }
