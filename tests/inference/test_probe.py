"""The linear probe: what it sees, what it solves, what it is chosen on."""

import shlex
import warnings

import chex
import jax
import numpy as np
import pytest
from PIL import Image

from mixer_dilated.config import changed
from mixer_dilated.data.datasets import Digits
from mixer_dilated.data.stored_images import to_input
from mixer_dilated.errors import ShapeMismatchError
from mixer_dilated.inference.probe import STRENGTHS, compute_features, fit_ridge, linear_probe
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.state import create_model, load_initial_params, load_seed_weights
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import PLAIN, refused, refuses, small_config


@pytest.mark.slow
def test_a_probe_sees_what_the_network_sees(plain_run):
    """Enlarged images, at every phase."""
    changes = {
        'dataset.image_size': 12,
        'augment.random_phase': True,
        'model.patches.dilation': 2,
        'model.patches.padding': 'SAME',
        'batch_eval': 7,
    }
    config = small_config(**{**PLAIN, **changes}, init_from=str(plain_run))
    setup = create_setup(config)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        params = jax.tree.map(lambda leaf: leaf[0], load_initial_params(setup).params)
    examples = setup.dataset.read('train[:10]')
    features, labels = compute_features(setup, params, setup.dataset.data_source('train[:10]'))
    np.testing.assert_array_equal(labels, examples.labels)
    network = create_model(config, 10)
    head = {'kernel': np.zeros((config.model.hidden_dim, 10)), 'bias': np.zeros(10)}
    padded = np.pad(to_input(examples.images, (12, 12)), ((0, 0), (0, 1), (0, 1), (0, 0)))
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
    np.testing.assert_allclose(features, np.mean(expected, axis=0), atol=1e-5)


def test_ridge_is_the_solution_of_its_equations():
    """The gradient of |XW + b - Y|² / n + λ s |W|² vanishes, with centred X."""
    draw = np.random.default_rng(0)
    x, labels = draw.normal(size=(50, 4)), draw.integers(0, 3, 50)
    strength = STRENGTHS[-3]
    classifier = fit_ridge(x, labels)[strength]
    centred, y = x - x.mean(axis=0), 2 * np.eye(3)[labels] - 1  # right and wrong are 1 and -1
    error = centred @ classifier.coef_.T + y.mean(axis=0) - y
    gradient = centred.T @ error / 50 + strength * np.mean(centred**2) * classifier.coef_.T
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    with refuses('features'):
        fit_ridge(np.ones((50, 4)), labels)


def test_a_probe_chooses_on_validation_and_predicts_the_classes(plain_run, capsys):
    config = small_config(**PLAIN, init_from=str(plain_run))
    result, again = (linear_probe(config, 'train[300:600]') for _ in range(2))
    assert result['strength'] == max(result['validation'], key=result['validation'].get)
    assert result['test_accuracy'] > 0.3  # of ten classes, with eight channels
    chex.assert_trees_all_equal(again['validation'], result['validation'])
    line = refused(capsys, 'probe', '--config=configs/digits_dilated.py', '--split=test')
    assert "config.init_from = ''" in line


@pytest.mark.parametrize(
    ('changes', 'split', 'key'),
    [
        ({}, 'train[299:400]', 'config.dataset.train_split'),
        ({}, 'test[:1]', 'config.dataset.test_split'),
        # Of the run that the weights are from, too.
        ({'dataset.train_split': 'train[400:500]'}, 'train[299:400]', 'dataset.train_split of '),
    ],
)
def test_a_probe_is_not_chosen_on_what_is_trained_or_tested_on(plain_run, changes, split, key):
    config = small_config(**PLAIN, init_from=str(plain_run), **changes)
    with refuses(': 1 ', key) as refusal:
        linear_probe(config, split)
    follow(refusal, config)


def follow(refusal, config):
    """The probe with the splits that a refusal names."""
    words = shlex.split(str(refusal.value).partition('for example ')[2])
    flags = dict(word.removeprefix('--').split('=', 1) for word in words)
    split = flags.pop('split')
    changes = {key.removeprefix('config.'): value for key, value in flags.items()}
    assert linear_probe(changed(config, changes), split)['test_examples'] > 0
    return changes


@pytest.mark.slow
def test_where_no_examples_are_free_a_split_is_divided(plain_run, tmp_path):
    """A folder of images, all of which are of train or test; then what a run trained on is not."""
    for k, (image, label) in enumerate(zip(*Digits().read('train[:60]'), strict=True)):
        (folder := tmp_path / 'images' / str(label % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f'{k}.png')
    data = {
        'dataset.name': f'folder:{tmp_path / "images"}',
        'dataset.train_split': 'train', 'dataset.test_split': 'test',
        'dataset.image_size': 8, 'dataset.channels': 1, 'batch': 8,
    }  # fmt: skip
    config = small_config(**{**PLAIN, **data}, init_from=str(plain_run))
    with refuses("--split = 'train[90%:]'", 'config.dataset.train_split') as refusal:
        linear_probe(config, 'train[90%:]')
    assert [*follow(refusal, config)] == ['dataset.train_split']
    train_and_evaluate(small_config(**{**PLAIN, **data, 'num_epochs': 1}), tmp_path / 'run')
    config = changed(config, {'init_from': str(tmp_path / 'run')})
    with refuses("--split = 'train[90%:]'", 'config.dataset.train_split') as refusal:
        linear_probe(config, 'train[90%:]')
    assert [*follow(refusal, config)] == ['dataset.test_split']


def test_a_probe_takes_files_and_needs_their_stem(plain_run, tmp_path):
    path = tmp_path / 'w.npz'
    arrays = load_seed_weights(plain_run)[0].arrays
    np.savez(path, **{name: array for name, array in arrays.items() if 'head/' not in name})
    config = small_config(**PLAIN, init_from=str(path))
    linear_probe(config, 'train[300:400]')
    with refuses(f'{path}: ', error=ShapeMismatchError) as refusal:
        linear_probe(changed(config, {'transfer.head': 'keep'}), 'train[300:400]')
    assert [row[3] for row in refusal.value.rows] == ['transfer.head=new']
    with refuses("config.transfer.stem = 'new'", "'resize'"):
        linear_probe(changed(config, {'transfer.stem': 'new'}), 'train[300:400]')
