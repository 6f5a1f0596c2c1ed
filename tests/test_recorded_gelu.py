"""The GELU that files and folders record; what they do not, and what cannot be read."""

import numpy as np
import pytest
from safetensors.numpy import save

from mixer_dilated.recorded_gelu import recorded_gelu


def write_file(folder, content):
    path = folder / 'w.safetensors'
    metadata = {'mixer_dilated': content} if content else None
    path.write_bytes(save({'head/bias': np.zeros(2, np.float32)}, metadata))
    return path


def write_run(folder, content):
    (folder / 'checkpoints').mkdir()
    (folder / 'config.json').write_text(content)
    return folder


def write_converted(folder, content):
    (folder / 'model.json').write_text(content)
    return folder


@pytest.mark.parametrize('write', [write_file, write_run, write_converted])
@pytest.mark.parametrize(
    ('content', 'gelu'),
    [
        ('{"model": {"gelu": "tanh"}}', 'tanh'),
        ('{"model": {"gelu": "exact"}, "gelu": "exact"}', 'exact'),
        ('{"model": null, "gelu": "tanh"}', 'tanh'),
        ('{"gelu": null}', None),
        ('{"gelu": "swish"}', None),
        ('{"model": [1]}', None),
        ('[1]', None),
        ('{"model": {"gelu"', None),
        ('', None),
    ],
)
def test_what_is_recorded_is_known_and_nothing_else(write, content, gelu, tmp_path):
    assert recorded_gelu(str(write(tmp_path, content))) == gelu


@pytest.mark.parametrize('source', ['w.npz', 'gs://b/w.npz', 'https://a.b/w.npz?x=1'])
def test_the_original_is_known_by_its_name(source):
    assert recorded_gelu(source) == 'tanh'


NAMES = 'gs://b/w.safetensors', 'w.pth', 'none.safetensors', 'cut.safetensors', 'none', '', 'a\0b'


@pytest.mark.parametrize('source', [*NAMES, '~no/a'])
def test_what_cannot_be_read_is_not_known(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = write_file(tmp_path, '{}').read_bytes()
    (tmp_path / 'cut.safetensors').write_bytes(content[:20])
    assert recorded_gelu(source) is None
