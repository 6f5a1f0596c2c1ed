"""Buckets on this machine, in memory: of Google by gcp-storage-emulator, of Amazon by moto."""

import contextlib
import socket
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus

import pytest


def serve(store: str, bucket: str):
    """Serves an empty bucket of 'gs' or 's3'.

    A context of the environment variables that lead a process to it.
    """
    return {'gs': _serve_google, 's3': _serve_amazon}[store](bucket)


@contextlib.contextmanager
def _serve_amazon(bucket: str) -> Iterator[dict[str, str]]:
    moto = pytest.importorskip('moto.server', reason='no emulator of S3 is installed')
    server = moto.ThreadedMotoServer('localhost', 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with urllib.request.urlopen(
            urllib.request.Request(f'http://{host}:{port}/{bucket}', method='PUT')
        ):
            pass
        yield {
            'AWS_ENDPOINT_URL': f'http://{host}:{port}',
            'AWS_DEFAULT_REGION': 'us-east-1',
            'AWS_ACCESS_KEY_ID': 'key',
            'AWS_SECRET_ACCESS_KEY': 'secret',
        }
    finally:
        server.stop()


@contextlib.contextmanager
def _serve_google(bucket: str) -> Iterator[dict[str, str]]:
    server = pytest.importorskip('gcp_storage_emulator.server', reason='no emulator is installed')
    from gcp_storage_emulator.handlers import objects

    for _, methods in server.HANDLERS:
        for method, handler in methods.items():
            methods[method] = {objects.get: _get, objects.download: _download}.get(handler, handler)
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    with server.create_server('localhost', port, in_memory=True, default_bucket=bucket):
        address = f'http://localhost:{port}'
        yield {
            'STORAGE_EMULATOR_HOST': address,  # for gcsfs, and the google-cloud-storage of orbax
            'TENSORSTORE_GCS_HTTP_URL': address,  # for the storage of its arrays
            'GOOGLE_CLOUD_PROJECT': 'project',
        }


def _get(request, response, storage, *args, **kwargs):
    from gcp_storage_emulator.handlers import objects

    handler = _download if request.query.get('alt') == ['media'] else objects.get
    handler(request, response, storage, *args, **kwargs)


def _download(request, response, storage, *args, **kwargs):
    """The emulator's, with an object's generation, without which TensorStore reads nothing."""
    from gcp_storage_emulator.handlers import objects

    objects.download(request, response, storage, *args, **kwargs)
    if response.status == HTTPStatus.NOT_FOUND:
        return
    name = request.params['bucket_name'], request.params['object_id']
    generation = storage.get_file_obj(*name)['generation']
    response['x-goog-generation'] = generation
    if request.query.get('ifGenerationNotMatch') == [generation]:
        response.status = HTTPStatus.NOT_MODIFIED
        response.write_file(b'')
