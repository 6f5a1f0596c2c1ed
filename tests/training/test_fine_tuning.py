"""Starting from weights: what a run begins with, frozen layers, learning rates by layer, probe."""

import functools
import json
import warnings

import chex
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.data.preprocessing import upsample
from mixer_dilated.errors import UserError
from mixer_dilated.inference import conversion
from mixer_dilated.inference.probe import compute_features, fit_ridge, linear_probe
from mixer_dilated.pretrained.resampling import interpolate_token_mixing
from mixer_dilated.training.optimizer import layer_lr_multipliers, make_optimizer
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.state import create_model, load_initial_params, load_seed_weights
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import small_config

PLAIN = {
    'model.patches.size': 2,
    'model.patches.dilation': 1,
    'model.patches.stride': 2,
    'model.patches.padding': 'VALID',
    'model.num_blocks': 2,
}


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """A run of plain patches, two seeds."""
    folder = tmp_path_factory.mktemp('plain') / 'run'
    train_and_evaluate(small_config(**PLAIN, num_seeds=2), folder)
    return folder


def newest(folder):
    return [each.arrays for each in load_seed_weights(folder)]


@pytest.mark.slow
def test_a_run_begins_with_the_parameters_of_each_seed(plain, tmp_path):
    """Kept head and nothing to adapt: the accuracy before training is that of the run."""
    kept = {'transfer.head': 'keep', 'num_seeds': 2, 'num_epochs': 1, 'seed': 7}
    config = small_config(**PLAIN, **kept, init_from=str(plain))
    initial = load_initial_params(create_setup(config))
    assert initial.adapted == []
    for k, arrays in enumerate(newest(plain)):
        kernel = initial.params['MixerBlock_1']['token_mixing']['Dense_0']['kernel'][k]
        np.testing.assert_array_equal(kernel, arrays['MixerBlock_1/token_mixing/Dense_0/kernel'])
    train_and_evaluate(config, tmp_path / 'run')
    begun = json.loads((tmp_path / 'run' / 'initial.json').read_text())
    summary = json.loads((plain / 'summary.json').read_text())
    assert begun['test_accuracy'] == [each['test_accuracy'] for each in summary['results']]


@pytest.mark.slow
def test_a_plain_run_becomes_a_dilated_one(plain, tmp_path):
    """4×4 tokens of 2×2 pixels to 3×3 of 2×2 pixels 2 apart."""
    dilated = {**PLAIN, 'model.patches.dilation': 2, 'model.patches.stride': 3}
    dilated |= {'model.patches.padding': 'SAME', 'num_epochs': 1, 'transfer.head': 'keep'}
    config = small_config(**dilated, init_from=str(plain))
    train_and_evaluate(config, tmp_path / 'run')
    begun = json.loads((tmp_path / 'run' / 'initial.json').read_text())
    assert begun['adapted'] == [
        'stem kernel trained on patches (size 2×2, dilation 1×1, stride 2×2, padding VALID), here '
        '(size 2×2, dilation 2×2, stride 3×3, padding SAME)',
        "token mixing of 4×4 tokens made for 3×3 by config.transfer.tokens = 'interpolate'",
    ]
    before = newest(plain)[0]
    found = flatten_dict(load_initial_params(create_setup(config)).params, sep='/')
    np.testing.assert_array_equal(found['stem/kernel'][0], before['stem/kernel'])
    mixing = 'MixerBlock_1/token_mixing/'
    old = {name.removeprefix(mixing): a for name, a in before.items() if name.startswith(mixing)}
    for name, array in interpolate_token_mixing(old, ((4, 4),), ((3, 3),)).items():
        np.testing.assert_allclose(found[mixing + name][0], array, atol=1e-6)


@pytest.mark.slow
def test_frozen_layers_stay_and_others_train(plain, tmp_path):
    frozen = {'optimizer.freeze_stem': True, 'optimizer.freeze_blocks': 1, 'num_epochs': 1}
    config = small_config(**PLAIN, **frozen, init_from=str(plain))
    train_and_evaluate(config, tmp_path / 'run')
    (found,), before = newest(tmp_path / 'run'), newest(plain)[0]
    for name, array in found.items():
        same = np.array_equal(array, before[name])
        assert same == name.startswith(('stem', 'MixerBlock_0')), name


