"""The packages that reach buckets ('gs://…', 's3://…') for etils and orbax, and their errors."""

import functools
import importlib.util
import os

from mixer_dilated.errors import UserError

CLIENTS = {'gs': 'gcsfs', 's3': 's3fs'}
# Packages that raise errors of their own: the clients, and what they call.
_PACKAGES = (*CLIENTS.values(), 'google', 'aiohttp', 'aiobotocore', 'botocore')


@functools.cache
def prepare_client(scheme: str) -> None:
    """Sets up the client of a kind of bucket; raises UserError if it is not installed."""
    if scheme not in CLIENTS:
        raise UserError(f'{scheme}:// is not known; allowed are gs://…, s3://… or a local path')
    client = CLIENTS[scheme]
    if not importlib.util.find_spec(client):
        raise UserError(f'{scheme}:// needs a client, which is not installed: pip install {client}')
    import fsspec

    # etils would take TensorFlow, where it is installed, instead.
    os.environ.setdefault('EPATH_USE_TF', 'false')
    # Another process, and orbax past the client, write what a remembered listing does not have.
    fsspec.config.conf.setdefault(scheme, {}).setdefault('use_listings_cache', False)


def is_client_error(error: BaseException) -> bool:
    """Whether a client raised it: the bucket refuses, or cannot be reached."""
    return type(error).__module__.partition('.')[0] in _PACKAGES
