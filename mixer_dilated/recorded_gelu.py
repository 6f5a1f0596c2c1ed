"""The GELU that weights were trained with, as far as they record it: `recorded_gelu`."""

import json
import pathlib
import re

from mixer_dilated.files import read_json
from mixer_dilated.paths import exists

GELUS = ('exact', 'tanh')
# Of the header of a .safetensors file; the metadata of a folder of orbax.
HEADER_KEY, METADATA = 'mixer_dilated', 'model.json'


def recorded_gelu(source: str) -> str | None:
    """'tanh', 'exact' or None, if it is not known, of `config.init_from`; no weights are read.

    An .npz is the original's, of 'tanh'. The folder of a run, that of `convert` and a .safetensors
    file may record it; in a bucket, or at an address, they are not opened.
    """
    if re.sub(r'(?<=://)([^?]*)\?.*', r'\1', source).endswith('.npz'):
        return 'tanh'
    if not source or '://' in source:
        return None
    try:
        metadata = read_metadata(pathlib.Path(source).expanduser())
        gelu = (metadata.get('model') or metadata).get('gelu')
    # What cannot be read, which raises errors of many types, is an error of who reads the weights.
    except Exception:
        return None
    return gelu if gelu in GELUS else None


def read_metadata(path: pathlib.Path) -> dict:
    """What a .safetensors file, a folder of orbax or of a run records of its network, {'model': …,
    'image_size': …, …}; {} if nothing. A damaged one raises errors of many types."""
    if path.suffix == '.safetensors' and path.is_file():
        from safetensors import safe_open

        with safe_open(path, 'numpy') as archive:
            return json.loads((archive.metadata() or {}).get(HEADER_KEY, '{}'))
    name = 'config.json' if (path / 'checkpoints').is_dir() else METADATA
    return read_json(path / name) if exists(path / name) else {}
