"""Weight files: the original's .npz, .safetensors, PyTorch's (timm's) and folders of orbax.

Reading executes nothing: pickled objects are refused.
"""

import contextlib
import dataclasses
import importlib.util
import io
import itertools
import json
import pathlib
import pickle
import re
import tempfile
import zlib
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from mixer_dilated.config import patch_branches, resolve
from mixer_dilated.errors import UserError, is_out_of_memory, printable
from mixer_dilated.files import (
    MAX_ARRAY_BYTES,
    error_context,
    max_unpacked,
    read_bytes,
    unpack_arrays,
)
from mixer_dilated.patches.geometry import Pair, Patches, integer_pair
from mixer_dilated.paths import is_bucket, orbax_path
from mixer_dilated.pretrained.timm_names import from_timm, is_timm, to_timm
from mixer_dilated.recorded_gelu import GELUS, HEADER_KEY, METADATA, read_metadata

TORCH_SUFFIXES = ('.pth', '.pt', '.bin')
SUFFIXES = ('.npz', '.safetensors', *TORCH_SUFFIXES)
_HUGGING_FACE = ('model.safetensors', 'pytorch_model.bin')  # in the folder of a model
_PARAMS = 'params'  # beside `METADATA` in a folder of orbax
_MAX_PIXELS = 2**14  # along an axis of an image, window or padding, in metadata

# Of the parameters in older checkpoints, beside the state of the optimizer.
_PREFIX = re.compile(r'^(opt/)?(target|params)/')
# The names of Flax before Linen, and Linen's. All modules of a block were counted together then, so
# that the second LayerNorm may be LayerNorm_2.
_LINEN_NAMES = (
    (re.compile(r'^embedding/'), 'stem/'),
    (re.compile(r'^Mixer/encoder_norm/'), 'pre_head_layer_norm/'),
    (re.compile(r'^(Mixer/encoderblock_\d+)/LayerNorm_[1-9]\d*/'), r'\1/LayerNorm_1/'),
    (re.compile(r'^Mixer/encoderblock_(\d+)/'), r'MixerBlock_\1/'),
    (re.compile(r'/(token|channel)_mixing_phase_0/(kernel|bias)1$'), r'/\1_mixing/Dense_0/\2'),
    (re.compile(r'/(token|channel)_mixing_phase_0/(kernel|bias)2$'), r'/\1_mixing/Dense_1/\2'),
)


@dataclasses.dataclass(frozen=True)
class Weights:
    """The parameters of a network, and what their file records of it.

    Attributes:
      arrays: {Linen name: array}, for example 'MixerBlock_0/token_mixing/Dense_0/kernel'.
      model: the resolved `config.model` that they were trained with, a nested dict; None if the
        file does not record it, as the original's do not.
      image_size: (height, width) in pixels of the images they were trained on; None likewise.
      gelu: 'exact' or 'tanh', of `model` or of the kind of file; None if it is not known.
    """

    arrays: dict[str, np.ndarray]
    model: dict | None = None
    image_size: Pair | None = None
    gelu: str | None = None

    def __post_init__(self):
        if self.model:
            object.__setattr__(self, 'gelu', self.model['gelu'])

    @property
    def metadata(self) -> dict:
        """What a file records of the network."""
        return {'model': self.model, 'image_size': self.image_size, 'gelu': self.gelu}

    @property
    def branches(self) -> tuple[Patches, ...]:
        """The patches of `model`; () if it is not recorded."""
        return patch_branches(ConfigDict(self.model)) if self.model else ()


