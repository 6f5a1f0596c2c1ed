"""The folder of an export, made from that of a run: `export_run`."""

import hashlib
import os
import pathlib
import shutil

from mixer_dilated.errors import UserError
from mixer_dilated.export.program import (
    PLATFORMS,
    classifier,
    exported_program,
    flat_weights,
)
from mixer_dilated.files import error_context, write_bytes, write_json
from mixer_dilated.inference.calibration import read_calibration, read_temperatures
from mixer_dilated.inference.trained import Trained, load_trained
from mixer_dilated.pretrained.weight_files import Weights, encode
from mixer_dilated.training.run_folder import versions

PROGRAM, WEIGHTS, MANIFEST, EXAMPLE = (
    'program.jax_export',
    'weights.npz',
    'manifest.json',
    'predict.py',
)


def export_run(
    workdir: pathlib.Path,
    output: pathlib.Path,
    *,
    best: bool = False,
) -> dict:
    """Writes the network of a run's checkpoint as a folder that needs this library no more.

    The folder appears whole or not at all. It holds `program.jax_export` (see `classifier`),
    `weights.npz`, `manifest.json` and `predict.py`, which loads and calls them.

    Args:
      workdir: the run's folder.
      output: a folder that is not there yet, or empty.
      best: the checkpoint of the highest test accuracy instead of the newest.

    Returns:
      The content of `manifest.json`.

    Raises:
      UserError: no run or no checkpoint there, or `output` is not empty or cannot be written.
    """
    check_new(output)
    trained = load_trained(workdir, best=best)
    temperatures = read_temperatures(workdir, trained.step)
    classify = classifier(trained.setup.config, trained.setup.dataset.num_classes, temperatures)
    weights = flat_weights(trained.params)
    files = {
        PROGRAM: exported_program(classify, weights, trained.setup.dataset.image_shape),
        WEIGHTS: encode(Weights(weights), '.npz'),
        EXAMPLE: pathlib.Path(__file__).with_name(EXAMPLE).read_bytes(),
    }
    manifest = {
        **_facts(trained),
        'calibration': read_calibration(workdir, trained.step),
        'sha256': {name: hashlib.sha256(files[name]).hexdigest() for name in (PROGRAM, WEIGHTS)},
        'bytes': {name: len(content) for name, content in files.items()},
    }
    _write_folder(output, files, manifest)
    return manifest


def check_new(output: pathlib.Path) -> None:
    """Raises UserError if an export cannot be made at `output`, for it is there and not empty."""
    if output.is_dir() and not any(output.iterdir()):
        return
    if os.path.lexists(output):
        what = 'not empty' if output.is_dir() else 'not a folder'
        if (output / MANIFEST).is_file():
            what = 'holds an export already'
        raise UserError(f'--output={output}: {what}; name a new folder, or an empty one')


def _facts(trained: Trained) -> dict:
    setup = trained.setup
    config = setup.config.to_dict()
    for place in ('data_dir', 'cache_dir'):  # of the machine that trained it
        del config['dataset'][place]
    return {
        'classes': list(setup.dataset.class_names),
        'input': {
            'shape': ['batch', *setup.dataset.image_shape],
            'dtype': 'uint8',
            'preprocess': trained.preprocessing.how,
            'resize': trained.preprocessing.resize,
        },
        'output': {
            'shape': ['batch', setup.dataset.num_classes],
            'dtype': 'float32',
            'meaning': 'probabilities, means over the seeds',
        },
        'platforms': list(PLATFORMS),
        'seeds': [setup.config.seed + k for k in range(setup.config.num_seeds)],
        'step': trained.step,
        'epoch': trained.step / setup.steps_per_epoch,
        'versions': versions(),
        'config': config,
    }


def _write_folder(output: pathlib.Path, files: dict[str, bytes], manifest: dict) -> None:
    """Writes beside `output`, and gives the folder its name when all is there."""
    unfinished = output.absolute().with_name(f'.{output.absolute().name}.unfinished-{os.getpid()}')
    try:
        with error_context(unfinished):
            unfinished.mkdir(parents=True)
        for name, content in files.items():
            write_bytes(unfinished / name, content)
        write_json(unfinished / MANIFEST, manifest)
        with error_context(output):
            os.rename(unfinished, output)
    except UserError as error:
        cause = getattr(error.__cause__, 'strerror', None) or error
        raise UserError(
            f'--output={output}: cannot be written: {cause}; nothing was left there; when that is '
            'mended give the same command, or name another folder'
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
