"""Calibration: its error in NumPy, temperatures that are known, what is refused."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from mixer_dilated.cli.main import main
from mixer_dilated.inference.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    read_calibration,
    read_temperatures,
)
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from tests.conftest import refused, refuses, warns


def drawn(seed, examples=200, classes=5, scale=2.0):
    """Log-probabilities, and labels drawn from them: calibrated but for chance."""
    draw = np.random.default_rng(seed)
    log_probs = log_softmax(draw.normal(0, scale, (examples, classes)), axis=1)
    labels = [draw.choice(classes, p=np.exp(row)) for row in log_probs]
    return log_probs, np.array(labels)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.floats(0.1, 20))
def test_calibration_error_and_likelihood_are_as_defined(seed, examples, scale):
    log_probs, labels = drawn(seed, examples, scale=scale)
    probabilities = np.exp(log_probs)
    confidence = probabilities.max(1)
    expected = 0.0
    for m in range(1, 16):
        inside = ((m - 1) / 15 < confidence) & (confidence <= m / 15)
        if inside.any():
            accuracy = (probabilities.argmax(1) == labels)[inside].mean()
            expected += inside.mean() * abs(accuracy - confidence[inside].mean())
    assert expected_calibration_error(log_probs, labels) == pytest.approx(expected, abs=1e-9)
    likelihood = -log_probs[np.arange(examples), labels].mean()
    assert negative_log_likelihood(log_probs, labels) == pytest.approx(likelihood)


def test_probabilities_of_zero_and_one_are_in_a_bin_and_no_number_has_no_error():
    certain = np.array([[0.0, -np.inf], [0.0, -np.inf]])
    assert expected_calibration_error(certain, np.array([0, 1])) == 0.5
    assert np.isnan(expected_calibration_error(np.full((2, 2), np.nan), np.array([0, 1])))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 5))
def test_temperature_scales_logits_and_leaves_their_order(seed, temperature):
    logits = np.random.default_rng(seed).normal(0, 3, (20, 5))
    log_probs = apply_temperature(log_softmax(logits, axis=1), temperature)
    np.testing.assert_allclose(log_probs, log_softmax(logits / temperature, axis=1), atol=1e-12)
    np.testing.assert_array_equal(log_probs.argmax(1), logits.argmax(1))


@pytest.mark.parametrize('known', [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found_again(known):
    calibrated, labels = drawn(seed=3, examples=5000)
    sharpened = log_softmax(calibrated * known, axis=1)  # right again at this temperature
    temperature = fit_temperature('x', sharpened, labels)
    assert temperature == pytest.approx(known, rel=0.05)
    # No other temperature near it has a smaller negative log-likelihood.
    best, *others = (
        negative_log_likelihood(apply_temperature(sharpened, temperature * by), labels)
        for by in (1, 0.999, 1.001, 0.5, 2)
    )
    assert best < min(others)
    if known != 1:
        assert expected_calibration_error(apply_temperature(sharpened, temperature), labels) < 0.03
        assert expected_calibration_error(sharpened, labels) > 0.05


def test_a_split_without_a_best_temperature_is_refused():
    log_probs, _ = drawn(seed=0)
    for values, labels in (
        (log_probs, log_probs.argmax(1)),
        (log_probs, log_probs.argmin(1)),
        (np.full((3, 2), np.nan), np.zeros(3, int)),
    ):
        with refuses('here: ', len(labels)):
            fit_temperature('here', values, labels)


def test_a_fitted_temperature_is_kept_for_its_checkpoint_and_changes_no_accuracy(copy, capsys):
    before = evaluate_checkpoint(copy, 'test[:100]')
    assert before['calibration'] is None
    predictions = np.load(copy / 'predictions.npz')
    for of_seed, probabilities in zip(before['results'], predictions['probabilities'], strict=True):
        expected = expected_calibration_error(np.log(probabilities), predictions['labels'])
        assert of_seed['ece'] == pytest.approx(expected, abs=1e-5)
        assert 'temperature' not in of_seed
    assert main(['evaluate', f'--workdir={copy}', '--split=test[:100]',
                 '--calibrate=train[300:700]'], 0.0) == 0  # fmt: skip
    printed = capsys.readouterr().out
    after = evaluate_checkpoint(copy, 'test[:100]')
    assert 'train[300:700], 400 examples' in printed
    assert max(map(len, printed.splitlines())) <= 80
    noted = json.loads((copy / 'calibration.json').read_text())
    assert (noted['step'], noted['split'], noted['examples']) == (27, 'train[300:700]', 400)
    with warns("'train[300:700]'", "'train[600:800]'"):
        seen = evaluate_checkpoint(copy, 'train[600:800]')
    assert seen['calibration'] is None and 'temperature' not in seen['results'][0]
    for old, new, fitted in zip(
        before['results'], after['results'], noted['temperatures'], strict=True
    ):
        assert all(new[name] == old[name] for name in ('loss', 'correct', 'ece'))
        assert new['temperature'] == fitted != 1
        assert f'{new["calibrated_ece"]:.4f}' in printed
    np.testing.assert_array_equal(read_temperatures(copy, 27), noted['temperatures'])
    np.testing.assert_array_equal(read_temperatures(copy, 26), [1, 1])
    assert read_calibration(copy, 26) is None
    damaged = {**noted, 'temperatures': [1.5, 1.5]}
    (copy / 'calibration.json').write_text(json.dumps(damaged))
    with refuses(f'{copy}/calibration.json: '):
        read_temperatures(copy, 27)


@pytest.mark.parametrize(
    ('words', 'values'),
    [
        (['--calibrate=train[299:310]'], [': 1 ', "config.dataset.train_split = 'train[:300]'"]),
        (['--calibrate=test[50:]'], ["'test[50:]': 50 ", "--split = 'test[:100]'"]),
        (['--calibrate=test[:9]', '--split=test'], [': 9 ', '--split']),
        (['--calibrate=trian'], ["--calibrate = 'trian'"]),
        (['--calibrate='], ['--calibrate=:']),
    ],
)
def test_examples_that_are_not_for_calibration_are_refused(run, capsys, words, values):
    line = refused(capsys, 'evaluate', f'--workdir={run}', *words)
    assert all(value in line for value in values), line


NOTED = {'step': 27, 'temperatures': [1.0, 1], 'dataset': 'd', 'split': 's', 'examples': 3}


@pytest.mark.parametrize(
    'noted',
    [
        [],
        {**NOTED, 'temperatures': [1.0]},
        {**NOTED, 'temperatures': [1.0, -1]},
        {**NOTED, 'temperatures': [1.0, float('nan')]},
        {**NOTED, 'step': 'x'},
        {**NOTED, 'checksum': 7},
    ],
    ids=str,
)
def test_a_damaged_calibration_is_refused(run, tmp_path, noted):
    shutil.copy(run / 'config.json', tmp_path)
    (tmp_path / 'calibration.json').write_text(json.dumps(noted))
    with refuses(f'{tmp_path}/calibration.json: '):
        read_temperatures(tmp_path, 27)
