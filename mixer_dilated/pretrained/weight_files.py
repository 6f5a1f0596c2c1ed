"""Weights in files: .npz as the original Mixer has them, .safetensors, and orbax folders.

Nothing that is read is executed: pickled objects are refused."""

import dataclasses
import io
import itertools
import json
import pathlib
import re
import zipfile
import zlib

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from mixer_dilated.config import patch_branches, resolve
from mixer_dilated.errors import UserError, printable
from mixer_dilated.patches.geometry import Pair
from mixer_dilated.pretrained.checkpoint_names import to_linen_names


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters as a file has them.

    Attributes:
      arrays: by their Linen names, 'MixerBlock_0/token_mixing/Dense_0/kernel': {name: array}.
      model: the keys of `config.model` that they were trained with, nested; None if the file does
        not say, as those of the original do not.
      image_size: (height, width) in pixels of the images they were trained on; None likewise.
    """

    arrays: dict[str, np.ndarray]
    model: dict | None = None
    image_size: Pair | None = None


def network_sizes(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes of a network that the shapes of its parameters tell, as keys of `config.model`.

    Args:
      shapes: by Linen name.

    Returns:
      'num_blocks', and those of 'num_tokens', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim'
      and 'num_classes' whose parameters are there.
    """
    sources = {
        'num_tokens': ('MixerBlock_0/token_mixing/Dense_0/kernel', 0),
        'tokens_mlp_dim': ('MixerBlock_0/token_mixing/Dense_0/kernel', 1),
        'hidden_dim': ('MixerBlock_0/channel_mixing/Dense_0/kernel', 0),
        'channels_mlp_dim': ('MixerBlock_0/channel_mixing/Dense_0/kernel', 1),
        'num_classes': ('head/kernel', 1),
    }
    blocks = {m[1] for name in shapes if (m := re.match(r'MixerBlock_(\d+)/', name))}
    return {
        'num_blocks': len(blocks),
        **{
            key: shapes[name][axis]
            for key, (name, axis) in sources.items()
            if name in shapes and len(shapes[name]) == 2
        },
    }


SUFFIXES = ('.npz', '.safetensors')
# In a folder of orbax: what is not parameters.
ABOUT = 'model.json'
PARAMS = 'params'

# Text in the header of a .safetensors file.
_HEADER_KEY = 'mixer_dilated'
# The longest side of an image, in pixels, that a file may say; as in config.dataset.image_size.
_SIDE = 8192


def read_weights(path: pathlib.Path) -> Weights:
    """Reads the weights of a .npz or .safetensors file, or of a folder that orbax wrote.

    Args:
      path: a .npz has the names of the original Mixer, of either form (see `to_linen_names`).

    Raises:
      UserError: no such file, one of another kind, one that is damaged, or no Mixer in it.
    """
    if path.suffix not in SUFFIXES and not path.is_dir():
        reason = 'is of another kind' if path.exists() else 'is not there'
        raise UserError(
            f'{path}: {reason}; allowed are a .npz or .safetensors file, a folder that convert '
            'wrote, or the folder of a run'
        )
    try:
        arrays, metadata = _READERS.get(path.suffix, _read_orbax)(path)
        checked = {name: _numbers(name, array) for name, array in arrays.items()}
        model, image_size = _check_metadata(metadata or {})
    except FileNotFoundError:
        raise UserError(f'{path}: no such file') from None
    # The readers raise errors of many kinds at files that are damaged or no such archive.
    except Exception as error:
        cause = printable(' '.join(str(error).split()))[:200]
        raise UserError(
            f'{path}: cannot be read: {type(error).__name__}: {cause}; it is damaged or of '
            'another kind: get it again'
        ) from error
    return Weights(to_linen_names(checked, str(path)), model, image_size)


