"""Calibration: its error in NumPy, temperatures that are known, what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_dilated.cli.main import main
from mixer_dilated.data.datasets import Digits
from mixer_dilated.data.examples import check_disjoint
from mixer_dilated.errors import UserError
from mixer_dilated.inference.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    read_calibration,
    read_temperatures,
)
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.inference.trained import load_trained
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import small_config


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def drawn(seed, examples=200, classes=5, scale=2.0):
    """Log-probabilities, and labels drawn from them: calibrated but for chance."""
    draw = np.random.default_rng(seed)
    log_probs = log_softmax(draw.normal(0, scale, (examples, classes)))
    labels = [draw.choice(classes, p=np.exp(row)) for row in log_probs]
    return log_probs, np.array(labels)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 60), st.floats(0.1, 20))
def test_the_expected_calibration_error_is_that_of_its_definition(seed, bins, examples, scale):
    log_probs, labels = drawn(seed, examples, scale=scale)
    probabilities = np.exp(log_probs)
    confidence = probabilities.max(1)
    expected = 0.0
    for m in range(1, bins + 1):
        inside = ((m - 1) / bins < confidence) & (confidence <= m / bins)
        if inside.any():
            accuracy = (probabilities.argmax(1) == labels)[inside].mean()
            expected += inside.mean() * abs(accuracy - confidence[inside].mean())
    assert expected_calibration_error(log_probs, labels, bins) == pytest.approx(expected, abs=1e-9)


def test_one_bin_by_hand():
    """Three of four right at a confidence of 0.9, and one at 0.55 in another bin, wrong."""
    sure, unsure = np.log([0.9, 0.1]), np.log([0.55, 0.45])
    log_probs = np.array([sure, sure, sure, sure, unsure])
    labels = np.array([0, 0, 0, 1, 1])
    expected = 4 / 5 * abs(3 / 4 - 0.9) + 1 / 5 * 0.55
    assert expected_calibration_error(log_probs, labels) == pytest.approx(expected)
    likelihood = -(3 * np.log(0.9) + np.log(0.1) + np.log(0.45)) / 5
    assert negative_log_likelihood(log_probs, labels) == pytest.approx(likelihood)


def test_probabilities_of_zero_and_one_are_in_a_bin_and_no_number_has_no_error():
    certain = np.array([[0.0, -np.inf], [0.0, -np.inf]])
    assert expected_calibration_error(certain, np.array([0, 1])) == 0.5
    assert np.isnan(expected_calibration_error(np.full((2, 2), np.nan), np.array([0, 1])))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 5))
def test_temperature_scales_logits_and_leaves_their_order(seed, temperature):
    logits = np.random.default_rng(seed).normal(0, 3, (20, 5))
    log_probs = apply_temperature(log_softmax(logits), temperature)
    np.testing.assert_allclose(log_probs, log_softmax(logits / temperature), atol=1e-12)
    np.testing.assert_array_equal(log_probs.argmax(1), logits.argmax(1))


@pytest.mark.parametrize('known', [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found_again(known):
    calibrated, labels = drawn(seed=3, examples=5000)
    sharpened = log_softmax(calibrated * known)  # right again at this temperature
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
    with pytest.raises(UserError, match=r'^here: .* 200 '):
        fit_temperature('here', log_probs, log_probs.argmax(1))
    with pytest.raises(UserError, match=r'^here: '):
        fit_temperature('here', log_probs, log_probs.argmin(1))
    with pytest.raises(UserError, match=r'^here: .* 3 '):
        fit_temperature('here', np.full((3, 2), np.nan), np.zeros(3, int))


SIZES = {'train': 100, 'test': 50}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(['train', 'test']), st.integers(0, 8), st.integers(1, 9)),
             min_size=2, max_size=4)
)  # fmt: skip
def test_splits_share_examples_exactly_if_their_sets_meet(parts):
    parts = [(name, 5 * start, min(5 * (start + size), SIZES[name])) for name, start, size in parts]
    texts = [f'{name}[{start}:{stop}]' for name, start, stop in parts]
    sets = [{(name, i) for i in range(start, stop)} for name, start, stop in parts]
    one, other = texts[0], '+'.join(texts[1:])
    shared = sum(len(sets[0] & other_set) for other_set in sets[1:])
    if not shared:
        return check_disjoint('--calibrate', one, {'--split': other}, SIZES)
    with pytest.raises(UserError, match=f'{shared} .*--split'):
        check_disjoint('--calibrate', one, {'--split': other}, SIZES)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The folder of a small run of two seeds."""
    workdir = tmp_path_factory.mktemp('calibration') / 'run'
    train_and_evaluate(small_config(num_seeds=2, num_epochs=2), workdir)
    return workdir


