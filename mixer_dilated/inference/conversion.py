"""`python run.py convert`: weights from one file format to another."""

import pathlib

from mixer_dilated.errors import UserError
from mixer_dilated.files import atomic_folder, write_bytes
from mixer_dilated.pretrained.weight_files import SUFFIXES, encode, write_orbax
from mixer_dilated.training.orbax_errors import error_cause
from mixer_dilated.training.state import load_seed_weights


def convert(source: pathlib.Path, target: pathlib.Path) -> str:
    """Writes the weights of a file or folder in another format; says what that does not record.

    The target is a new .npz or .safetensors file by its suffix, without one a new folder of orbax;
    of a run the first seed is taken. Raises UserError if the source cannot be read, or the target
    exists or cannot be written.
    """
    if target.exists():
        raise UserError(f'{target}: exists; remove it, or give another name')
    if target.suffix not in SUFFIXES and any(map(str.isalpha, target.suffix)):
        raise UserError(
            f'{target}: no weight file has the suffix {target.suffix!r}; allowed are '
            f'{", ".join(SUFFIXES)}, or none for a folder of orbax'
        )
    if not target.absolute().parent.is_dir():
        raise UserError(f'{target}: no such folder: {target.absolute().parent}; make it first')
    seed_weights = load_seed_weights(source)
    weights = seed_weights[0]
    if target.suffix in SUFFIXES:
        write_bytes(target, encode(weights, target.suffix))
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
    if target.suffix == '.npz' and weights.model:
        notes.append('without patches and grid, which this format does not record')
        if weights.model.get('gelu') == 'exact':
            notes.append('trained with exact GELU, where the original code takes tanh')
    return ', '.join(notes)