def encode(weights: Weights, suffix: str) -> bytes:
    """Weights as the bytes of a file.

    Args:
      weights: what to write.
      suffix: '.npz' (Linen names, which the original code reads; what the file says of the network
        is lost, for the original has no place for it) or '.safetensors'.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.arrays.items()}
    if suffix == '.safetensors':
        from safetensors.numpy import save

        return save(arrays, {_HEADER_KEY: json.dumps(_metadata(weights))})
    file = io.BytesIO()
    np.savez(file, **arrays)  # not compressed: weights hardly become smaller
    return file.getvalue()


def write_orbax(weights: Weights, folder: pathlib.Path) -> None:
    """Writes weights into a new folder: `params` by orbax, and `model.json`."""
    import orbax.checkpoint as ocp

    tree = unflatten_dict(weights.arrays, sep='/')
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute() / PARAMS, tree)
    checksums = {name: zlib.crc32(array) for name, array in weights.arrays.items()}
    metadata = {**_metadata(weights), 'checksums': checksums}
    (folder / ABOUT).write_text(json.dumps(metadata, indent=2) + '\n')


def _metadata(weights: Weights) -> dict:
    return {'model': weights.model, 'image_size': weights.image_size}


def _read_npz(path: pathlib.Path) -> tuple[dict, None]:
    with np.load(path, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise zipfile.BadZipFile('a single array, not an archive of them')
        return {name: archive[name] for name in archive.files}, None


def _read_safetensors(path: pathlib.Path) -> tuple[dict, dict]:
    from safetensors import safe_open

    with safe_open(path, 'numpy') as archive:
        metadata = json.loads((archive.metadata() or {}).get(_HEADER_KEY, '{}'))
        return {name: archive.get_tensor(name) for name in archive.keys()}, metadata  # noqa: SIM118


def _read_orbax(folder: pathlib.Path) -> tuple[dict, dict]:
    import orbax.checkpoint as ocp

    metadata = json.loads((folder / ABOUT).read_text()) if (folder / ABOUT).exists() else {}
    params = folder / PARAMS
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore((params if params.is_dir() else folder).absolute())
    arrays = {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep='/').items()}
    for name, checksum in metadata.get('checksums', {}).items():
        if name not in arrays or zlib.crc32(np.ascontiguousarray(arrays[name])) != checksum:
            raise ValueError(f'the checksum of {name} is not the one recorded')
    return arrays, metadata


def _check_metadata(metadata: dict) -> tuple[dict | None, Pair | None]:
    """Model and image size in the metadata of a file; an error at what no run can have had."""
    if not isinstance(metadata, dict):
        raise ValueError(f'its metadata is {metadata!r}, not a dict')
    model, image_size = metadata.get('model'), metadata.get('image_size')
    if model is not None:
        if not isinstance(model, dict):
            raise ValueError(f'model = {model!r}, not a dict of the keys of config.model')
        model = resolve({'model': model}, warn=False).model.to_dict()
    if image_size is not None:
        sides = image_size if isinstance(image_size, list) else []
        if len(sides) != 2 or not all(type(side) is int and 1 <= side <= _SIDE for side in sides):
            raise ValueError(f'image_size = {image_size!r}, not two integers from 1 to {_SIDE}')
        image_size = tuple(sides)
        if model:
            _check_grids(model, image_size)
    return model, image_size


def _check_grids(model: dict, image_size: Pair) -> None:
    """Raises an error at patches that cannot be on the images, before arrays are made of them."""
    for patches in patch_branches(ConfigDict(model)):
        reach = (*patches.size, *patches.window, *itertools.chain(*patches.pads(image_size)))
        if max(map(abs, reach)) > 2 * _SIDE:
            raise ValueError(f'patches {patches} of images of {image_size} pixels')
        patches.grid(image_size)


def _numbers(name: str, array: np.ndarray) -> np.ndarray:
    """An array of real numbers as it is; an error, naming it, if it is of anything else."""
    # NumPy has no bfloat16: its files show it as two bytes without a meaning.
    if array.dtype == np.dtype('V2'):
        import ml_dtypes

        array = array.view(ml_dtypes.bfloat16)
    if array.dtype.kind not in 'fiu' and array.dtype.name != 'bfloat16':
        raise ValueError(f'{name} is of {array.dtype}, not of numbers')
    return array


_READERS = {'.npz': _read_npz, '.safetensors': _read_safetensors}
