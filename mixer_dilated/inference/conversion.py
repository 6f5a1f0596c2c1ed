"""`python run.py convert`: weights from one file format to another."""

import importlib.util
import pathlib

from mixer_dilated.errors import UserError
from mixer_dilated.files import atomic_folder, write_bytes
from mixer_dilated.pretrained.weight_files import SUFFIXES, TORCH_SUFFIXES, encode, write_orbax
from mixer_dilated.training.orbax_errors import error_cause
from mixer_dilated.training.state import load_seed_weights


def convert(source: pathlib.Path, target: pathlib.Path, *, timm: bool = False) -> str:
    """Writes the weights of a file or folder in another format; returns what was written, and what
    that format does not record.

    Args:
      source: a weight file, or the folder of a run, of whose seeds the first is taken.
      target: a new file, of a kind by its suffix, or without one a new folder of orbax.
      timm: whether a .safetensors file has timm's names, as .pth, .pt and .bin files have.

    Raises:
      UserError: the source cannot be read, or the target exists or cannot be written; or timm has
        no such network.
    """
    if target.exists():
        raise UserError(f'{target}: exists; remove it, or give another name')
    suffix = target.suffix
    if suffix not in SUFFIXES and any(map(str.isalpha, suffix)):
        raise UserError(
            f'{target}: no weight file has the suffix {suffix!r}; allowed are '
            f'{", ".join(SUFFIXES)}, or none for a folder of orbax'
        )
    if timm and suffix != '.safetensors' and suffix not in TORCH_SUFFIXES:
        raise UserError(f"--names=timm: {target}: timm's names are for .safetensors and .pth files")
    if suffix in TORCH_SUFFIXES and not importlib.util.find_spec('torch'):
        raise UserError(
            f'{target}: PyTorch, which writes it, is not installed; pip install torch, or name a '
            '.safetensors file with --names=timm'
        )
    if not target.absolute().parent.is_dir():
        raise UserError(f'{target}: no such folder: {target.absolute().parent}; make it first')
    seed_weights = load_seed_weights(source)
    weights = seed_weights[0]
    if suffix in SUFFIXES:
        write_bytes(target, encode(weights, suffix, timm=timm))
    else:
        try:
            with atomic_folder(target) as folder:
                write_orbax(weights, folder)
        # Orbax and its storage raise errors of many types.
        except Exception as error:
            raise UserError(
                f'{target}: cannot be written: {error_cause(error)}; when that is mended give the '
                'same command again'
            ) from error
    notes = [f'{target}: {len(weights.arrays)} arrays']
    if len(seed_weights) > 1:
        notes.append(f'of the first of {len(seed_weights)} seeds')
    if suffix in ('.npz', *TORCH_SUFFIXES) and weights.model:
        notes.append('without patches and grid, which this format does not record')
    if suffix == '.npz' and weights.gelu == 'exact':
        notes.append(
            'trained with exact GELU, where the original code takes tanh; to start from it set '
            '--config.model.gelu=exact'
        )
    if (timm or suffix in TORCH_SUFFIXES) and weights.gelu == 'tanh':
        notes.append("trained with tanh GELU, where timm's MlpMixer takes the exact one")
    return ', '.join(notes)
