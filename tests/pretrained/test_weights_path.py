"""Weights that are named by an address are downloaded once, or refused in one line."""

import functools
import http.server
import threading

import numpy as np
import pytest

from mixer_dilated.config import resolve
from mixer_dilated.pretrained import weights_path as module
from mixer_dilated.pretrained.weight_files import Weights, encode, read_weights
from mixer_dilated.pretrained.weights_path import weights_path
from tests.conftest import refuses

ARRAYS = {'head/bias': np.arange(3, dtype=np.float32)}


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path != '/short.npz':
            return super().do_GET()
        self.send_response(200)
        self.send_header('Content-Length', '999')
        self.end_headers()
        self.wfile.write(b'PK less than it says')

    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """(address, folder) of a web server on this machine."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    (folder := tmp_path / 'site').mkdir()
    for suffix in ('.npz', '.safetensors'):
        (folder / f'a{suffix}').write_bytes(encode(Weights(ARRAYS), suffix))
    (folder / 'page.npz').write_text('<!DOCTYPE html>')
    (folder / 'empty.npz').touch()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('localhost', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://localhost:{server.server_port}', folder
        server.shutdown()


@pytest.mark.parametrize('name', ['a.npz', 'a.safetensors', 'a.npz?download=true'])
def test_an_address_is_downloaded_once(name, site):
    address, folder = site
    path = weights_path(f'{address}/{name}')
    np.testing.assert_equal(read_weights(path).arrays, ARRAYS)
    for file in folder.iterdir():
        file.unlink()
    assert weights_path(f'{address}/{name}') == path and path.exists()


@pytest.mark.parametrize('name', ['none.npz', 'page.npz', 'empty.npz', 'short.npz', 'a.txt', ''])
def test_what_is_no_weight_file_is_refused_and_not_kept(name, site, tmp_path):
    address, _ = site
    with refuses(f'{address}/{name}: '):
        weights_path(f'{address}/{name}')
    assert not [path for path in tmp_path.glob('cache/**/*') if path.is_file()]


def test_a_download_above_the_bound_is_refused(site, monkeypatch):
    monkeypatch.setattr(module, 'MAX_BYTES', 100)
    with refuses(f'{site[0]}/a.npz: ', '100 bytes'):
        weights_path(f'{site[0]}/a.npz')


@pytest.mark.parametrize(
    ('source', 'cause'),
    [
        ('ftp://host/a.npz', 'ftp:/'),
        ('gs://bucket/a.npz', 'gs://'),
        ('http://localhost:9/a.npz', 'cannot be downloaded: Connection refused'),
    ],
)
def test_another_scheme_a_missing_client_or_server_is_one_line(source, cause, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda _: None)
    with refuses(f'{source}: {cause}'):
        weights_path(source)


@pytest.mark.parametrize(
    ('source', 'gelu'),
    [
        ('https://host/a.npz', 'tanh'),
        ('https://host/a.npz?download=true', 'tanh'),
        ('https://host/a.safetensors?name=b.npz', 'exact'),
        ('a?.npz', 'tanh'),
    ],
)
def test_the_gelu_goes_by_the_ending_of_an_address(source, gelu):
    assert resolve({'init_from': source}).model.gelu == gelu