def read_weights(path: pathlib.Path) -> Weights:
    """Reads a file of `SUFFIXES`, a folder that orbax wrote or the folder of a Hugging Face model.

    The arrays get the names that `from_timm` or `to_linen_names` gives them.

    Raises:
      UserError: no such file, one of another kind, one that is damaged, or no Mixer in it; or
        PyTorch, which reads its files, is not installed.
    """
    path = next((path / name for name in _HUGGING_FACE if (path / name).exists()), path)
    exists = path.exists()
    if not (path.is_dir() or (path.is_file() and path.suffix in SUFFIXES)):
        raise UserError(
            f'{path}: {"is of another kind" if exists else "no such file"}; allowed are a file of '
            f'{", ".join(SUFFIXES)}, a folder that convert wrote, or the folder of a run'
        )
    if path.suffix in TORCH_SUFFIXES and not importlib.util.find_spec('torch'):
        raise UserError(
            f'{path}: PyTorch, which reads it, is not installed; pip install torch, or name the '
            '.safetensors file of the same weights'
        )
    with _local_file(path) as file:
        try:
            arrays, metadata = _read_arrays(file), read_metadata(file)
            for name, checksum in metadata.get('checksums', {}).items():
                if name not in arrays or zlib.crc32(np.ascontiguousarray(arrays[name])) != checksum:
                    raise ValueError(f'the checksum of {name} is not the one recorded')
            arrays = {name: _check_dtype(name, array) for name, array in arrays.items()}
            model, image_size, gelu = _parse_metadata(metadata)
        # The readers raise errors of many types at files that are damaged or no such archive.
        except Exception as error:
            if is_out_of_memory(error):
                raise UserError(f'{path}: not enough memory to read it: {error}') from error
            cause = printable(' '.join(str(error).split()))[:200]
            raise UserError(
                f'{path}: cannot be read: {type(error).__name__}: {cause}; it is damaged or of '
                'another kind: get it again'
            ) from error
    if is_timm(arrays):
        arrays, gelu = from_timm(arrays), gelu or 'exact'
    gelu = 'tanh' if path.suffix == '.npz' else gelu  # the original's
    return Weights(to_linen_names(arrays, str(path)), model, image_size, gelu)


@contextlib.contextmanager
def _local_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A copy of a file in a bucket, which NumPy and safetensors do not open; else `path` itself."""
    if not is_bucket(path) or path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, path.name)
        with error_context(copy):
            copy.write_bytes(read_bytes(path, 'name another', MAX_ARRAY_BYTES))
        yield copy


def encode(weights: Weights, suffix: str, *, timm: bool = False) -> bytes:
    """The content of a weight file with a suffix.

    '.safetensors' alone records the network, and gets timm's names if asked; '.npz' is what the
    original code reads; `TORCH_SUFFIXES` are state dicts with timm's names.

    Raises:
      UserError: the names of timm are asked for, and it has no such network.
    """
    named = to_timm(weights.arrays) if timm or suffix in TORCH_SUFFIXES else weights.arrays
    arrays = {name: np.ascontiguousarray(array) for name, array in named.items()}
    if suffix == '.safetensors':
        from safetensors.numpy import save

        return save(arrays, {'format': 'pt', HEADER_KEY: json.dumps(weights.metadata)})
    file = io.BytesIO()
    if suffix in TORCH_SUFFIXES:
        import torch

        torch.save({name: torch.tensor(np.float32(array)) for name, array in arrays.items()}, file)
    else:
        np.savez(file, **arrays)  # not compressed: weights hardly become smaller
    return file.getvalue()


def write_orbax(weights: Weights, folder: pathlib.Path) -> None:
    """Writes weights into a new folder: `params` by orbax, and `model.json` with checksums."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute() / _PARAMS, unflatten_dict(weights.arrays, sep='/'))
    checksums = {name: zlib.crc32(array) for name, array in weights.arrays.items()}
    metadata = {**weights.metadata, 'checksums': checksums}
    (folder / METADATA).write_text(json.dumps(metadata, indent=2) + '\n')