def test_layers_have_their_share_of_the_learning_rate():
    optimizer = resolve({'optimizer': {'layer_decay': 0.5, 'freeze_blocks': 1}}).optimizer
    params = {name: {'kernel': 1.0} for name in ('stem', 'head', 'pre_head_layer_norm')}
    params |= {f'MixerBlock_{i}': {'token_mixing': {'bias': 1.0}} for i in range(3)}
    found = layer_lr_multipliers(optimizer, params)
    assert jax.tree.leaves(found['stem']) == [0.5**4]
    blocks = [jax.tree.leaves(found[f'MixerBlock_{i}'])[0] for i in range(3)]
    assert blocks == [0, 0.25, 0.5]
    assert found['head']['kernel'] == found['pre_head_layer_norm']['kernel'] == 1


def test_the_update_of_each_layer_is_its_share():
    """Of plain gradient descent by 1."""
    keys = {'layer_decay': 0.5, 'name': 'sgd', 'base_lr': 1.0, 'momentum': 0.0}
    keys |= {'decay_type': 'constant', 'weight_decay': 0.0}
    optimizer = resolve({'optimizer': keys}).optimizer
    params = {name: {'kernel': np.ones(2)} for name in ('stem', 'MixerBlock_0', 'head')}
    rule = make_optimizer(optimizer, 10)
    updates, _ = rule.update(params, rule.init(params), params)
    found = {name: float(layer['kernel'][0]) for name, layer in updates.items()}
    assert found == {'stem': -0.25, 'MixerBlock_0': -0.5, 'head': -1.0}


def test_a_probe_sees_what_the_network_sees(plain):
    """Enlarged images, at every phase."""
    seen = {
        'dataset.image_size': 12,
        'augment.random_phase': True,
        'model.patches.dilation': 2,
        'model.patches.padding': 'SAME',
        'batch_eval': 7,
    }
    config = small_config(**{**PLAIN, **seen}, init_from=str(plain))
    setup = create_setup(config)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        params = jax.tree.map(lambda leaf: leaf[0], load_initial_params(setup).params)
    examples = setup.dataset.read('train[:10]')
    found, labels = compute_features(setup, params, setup.dataset.data_source('train[:10]'))
    np.testing.assert_array_equal(labels, examples.labels)
    network = create_model(config, 10)
    head = {'kernel': np.zeros((config.model.hidden_dim, 10)), 'bias': np.zeros(10)}
    padded = np.pad(upsample(examples.images, (12, 12)), ((0, 0), (0, 1), (0, 1), (0, 0)))
    expected = [
        network.apply(
            {'params': {'head': head, **params}},
            padded[:, down : 12 + down, right : 12 + right] / 127.5 - 1,
            train=False,
            return_intermediates=True,
        )[1]['pre_logits']
        for down in (0, 1)
        for right in (0, 1)
    ]
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-5)


def test_a_file_that_does_not_fit_leaves_no_folder_and_shows_a_table(plain, tmp_path, capsys):
    words = ['--config=configs/digits_dilated.py', f'--config.init_from={plain}']
    assert main([*words, f'--workdir={tmp_path / "run"}'], 0.0) == 2
    err = capsys.readouterr().err
    assert 'hidden_dim=8' in err and max(map(len, err.splitlines()[:-1])) <= 80
    assert err.splitlines()[-1].startswith(f'error: {plain}: does not fit the network')
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_run_that_goes_on_needs_its_weights_no_more(plain, tmp_path):
    gone = tmp_path / 'weights.npz'
    assert main(['convert', str(plain), str(gone)], 0.0) == 0
    config = small_config(**PLAIN, init_from=str(gone), num_epochs=1)
    train_and_evaluate(config, tmp_path / 'run')
    (tmp_path / 'run' / 'summary.json').unlink()
    gone.unlink()
    train_and_evaluate(config, tmp_path / 'run')
    with pytest.raises(UserError, match=r'weights.npz: no such file'):
        train_and_evaluate(config, tmp_path / 'other')


