"""A bucket of Google Cloud Storage on this machine, in memory, by gcp-storage-emulator."""

import contextlib
import socket
from collections.abc import Iterator
from http import HTTPStatus

from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import objects


@contextlib.contextmanager
def serve(bucket: str) -> Iterator[dict[str, str]]:
    """Serves an empty bucket; yields the environment variables that lead a process to it."""
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
    handler = _download if request.query.get('alt') == ['media'] else objects.get
    handler(request, response, storage, *args, **kwargs)


def _download(request, response, storage, *args, **kwargs):
    """The emulator's, with an object's generation, without which TensorStore reads nothing."""
    objects.download(request, response, storage, *args, **kwargs)
    if response.status == HTTPStatus.NOT_FOUND:
        return
    name = request.params['bucket_name'], request.params['object_id']
    generation = storage.get_file_obj(*name)['generation']
    response['x-goog-generation'] = generation
    if request.query.get('ifGenerationNotMatch') == [generation]:
        response.status = HTTPStatus.NOT_MODIFIED
        response.write_file(b'')