def test_evaluation_reports_the_calibration_error_of_every_seed(run):
    result = evaluate_checkpoint(run)
    assert result['calibration'] is None
    predictions = np.load(run / 'predictions.npz')
    for of_seed, probabilities in zip(result['results'], predictions['probabilities'], strict=True):
        expected = expected_calibration_error(np.log(probabilities), predictions['labels'])
        assert of_seed['ece'] == pytest.approx(expected, abs=1e-5)
        assert 'temperature' not in of_seed
    np.testing.assert_array_equal(read_temperatures(run, result['step']), [1, 1])


def test_a_fitted_temperature_is_kept_for_its_checkpoint_and_changes_no_accuracy(run, capsys):
    before = evaluate_checkpoint(run, 'test[:100]')
    assert main(['evaluate', f'--workdir={run}', '--split=test[:100]',
                 '--calibrate=train[300:700]'], 0.0) == 0  # fmt: skip
    printed = capsys.readouterr().out
    after = evaluate_checkpoint(run, 'test[:100]')
    assert 'train[300:700], 400 examples' in printed
    assert max(map(len, printed.splitlines())) <= 80
    noted = json.loads((run / 'calibration.json').read_text())
    assert (noted['step'], noted['split'], noted['examples']) == (18, 'train[300:700]', 400)
    with pytest.warns(UserWarning, match=r"'train\[300:700\]'.*'train\[600:800\]'"):
        seen = evaluate_checkpoint(run, 'train[600:800]')
    assert seen['calibration'] is None and 'temperature' not in seen['results'][0]
    for old, new, fitted in zip(
        before['results'], after['results'], noted['temperatures'], strict=True
    ):
        assert all(new[name] == old[name] for name in ('loss', 'correct', 'ece'))
        assert new['temperature'] == fitted != 1
        assert f'{new["calibrated_ece"]:.4f}' in printed
    np.testing.assert_array_equal(read_temperatures(run, 18), noted['temperatures'])
    np.testing.assert_array_equal(read_temperatures(run, 17), [1, 1])
    assert read_calibration(run, 17) is None


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
    assert main(['evaluate', f'--workdir={run}', *words], 0.0) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(value in line for value in values), line


@pytest.mark.parametrize(
    'text',
    [
        '{',
        '[]',
        '{"step": 18, "temperatures": [1.0], "dataset": "d", "split": "s", "examples": 3}',
        '{"step": 18, "temperatures": [1.0, -1], "dataset": "d", "split": "s", "examples": 3}',
        '{"step": 18, "temperatures": [1.0, NaN], "dataset": "d", "split": "s", "examples": 3}',
        '{"step": "x", "temperatures": [1.0, 1], "dataset": "d", "split": "s", "examples": 3}',
    ],
)
def test_a_damaged_calibration_is_refused(run, tmp_path, text):
    for name, content in (
        ('config.json', (run / 'config.json').read_text()),
        ('calibration.json', text),
    ):
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r'/calibration\.json: '):
        read_temperatures(tmp_path, 18)


def test_a_loaded_network_says_what_the_evaluation_says(run):
    trained = load_trained(run)
    examples = Digits().read('test[:100]')
    images = np.asarray(examples.images, np.float32) / 127.5 - 1
    for k, of_seed in enumerate(evaluate_checkpoint(run)['results']):
        logits, seen = trained.model.apply(
            trained.variables(k), images, train=False, return_intermediates=True
        )
        assert int((logits.argmax(-1) == examples.labels).sum()) == of_seed['correct']
        assert seen['stem'].shape == (100, trained.setup.num_tokens, 8)
