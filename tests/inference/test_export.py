"""Exports: the numbers of the model, for any batch, from files that need this library no more."""

import errno
import hashlib
import json
import os
import re
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax import export

from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.data.datasets import Digits
from mixer_dilated.files import read_json, write_json
from mixer_dilated.inference.calibration import CALIBRATION, apply_temperature
from mixer_dilated.inference.export import export_program, export_run, make_classifier
from mixer_dilated.inference.trained import load_trained
from mixer_dilated.training.run_folder import read_config
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.state import create_model
from tests.conftest import (
    flip_bit,
    raising,
    random_bytes,
    refused,
    refuses,
    run_python,
    small_config,
)
from tests.models.test_mixer import random_variables

IMAGES = random_bytes((5, 8, 8, 1))


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
    """Its export: folder and manifest."""
    output = tmp_path_factory.mktemp('exports') / 'made' / 'first'  # the folder above is made too
    return output, export_run(run, output)


def called(output, images):
    program = export.deserialize(bytearray((output / 'program.jax_export').read_bytes()))
    with np.load(output / 'weights.npz', allow_pickle=False) as weights:
        return np.asarray(program.call(dict(weights), images))


def test_an_export_says_what_the_evaluation_said_of_any_batch(run, exported):
    expected = np.load(run / 'predictions.npz')['probabilities'].mean(0)
    images = Digits().read('test[:100]').images
    for size in (100, 2, 1):
        probabilities = called(exported[0], images[:size])
        assert (probabilities.shape, probabilities.dtype) == ((size, 10), np.float32)
        np.testing.assert_allclose(probabilities, expected[:size], atol=1e-6)
    for wrong in (IMAGES[:, 1:], IMAGES.astype(np.float32), IMAGES[..., 0]):
        with pytest.raises((ValueError, TypeError)):
            called(exported[0], wrong)


