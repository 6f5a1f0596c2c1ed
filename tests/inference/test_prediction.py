"""Classes of image files: probabilities, batches, what a run's folder says of them."""

import json
import pathlib
import sys

import jax
import numpy as np
from PIL import Image

from mixer_dilated.cli.main import main
from mixer_dilated.data.datasets import Digits
from mixer_dilated.data.image_files import Ignored
from mixer_dilated.errors import UserError
from mixer_dilated.files import read_json, write_json
from mixer_dilated.inference.calibration import CALIBRATION
from mixer_dilated.inference.prediction import image_paths, open_classifier, predict
from mixer_dilated.inference.trained import load_trained
from mixer_dilated.training.run_folder import read_config
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.step import normalise
from tests.conftest import refuses
from tests.inference.conftest import BATCH


def number(prediction):
    return int(pathlib.Path(prediction.path).stem)


def predict_one(workdir, path):
    """The prediction of one file."""
    classifier, paths = open_classifier(workdir, [str(path)])
    (prediction,) = predict(classifier, paths)
    return prediction


def test_probabilities_are_the_means_over_the_seeds_in_batches_of_one_program(
    run, image_files, expected
):
    classifier, paths = open_classifier(run, image_paths([str(image_files)], Ignored()))
    predictions = list(predict(classifier, paths))
    assert classifier.batch == BATCH and len(classifier._compiled._compiled) == 1
    assert [number(prediction) for prediction in predictions] == [
        *range(0, 40, 4), *(k for k in range(40) if k % 4)
    ]  # fmt: skip
    for prediction in predictions:
        k = number(prediction)
        np.testing.assert_allclose(prediction.probabilities, expected[k], atol=1e-6)
        np.testing.assert_array_equal(
            prediction.image, Digits().read(f'test[{k}:{k + 1}]').images[0]
        )
        (first, probability), *_ = prediction.top(classifier.class_names, 3)
        assert first == str(expected[k].argmax()) and probability == prediction.probabilities.max()


def test_few_files_make_a_small_batch(run):
    for count, batch in ((1, 1), (3, 4), (16, 16), (17, 16)):
        paths = [*map(str, range(count))]
        classifier, chained = open_classifier(run, paths)
        assert classifier.batch == batch and list(chained) == paths


def test_files_that_fail_are_between_the_others_and_fill_no_batch(run, image_files, expected):
    good = sorted(map(str, image_files.rglob('*.png')))
    mixed = [path for k, name in enumerate(good) for path in [f'{k}-gone.png'] * 5 + [name]]
    classifier, paths = open_classifier(run, [*mixed, ('folder', UserError('cannot be read'))])
    predictions = list(predict(classifier, paths))
    assert [prediction.path for prediction in predictions] == [*mixed, 'folder']
    assert predictions[-1].error == 'cannot be read'
    assert predictions[0].error == 'No such file or directory'
    for prediction in predictions:
        assert (prediction.probabilities is None) == bool(prediction.error)
        if not prediction.error:
            probabilities = expected[number(prediction)]
            np.testing.assert_allclose(prediction.probabilities, probabilities, atol=1e-6)


def test_a_digit_on_paper_is_brought_to_the_form_of_the_data(copy, image_files, tmp_path):
    """Inverted, enlarged and in a corner: the preprocessing that the run records."""
    recorded = read_json(copy / 'preprocessing.json')
    assert recorded['preprocess'] == 'resize' and recorded['class_names'] == list('0123456789')
    write_json(copy / 'preprocessing.json', {**recorded, 'preprocess': 'fill'})
    paper = Image.new('L', (200, 150), 255)
    digit = Image.open(image_files / '00.png')
    paper.paste(digit.resize((64, 64)).point(lambda level: 255 - level), (120, 60))
    paper.save(tmp_path / 'paper.png')
    image = predict_one(copy, tmp_path / 'paper.png').image
    assert image.shape == (8, 8, 1) and image[:, 0].mean() < 128
    assert np.corrcoef(image.ravel(), np.asarray(digit).ravel())[0, 1] > 0.7


def test_a_run_of_an_earlier_version_takes_the_facts_from_its_data(copy, image_files, expected):
    (copy / 'preprocessing.json').unlink()
    prediction = predict_one(copy, image_files / '00.png')
    np.testing.assert_allclose(prediction.probabilities, expected[0], atol=1e-6)
    config = read_config(copy).to_dict()
    config['dataset'].update(name='folder:no/where', image_size=8)
    write_json(copy / 'config.json', config)
    with refuses('preprocessing.json: ', 'no/where'):
        open_classifier(copy, ['x.png'])


def test_the_best_checkpoint_predicts(run, image_files, tmp_path, monkeypatch):
    """As if the one before the newest were the best; `load_trained` has the same parameters."""
    monkeypatch.setattr(RunState, 'best_step', property(lambda self: 18))
    words = [f'--workdir={run}', '--checkpoint=best', f'--json={tmp_path / "out.json"}']
    assert main(['predict', *words, f'{image_files}/00.png'], 0.0) == 0
    trained = load_trained(run, best=True)
    assert (trained.step, load_trained(run).step) == (18, 27)
    image = Digits().read('test[:1]').images
    moved = np.pad(image[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))
    logits = [
        trained.model.apply(trained.variables(k), normalise(phase), train=False)[0]
        for k in range(2)
        for phase in (image, moved)
    ]
    (entry,) = json.loads((tmp_path / 'out.json').read_text())
    expected = np.mean(jax.nn.softmax(np.array(logits)), axis=0).max()
    np.testing.assert_allclose(entry['classes'][0]['probability'], expected, atol=1e-6)


def test_each_seed_has_the_temperature_that_was_fitted_for_it(run, copy, image_files):
    fitted = {'step': 27, 'temperatures': [2.0, 0.5], 'dataset': 'digits', 'split': 'train'}
    write_json(copy / CALIBRATION, {**fitted, 'examples': 300})
    with np.load(run / 'predictions.npz') as kept:
        warmer, colder = kept['probabilities'][:, 0].astype(np.float64)
    expected = (warmer**0.5 / (warmer**0.5).sum() + colder**2 / (colder**2).sum()) / 2
    prediction = predict_one(copy, image_files / '00.png')
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-6)


def test_a_standard_input_that_is_closed_or_no_list_of_files_is_refused(monkeypatch):
    with open('/dev/zero', encoding='latin1') as zeros:
        for stdin, words in ((None, 'closed'), (zeros, '65536 bytes')):
            monkeypatch.setattr(sys, 'stdin', stdin)
            with refuses("'-':", words):
                list(image_paths(['-'], Ignored()))
