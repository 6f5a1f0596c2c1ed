"""The packages that reach buckets ('gs://…', 's3://…') for etils and orbax, and their errors."""

import functools
import importlib.metadata
import importlib.util
import os

from mixer_dilated.errors import UserError

CLIENTS = {'gs': 'gcsfs', 's3': 's3fs'}
# Packages that raise errors of their own: the clients, and what they call.
_PACKAGES = (*CLIENTS.values(), 'google.auth', 'google.api_core', 'google.cloud', 'aiohttp')
_PACKAGES += 'aiobotocore', 'botocore'
# A storage that does not answer is an error within a minute: s3fs tries five times itself.
_S3_RETRIES = {'connect_timeout': 5, 'read_timeout': 8, 'retries': {'max_attempts': 0}}
_TENSORSTORE_RETRIES = {'max_retries': 5, 'initial_delay': '500ms', 'max_delay': '4s'}


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
    settings = fsspec.config.conf.setdefault(scheme, {})
    # Another process, and orbax past the client, write what a remembered listing does not have.
    settings.setdefault('use_listings_cache', False)
    if scheme == 's3':
        settings.setdefault('config_kwargs', _S3_RETRIES)


def let_orbax_reach(path: str) -> None:
    """Lets orbax keep checkpoints in 's3://…'; raises UserError if this version cannot."""
    if _is_s3(path) and not _teach_s3():
        orbax = f'orbax-checkpoint {importlib.metadata.version("orbax-checkpoint")}'
        hint = 'name a local folder, and copy it there afterwards'
        raise UserError(f'{path}: {orbax} keeps no checkpoints in S3; {hint}')


@functools.cache
def _teach_s3() -> bool:
    """Replaces what keeps orbax (0.12.8, google/orbax#2739) from S3; whether it then gets there.

    etils and TensorStore have S3. Of orbax only these functions know 'gs://' and local paths alone:
    what they do for the former is right for S3 too.
    """
    try:
        from orbax.checkpoint._src.path import gcs_utils
        from orbax.checkpoint._src.serialization import tensorstore_utils

        is_of_gcs, spec_of_gcs = gcs_utils.is_gcs_path, gcs_utils.get_kvstore_for_gcs
        normalise = tensorstore_utils._normalize_path
        gcs_utils.is_gcs_path = lambda path: is_of_gcs(path) or _is_s3(path)
        gcs_utils.get_kvstore_for_gcs = lambda path: (
            _s3_spec(path) if _is_s3(path) else spec_of_gcs(path)
        )
        tensorstore_utils._use_gcs_driver = lambda path: path.startswith(('gs://', 's3://'))
        tensorstore_utils._normalize_path = lambda path: normalise(path).replace('s3:/', 's3://')
        spec = tensorstore_utils.build_kvstore_tspec('s3://bucket/folder')
        return spec['base']['driver'] == 's3'
    except (ImportError, AttributeError, KeyError, TypeError, ValueError):
        return False


def _is_s3(path) -> bool:
    return os.fspath(path).startswith('s3://')


def _s3_spec(path: str) -> dict:
    """TensorStore's spec of a path in S3, by the variables that s3fs goes by."""
    bucket, _, name = path.removeprefix('s3://').partition('/')
    spec = {'driver': 's3', 'bucket': bucket, 'path': name}
    spec['s3_request_retries'] = _TENSORSTORE_RETRIES
    if 'AWS_ACCESS_KEY_ID' in os.environ:  # else its log complains of files that are not there
        spec['aws_credentials'] = {'type': 'environment'}
    endpoint = os.environ.get('AWS_ENDPOINT_URL_S3') or os.environ.get('AWS_ENDPOINT_URL')
    if endpoint:
        spec['endpoint'] = endpoint
        spec['aws_region'] = os.environ.get('AWS_DEFAULT_REGION', 'us-east-1')
    return spec


def is_client_error(error: BaseException) -> bool:
    """Whether a client raised it: the bucket refuses, or cannot be reached."""
    return type(error).__module__.startswith(_PACKAGES)