def test_the_manifest_says_what_is_there(run, exported):
    output, manifest = exported
    written = json.loads((output / 'manifest.json').read_text())
    assert written == json.loads(json.dumps(manifest))
    assert {path.name for path in output.iterdir()} == {*manifest['bytes'], 'manifest.json'}
    for name, size in manifest['bytes'].items():
        assert (output / name).stat().st_size == size
    assert {*manifest['sha256']} == {'program.jax_export', 'weights.npz'}
    for name, digest in manifest['sha256'].items():
        content = (output / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    assert manifest['classes'] == [str(label) for label in range(10)]
    assert manifest['input'] == {
        'shape': ['batch', 8, 8, 1], 'dtype': 'uint8', 'preprocess': 'resize', 'resize': 'crop',
        'decode_size': 0,
    }  # fmt: skip
    assert manifest['output']['shape'] == ['batch', 10]
    assert (manifest['step'], manifest['epoch'], manifest['seeds']) == (27, 3, [0, 1])
    assert manifest['calibration'] is None
    assert resolve(written['config']) == read_config(run)
    assert str(run.parent) not in json.dumps(manifest)
    program = export.deserialize(bytearray((output / 'program.jax_export').read_bytes()))
    assert program.platforms == tuple(manifest['platforms']) == ('cpu', 'cuda', 'tpu')
    assert not re.search(r'custom_call.*cpu', program.mlir_module())


NETWORKS = {
    'branches': {
        'model.branches': ({'dilation': 1}, {'dilation': 3}),
        'model.branch_merge': 'tokens',
    },
    'phases': {'model.phases': 2, 'model.blur': True},
    'one token': {'model.patches.size': 4, 'model.patches.stride': 9, 'model.gelu': 'tanh'},
    'remat': {'model.remat': True, 'model.dropout_rate': 0.5, 'model.stoch_depth': 0.5},
}


@pytest.mark.parametrize('name', NETWORKS)
def test_every_kind_of_network_exports_to_its_own_numbers(name):
    config = small_config(**NETWORKS[name])
    model = create_model(config, 10)
    variables = random_variables(model, np.zeros((1, 8, 8, 1), np.float32), train=False)
    weights = {k: a[None] for k, a in flatten_dict(variables['params'], sep='/').items()}
    classify = make_classifier(config, 10, np.ones(1))
    program = export.deserialize(bytearray(export_program(classify, weights, (8, 8, 1))))
    images = IMAGES.astype(np.float32) / 127.5 - 1
    logits = jax.jit(lambda v: model.apply(v, images, train=False))(variables)
    expected = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(program.call(weights, IMAGES), expected, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 1e-3  # the images do differ


def test_a_temperature_is_baked_in_if_it_is_of_the_checkpoint(run, copy, exported, tmp_path):
    noted = {'step': 27, 'dataset': 'digits', 'split': 'train[300:]', 'examples': 1133}
    noted['temperatures'] = [0.5, 2.0]
    write_json(copy / CALIBRATION, noted)
    manifest = export_run(copy, tmp_path / 'out')
    assert manifest['calibration'] == noted
    log_probs = np.log(np.load(run / 'predictions.npz')['probabilities'])
    pairs = zip(log_probs, noted['temperatures'], strict=True)
    expected = np.mean([np.exp(apply_temperature(*pair)) for pair in pairs], axis=0)
    probabilities = called(tmp_path / 'out', Digits().read('test[:100]').images)
    np.testing.assert_allclose(probabilities, expected, atol=2e-6)
    write_json(copy / CALIBRATION, {**noted, 'step': 18})  # of another checkpoint
    assert export_run(copy, tmp_path / 'other')['calibration'] is None
    plain = called(exported[0], IMAGES)
    np.testing.assert_array_equal(called(tmp_path / 'other', IMAGES), plain)


@pytest.mark.parametrize(('kind', 'step'), [('newest', 27), ('best', 18)])
def test_the_weights_are_those_of_the_checkpoint_by_the_names_of_the_original(
    copy, tmp_path, monkeypatch, capsys, kind, step
):
    """As if the one before the newest were the best; and the class names are those of the run."""
    monkeypatch.setattr(RunState, 'best_step', property(lambda self: 18))
    names = [f'digit {label}\x1b[2J' for label in range(10)]
    recorded = read_json(copy / 'preprocessing.json')
    write_json(copy / 'preprocessing.json', {**recorded, 'class_names': names})
    output = tmp_path / 'out'
    output.mkdir()  # empty
    words = f'--workdir={copy}', f'--output={output}', f'--checkpoint={kind}'
    assert main(['export', *words], 0.0) == 0
    printed = capsys.readouterr().out
    assert 'batch×8×8×1 uint8' in printed and 'cpu, cuda, tpu' in printed
    assert max(len(line) for line in printed.splitlines() if str(output) not in line) <= 80
    manifest = read_json(output / 'manifest.json')
    assert manifest['step'] == step and manifest['classes'] == names
    assert '\x1b' not in (output / 'manifest.json').read_text()
    trained = load_trained(copy, best=kind == 'best')
    with np.load(output / 'weights.npz', allow_pickle=False) as weights:
        assert {'stem/kernel', 'MixerBlock_0/token_mixing/Dense_0/kernel'} <= {*weights}
        np.testing.assert_array_equal(weights['head/kernel'], trained.params['head']['kernel'])


def test_the_example_needs_jax_and_numpy_alone_and_refuses_damaged_files(exported, tmp_path):
    np.save(tmp_path / 'images.npy', IMAGES)
    for package in ('mixer_dilated', 'flax', 'optax', 'orbax'):
        (tmp_path / f'{package}.py').write_text(f'raise SystemExit("{package} was imported")')

    def example(folder):
        environment = {'PYTHONPATH': str(tmp_path)}
        return run_python(folder / 'predict.py', 'images.npy', cwd=tmp_path, env=environment)

    done = example(exported[0])
    assert done.returncode == 0, done.stderr
    probabilities = called(exported[0], IMAGES)
    assert done.stdout == ''.join(f"{row.max():.4f} '{row.argmax()}'\n" for row in probabilities)
    copy = shutil.copytree(exported[0], tmp_path / 'copy')
    for name in ('weights.npz', 'program.jax_export'):
        flip_bit(copy / name, 4 * (copy / name).stat().st_size)
        done = example(copy)
        assert done.returncode == 1 and done.stdout == ''
        assert done.stderr == f'{name}: damaged, not the file that was exported; export again\n'
        shutil.copy(exported[0] / name, copy)


@pytest.mark.parametrize(
    ('there', 'state'),
    [('manifest.json', 'holds an export'), ('notes.txt', 'not empty'), ('', 'not a folder')],
)
def test_an_output_that_is_in_use_is_left_as_it_is(run, tmp_path, capsys, there, state):
    output = tmp_path / 'out'
    file = output / there if there else output
    file.parent.mkdir(exist_ok=True)
    file.write_text('mine')
    line = refused(capsys, 'export', f'--workdir={run}', f'--output={output}')
    assert f'--output={output}: {state}' in line
    assert file.read_text() == 'mine' and len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize(
    ('words', 'value'),
    [
        (['--output=x'], '--workdir'),
        (['--workdir=RUN'], '--output=NEW_FOLDER'),
        (['--workdir=RUN', '--output='], '--output=:'),
        (['--workdir=RUN', '--output=x', '--checkpoint=oldest'], '--checkpoint=oldest:'),
        (['--workdir=no/where', '--output=x'], '--workdir=no/where:'),
    ],
)
def test_a_wrong_export_is_refused_in_one_line(run, tmp_path, monkeypatch, capsys, words, value):
    monkeypatch.chdir(tmp_path)
    assert value in refused(capsys, 'export', *(word.replace('RUN', str(run)) for word in words))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('fails', ['mkdir', 'weights.npz', 'manifest.json', 'rename'])
def test_a_full_disk_leaves_nothing_and_says_so(run, tmp_path, monkeypatch, fails):
    """The system refuses at each of the places where something is written."""
    full, replace = raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), os.replace
    if fails in ('mkdir', 'rename'):
        monkeypatch.setattr('pathlib.Path.mkdir' if fails == 'mkdir' else 'os.rename', full)
    else:
        monkeypatch.setattr(
            'os.replace', lambda a, b: full() if str(b).endswith(fails) else replace(a, b)
        )
    with refuses(f'--output={tmp_path}/out: ', 'No space left on device'):
        export_run(run, tmp_path / 'out')
    assert not any(tmp_path.iterdir())
