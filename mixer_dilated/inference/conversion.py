"""`python run.py convert`: weights from one form to another."""

import os
import pathlib
import shutil
import tempfile

from mixer_dilated.errors import UserError
from mixer_dilated.files import write_bytes
from mixer_dilated.pretrained.weight_files import SUFFIXES, Weights, encode, write_orbax
from mixer_dilated.training.orbax_errors import error_cause
from mixer_dilated.training.state import load_seed_weights


def convert(source: pathlib.Path, target: pathlib.Path) -> str:
    """Writes the weights of one file or folder into another.

    Args:
      source: as `load_seed_weights` takes it; of a run with several seeds, the first.
      target: by its ending .npz, .safetensors, or else a new folder of orbax.

    Returns:
      What was written, and what the new form cannot say.

    Raises:
      UserError: the one cannot be read, or the other is there already or cannot be written.
    """
    if target.exists():
        raise UserError(f'{target}: is there already; remove it, or give another name')
    if target.suffix not in SUFFIXES and any(map(str.isalpha, target.suffix)):
        raise UserError(
            f'{target}: no form of weights ends in {target.suffix!r}; allowed are '
            f'{", ".join(SUFFIXES)}, or a name without an ending for a folder of orbax'
        )
    if not target.absolute().parent.is_dir():
        raise UserError(f'{target}: no such folder: {target.absolute().parent}; make it first')
    sources = load_seed_weights(source)
    weights = sources[0]
    if target.suffix in SUFFIXES:
        write_bytes(target, encode(weights, target.suffix))
    else:
        _write_folder(weights, target)
    notes = [f'{target}: {len(weights.arrays)} arrays']
    if len(sources) > 1:
        notes.append(f'of the first of {len(sources)} seeds')
    if target.suffix == '.npz' and weights.model:
        notes.append('without patches and grid, which this form cannot say')
        if weights.model.get('gelu') == 'exact':
            notes.append('trained with exact GELU, where the original code takes tanh')
    return ', '.join(notes)


def _write_folder(weights: Weights, target: pathlib.Path) -> None:
    """Writes a folder that is there whole or not at all."""
    unfinished = None
    try:
        unfinished = tempfile.mkdtemp(prefix=f'.{target.name}.unfinished-', dir=target.parent)
        write_orbax(weights, pathlib.Path(unfinished, 'weights'))
        os.rename(pathlib.Path(unfinished, 'weights'), target)
    # Orbax and its storage raise errors of many kinds.
    except Exception as error:
        raise UserError(
            f'{target}: cannot be written: {error_cause(error)}; when that is mended give the same '
            'command again'
        ) from error
    finally:
        if unfinished:
            shutil.rmtree(unfinished, ignore_errors=True)