def to_linen_names(arrays: dict[str, np.ndarray], file: str) -> dict[str, np.ndarray]:
    """Renames the parameters of an original Mixer, from before Linen or since, to Linen's names.

    Before Linen the arrays of `token_mixing_phase_0` and `channel_mixing_phase_0` keep axes of
    length 1, which they lose here. Arrays beside `opt/target/` are left out.

    Raises:
      UserError: two arrays get one name, or there is no parameter of a Mixer.
    """
    arrays = {name: array for name, array in arrays.items() if _PREFIX.match(name)} or arrays
    renamed = {}
    for name, array in arrays.items():
        linen_name = _PREFIX.sub('', name)
        for pattern, replacement in _LINEN_NAMES:
            linen_name = pattern.sub(replacement, linen_name)
        if linen_name in renamed:
            raise UserError(
                f'{file}: {name!r} and another array both are {linen_name}; the file holds two '
                'networks or is damaged: name another'
            )
        bias = arrays.get(name.replace('/kernel', '/bias'), np.empty(0))
        if '_mixing_phase_0/bias' in name:
            array = array.reshape(-1)
        elif '_mixing_phase_0/' in name and bias.size and array.size % bias.size == 0:
            array = array.reshape(-1, bias.size)  # (in, out), of which one may be 1
        renamed[linen_name] = array
    if not any(re.match(r'(stem(_\d+)?|MixerBlock_\d+|head)/', name) for name in renamed):
        some = ', '.join(sorted(renamed)[:3]) or 'nothing'
        raise UserError(
            f"{file}: no parameters of a Mixer: it has {some}; allowed are the original's "
            "stem/kernel, MixerBlock_0/…, or Mixer/encoderblock_0/…, and timm's stem.proj.weight"
        )
    return renamed


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    if path.suffix == '.npz':
        with path.open('rb') as file:
            return unpack_arrays(file)
    if path.suffix == '.safetensors':
        from safetensors.numpy import load_file

        return load_file(path)
    if path.suffix in TORCH_SUFFIXES:
        import torch

        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError:
            raise ValueError(
                'it holds more than tensors; save model.state_dict() instead of the model'
            ) from None
        keys = 'state_dict', 'model_state_dict', 'model'
        state = next((state[key] for key in keys if key in state), state)
        if odd := [name for name, leaf in state.items() if not isinstance(leaf, torch.Tensor)]:
            raise ValueError(f'{odd[0]!r} is no tensor; save model.state_dict() alone')
        size = sum(4 * leaf.numel() for leaf in state.values())  # some repeat one number
        if size > max_unpacked(path.stat().st_size):
            raise ValueError(f'{size} bytes of numbers, which a file of its size cannot hold')
        arrays = {name: leaf.detach().float().numpy() for name, leaf in state.items()}
        # `nn.parallel` begins names with 'module.'.
        return {name.removeprefix('module.'): array for name, array in arrays.items()}
    import orbax.checkpoint as ocp

    params = path / _PARAMS
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(orbax_path(params if params.is_dir() else path))
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep='/').items()}


def _check_dtype(name: str, array: np.ndarray) -> np.ndarray:
    """Returns an array of finite numbers; raises ValueError if it is of anything else."""
    if array.dtype == 'V2':  # NumPy's files store bfloat16 as two bytes without a meaning
        array = array.view(jnp.bfloat16)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise ValueError(f'{name} is of {array.dtype}, not of numbers')
    if not np.isfinite(np.float32(array)).all():
        raise ValueError(f'{name} holds numbers that are not finite')
    return array


def _parse_metadata(metadata: dict) -> tuple[dict | None, Pair | None, str | None]:
    """Model, image size and GELU; raises ValueError (and UserError is one) at what no run has."""
    model, image_size, gelu = (metadata.get(key) for key in ('model', 'image_size', 'gelu'))
    if gelu not in (None, *GELUS):
        raise ValueError(f'its gelu is {gelu!r}')
    if model is not None:
        model = resolve({'model': model}, warn=False).model.to_dict()
    if image_size is not None:
        image_size = integer_pair('image_size', image_size, 1)
    for patches in patch_branches(ConfigDict(model)) if model and image_size else ():
        lengths = (*image_size, *patches.window, *itertools.chain(*patches.pads(image_size)))
        if max(map(abs, lengths)) > _MAX_PIXELS:  # before `grid` makes arrays of that size
            raise ValueError(f'patches {patches}, images {image_size}: above {_MAX_PIXELS} pixels')
        patches.grid(image_size)
    return model, image_size, gelu
