"""Exports a trained network as files that need this library no more: `export_run`."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from jaxtyping import Float

from mixer_dilated.config import num_phases
from mixer_dilated.errors import UserError
from mixer_dilated.files import atomic_folder, write_bytes, write_json
from mixer_dilated.inference.calibration import read_calibration, read_temperatures
from mixer_dilated.inference.trained import Trained, load_trained
from mixer_dilated.paths import PathLike, as_path
from mixer_dilated.pretrained.weight_files import Weights, encode
from mixer_dilated.training.run_folder import versions
from mixer_dilated.training.state import create_model
from mixer_dilated.training.step import class_log_probs

PLATFORMS = ('cpu', 'cuda', 'tpu')
MANIFEST = 'manifest.json'
EXAMPLE = pathlib.Path(__file__).with_name('export_example.py')
FILE_SUFFIXES = ('.onnx', '.pt', '.pth', '.pb', '.tflite', '.h5', '.keras', '.npz', '.bin', '.zip')
FILE_SUFFIXES += ('.safetensors', '.jax_export', '.mlir', '.msgpack', '.pkl', '.json', '.py')


def export_run(
    workdir: PathLike, output: PathLike, *, best: bool = False, to_onnx: bool = False
) -> dict:
    """Writes the network of a run's checkpoint as a folder that needs this library no more.

    The folder appears whole or not at all. It holds `program.jax_export` (see `make_classifier`),
    `weights.npz`, `manifest.json` and `predict.py`, which loads and calls them; for ONNX
    `model.onnx` (see `onnx_model`) instead of the first two.

    Returns the content of `manifest.json`. With `best` it is of the checkpoint of the highest
    validation accuracy instead of the newest. Raises UserError: no run or no checkpoint there, or
    `output` is not empty or cannot be written.
    """
    workdir, output = as_path(workdir), pathlib.Path(output)
    _check_output(output, to_onnx)
    trained = load_trained(workdir, best=best)
    config, dataset = trained.setup.config, trained.setup.dataset
    temperatures = read_temperatures(workdir, trained.step)
    weights = flatten_dict(trained.params, sep='/')
    if to_onnx:
        from mixer_dilated.inference.onnx_model import onnx_model

        files = {'model.onnx': onnx_model(config, weights, temperatures, dataset.image_shape)}
    else:
        classify = make_classifier(config, dataset.num_classes, temperatures)
        program = export_program(classify, weights, dataset.image_shape)
        files = {'program.jax_export': program, 'weights.npz': encode(Weights(weights), '.npz')}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files['predict.py'] = EXAMPLE.read_bytes()
    manifest = {
        **_describe(trained),
        'platforms': ['onnx'] if to_onnx else list(PLATFORMS),
        'calibration': read_calibration(workdir, trained.step),
        'sha256': digests,
        'bytes': {name: len(content) for name, content in files.items()},
    }
    try:
        with atomic_folder(output) as folder:
            folder.mkdir()
            for name, content in files.items():
                write_bytes(folder / name, content)
            write_json(folder / MANIFEST, manifest)
    except (OSError, UserError) as error:
        cause = getattr(error.__cause__ or error, 'strerror', None) or error
        raise UserError(
            f'--output={output}: cannot be written: {cause}; nothing was left there; when that is '
            'mended give the same command, or name another folder'
        ) from error
    return manifest


def make_classifier(
    config: ml_collections.ConfigDict, num_classes: int, temperatures: Float[np.ndarray, ' seeds']
) -> Callable:
    """Makes the function of weights and images that is exported.

    It holds a CPU's form of the network beside the plain one, which takes 1.4 to 2.1 times as long
    there. If the config asks for several phases, the probabilities are means over all of them.

    Returns:
      A pure function of the weights by the original's names (`MixerBlock_0/LayerNorm_0/scale`),
      each with an axis of seeds first, and uint8 images (B, H, W, C): the mean over the seeds of
      softmax(log p / T), float32 (B, classes).
    """
    phases, temperatures = num_phases(config), jnp.asarray(temperatures, jnp.float32)

    def classify(model, weights, images):
        def classify_with_seed(seed):
            params, temperature = seed
            state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.identity())
            return jax.nn.softmax(class_log_probs(state, images, num_phases=phases) / temperature)

        params = unflatten_dict(weights, sep='/')
        # One seed after another: they need the memory of one.
        return jnp.mean(jax.lax.map(classify_with_seed, (params, temperatures)), axis=0)

    plain, cpu = (
        functools.partial(classify, create_model(config, num_classes, platform))
        for platform in (None, 'cpu')
    )

    def classify_on_platform(weights, images):
        return jax.lax.platform_dependent(weights, images, cpu=cpu, default=plain)

    return classify_on_platform


def export_program(
    classify: Callable, weights: dict[str, np.ndarray], image_shape: tuple[int, int, int]
) -> bytes:
    """Lowers `make_classifier`'s function for `PLATFORMS` with a symbolic batch, and serialises it.

    The weights are arguments of the program: as constants in it, those of a large network would be
    folded anew wherever it is compiled, which takes seconds.
    """
    (batch,) = export.symbolic_shape('batch')
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8)
    program = export.export(jax.jit(classify), platforms=PLATFORMS)(weights, images)
    return bytes(program.serialize())


def _check_output(output: pathlib.Path, to_onnx: bool) -> None:
    """Raises UserError if a file is named, or what exists and is not an empty folder."""
    if output.suffix.lower() in FILE_SUFFIXES:
        raise UserError(
            f'--output={output}: a folder is written, and the name is that of a '
            f'{output.suffix} file; name a folder, like {output.with_suffix("")}'
            + (', and --format=onnx' if output.suffix == '.onnx' and not to_onnx else '')
        )
    if output.is_dir() and not any(output.iterdir()):
        return
    if os.path.lexists(output):
        state = 'not empty' if output.is_dir() else 'not a folder'
        if (output / MANIFEST).is_file():
            state = 'holds an export already'
        raise UserError(f'--output={output}: {state}; name a new folder, or an empty one')


def _describe(trained: Trained) -> dict:
    """The manifest's entries about the network."""
    setup, preprocessing = trained.setup, trained.preprocessing
    config = setup.config.to_dict()
    for key in ('data_dir', 'cache_dir'):  # of the machine that trained it
        del config['dataset'][key]
    return {
        'classes': list(setup.dataset.class_names),
        'input': {
            'shape': ['batch', *setup.dataset.image_shape],
            'dtype': 'uint8',
            'preprocess': preprocessing.how,
            'resize': preprocessing.resize,
            'decode_size': preprocessing.decode_size,
        },
        'output': {
            'shape': ['batch', setup.dataset.num_classes],
            'dtype': 'float32',
            'meaning': 'probabilities, means over the seeds',
        },
        'seeds': [setup.config.seed + k for k in range(setup.config.num_seeds)],
        'step': trained.step,
        'epoch': trained.step / setup.steps_per_epoch,
        'versions': versions(),
        'config': config,
    }
