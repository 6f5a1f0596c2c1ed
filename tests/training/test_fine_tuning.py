"""Starting from weights: what a run begins with, frozen layers, the linear probe."""

import warnings

import chex
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mixer_dilated.cli.main import main
from mixer_dilated.config import flat
from mixer_dilated.files import read_json
from mixer_dilated.pretrained.resampling import interpolate_token_mixing
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.state import load_initial_params, load_seed_weights
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import PLAIN, raising, refuses, small_config, warns


def tune(folder, **changes):
    """A config of an epoch that begins with the weights of `folder`."""
    return small_config(**{**PLAIN, 'num_epochs': 1, 'init_from': str(folder), **changes})


def initial_params(config):
    return flatten_dict(load_initial_params(create_setup(config)).params, sep='/')


def newest(folder):
    return [weights.arrays for weights in load_seed_weights(folder)]


@pytest.mark.slow
def test_a_run_begins_with_the_parameters_of_each_seed(plain_run, tmp_path):
    """Kept head and nothing to adapt: the accuracy before training is that of the run."""
    config = tune(plain_run, **{'transfer.head': 'keep', 'num_seeds': 2, 'seed': 7})
    params = initial_params(config)
    for k, arrays in enumerate(newest(plain_run)):
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, k=k: leaf[k], params), arrays)
    train_and_evaluate(config, tmp_path / 'run')
    initial = read_json(tmp_path / 'run' / 'initial.json')
    assert initial['adapted'] == []
    results = read_json(plain_run / 'summary.json')['results']
    assert initial['test_accuracy'] == [result['test_accuracy'] for result in results]


@pytest.mark.slow
def test_a_plain_run_becomes_a_dilated_one(plain_run, tmp_path):
    """4×4 tokens of 2×2 pixels to 3×3 of 2×2 pixels 2 apart."""
    dilated = {'patches': {'dilation': 2, 'stride': 3, 'padding': 'SAME'}}
    config = tune(plain_run, **flat({'model': dilated, 'transfer': {'head': 'keep'}}))
    train_and_evaluate(config, tmp_path / 'run')
    assert read_json(tmp_path / 'run' / 'initial.json')['adapted'] == [
        'stem kernel trained on patches (size 2×2, dilation 1×1, stride 2×2, padding VALID), here '
        '(size 2×2, dilation 2×2, stride 3×3, padding SAME)',
        "token mixing of 4×4 tokens made for 3×3 by config.transfer.tokens = 'interpolate'",
    ]
    before, params = newest(plain_run)[0], initial_params(config)
    np.testing.assert_array_equal(params['stem/kernel'][0], before['stem/kernel'])
    prefix = 'MixerBlock_1/token_mixing/'
    mixing = {k.removeprefix(prefix): a for k, a in before.items() if k.startswith(prefix)}
    for name, array in interpolate_token_mixing(mixing, ((4, 4),), ((3, 3),)).items():
        np.testing.assert_allclose(params[prefix + name][0], array, atol=1e-6)


@pytest.mark.slow
def test_frozen_layers_stay_and_others_train(plain_run, tmp_path):
    config = tune(plain_run, **{'optimizer.freeze_stem': True, 'optimizer.freeze_blocks': 1})
    train_and_evaluate(config, tmp_path / 'run')
    (trained,), before = newest(tmp_path / 'run'), newest(plain_run)[0]
    for name, array in trained.items():
        same = np.array_equal(array, before[name])
        assert same == name.startswith(('stem', 'MixerBlock_0')), name


def test_a_file_that_does_not_fit_leaves_no_folder_and_shows_a_table(plain_run, tmp_path, capsys):
    words = ['--config=configs/digits_dilated.py', f'--config.init_from={plain_run}']
    assert main([*words, f'--workdir={tmp_path / "run"}'], 0.0) == 2
    *table, line = capsys.readouterr().err.splitlines()
    assert 'hidden_dim=8' in ''.join(table) and max(map(len, table)) <= 80
    assert line.startswith(f'error: {plain_run}: ')
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_run_that_goes_on_needs_its_weights_no_more(plain_run, tmp_path):
    gone = tmp_path / 'weights.npz'
    assert main(['convert', str(plain_run), str(gone)], 0.0) == 0
    config = tune(gone)
    train_and_evaluate(config, tmp_path / 'run')
    (tmp_path / 'run' / 'summary.json').unlink()
    gone.unlink()
    train_and_evaluate(config, tmp_path / 'run')
    with refuses('weights.npz: no such file'):
        train_and_evaluate(config, tmp_path / 'other')


@pytest.mark.slow
def test_weights_get_the_gelu_they_were_trained_with(plain_run, tmp_path):
    """What a file knows goes along when it is converted, and when a run begins with it."""
    original, converted = str(tmp_path / 'w.npz'), str(tmp_path / 'w.safetensors')
    folder, of_run = str(tmp_path / 'folder'), str(tmp_path / 'run.safetensors')
    copies = (plain_run, original), (original, converted), (converted, folder), (plain_run, of_run)
    for words in copies:
        assert main(['convert', *map(str, words)], 0.0) == 0
    train_and_evaluate(tune(original), tmp_path / 'run')
    tanh = (original, converted, folder, str(tmp_path / 'run'))
    gelus = {'': 'exact', str(plain_run): 'exact', of_run: 'exact', **dict.fromkeys(tanh, 'tanh')}
    for path, gelu in gelus.items():
        assert tune(path).model.gelu == gelu, path
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            adapted = load_initial_params(create_setup(tune(path))).adapted
        assert adapted == (['head new: zeros, for 10 classes'] if path else [])
    for path in tanh:
        with warns("config.model.gelu = 'exact'", path, '--config.model.gelu=tanh'):
            load_initial_params(create_setup(tune(path, **{'model.gelu': 'exact'})))


def test_patches_that_nobody_set_are_said_before_anything_is_compiled(
    plain_run, tmp_path, monkeypatch
):
    original = str(tmp_path / 'w.npz')
    assert main(['convert', str(plain_run), original], 0.0) == 0
    monkeypatch.setattr(CompiledFunctions, 'compile_training', raising(InterruptedError()))
    config = tune(original, **{'model.patches.size': 4, 'model.patches.stride': 4})
    with (
        warns('w.npz', '2×2', '.patches.size=2', 'transfer.stem=new'),
        pytest.raises(InterruptedError),
    ):
        train_and_evaluate(config, tmp_path / 'run')


def test_a_stem_that_is_new_is_that_of_a_run_from_scratch(plain_run):
    config = tune(plain_run, **{'transfer.stem': 'new', 'model.patches.size': 4})
    initial = load_initial_params(create_setup(config))
    assert {*initial.params} == {'MixerBlock_0', 'MixerBlock_1', 'pre_head_layer_norm'}
    assert initial.adapted[-2:] == ['stem new: random', 'head new: zeros, for 10 classes']