def test_ridge_is_the_solution_of_its_equations():
    """The gradient of |XW + b - Y|² / n + λ s |W|² vanishes, with centred X."""
    draw = np.random.default_rng(0)
    x, labels = draw.normal(size=(50, 4)), draw.integers(0, 3, 50)
    classifier = fit_ridge(x, labels, 3, [0.3, 1.0])[0.3]
    centred, y = x - x.mean(axis=0), np.eye(3)[labels]
    error = centred @ classifier.weights + classifier.prior - y
    gradient = centred.T @ error / 50 + 0.3 * np.mean(centred**2) * classifier.weights
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    with pytest.raises(UserError, match='features of all training examples are alike'):
        fit_ridge(np.ones((50, 4)), labels, 3, [0.3])


def test_a_probe_chooses_on_validation_and_tells_the_classes(plain, capsys):
    config = small_config(**PLAIN, init_from=str(plain))
    found = linear_probe(config, 'train[300:600]')
    assert found['strength'] == max(found['validation'], key=found['validation'].get)
    assert found['test_accuracy'] > 0.3  # of ten classes, with eight channels
    again = linear_probe(config, 'train[300:600]')
    chex.assert_trees_all_equal(again['validation'], found['validation'])
    assert main(['probe', '--config=configs/digits_dilated.py', '--split=test'], 0.0) == 2
    assert "config.init_from = ''" in capsys.readouterr().err


def test_a_probe_is_not_chosen_on_what_is_trained_or_tested_on(plain):
    config = small_config(**PLAIN, init_from=str(plain))
    # Of the run that the weights are from, too.
    others = small_config(
        **PLAIN, init_from=str(plain), **{'dataset.train_split': 'train[400:500]'}
    )
    with pytest.raises(UserError, match=r'1 of its examples are in dataset.train_split of '):
        linear_probe(others, 'train[299:400]')
    for split, key in (('train[299:400]', 'train_split'), ('test[:1]', 'test_split')):
        with pytest.raises(UserError, match=f'1 of its examples are in config.dataset.{key}'):
            linear_probe(config, split)


def test_a_folder_that_cannot_be_written_is_told_and_leaves_nothing(
    plain, tmp_path, monkeypatch, capsys
):
    def full(_, folder):
        folder.mkdir()
        raise ValueError("RESOURCE: os_error_code='28'")

    monkeypatch.setattr(conversion, 'write_orbax', full)
    assert main(['convert', str(plain), str(tmp_path / 'out')], 0.0) == 2
    assert 'out: cannot be written: No space left on device; when' in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_weights_of_the_original_get_the_gelu_they_were_trained_with(plain, tmp_path):
    """And whoever asks for another, or has weights of another, is told so."""
    for name in ('w.npz', 'unsaid.safetensors'):
        source = plain if name == 'w.npz' else tmp_path / 'w.npz'
        assert main(['convert', str(source), str(tmp_path / name)], 0.0) == 0
    auto, exact = (
        functools.partial(small_config, **PLAIN, **{'model.gelu': gelu})
        for gelu in ('auto', 'exact')
    )
    original, unsaid = str(tmp_path / 'w.npz'), str(tmp_path / 'unsaid.safetensors')
    found = {path: auto(init_from=path).model.gelu for path in ('', str(plain), unsaid, original)}
    assert [*found.values()] == ['exact', 'exact', 'exact', 'tanh']
    for config in (exact(init_from=original), auto(init_from=unsaid)):
        with pytest.warns(UserWarning, match='if these are some, were'):
            load_initial_params(create_setup(config))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load_initial_params(create_setup(auto(init_from=original)))
        assert load_initial_params(create_setup(auto(init_from=str(plain)))).adapted == [
            'head new: zeros, for 10 classes'
        ]
