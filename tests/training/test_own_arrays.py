"""A data set, a config and a loop of one's own."""

import numpy as np
import pytest

from mixer_dilated.data.datasets import Digits
from mixer_dilated.data.examples import dataset_of_arrays
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.inference.trained import load_trained
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import random_bytes, refuses, run_python, small_config
from tests.training.runs import rows_of

OWN = {'dataset.train_split': 'train', 'dataset.test_split': 'test', 'num_epochs': 1}


def digits_arrays():
    train, test = Digits().read('train[:300]'), Digits().read('test[:100]')
    return {'train': (train.images, train.labels), 'test': (test.images[..., 0], test.labels)}


def test_arrays_train_like_the_data_set_that_they_are_of(tmp_path):
    dataset = dataset_of_arrays(digits_arrays(), name='mine')
    assert (dataset.image_shape, dataset.num_classes) == ((8, 8, 1), 10)
    named = {'dataset.train_split': 'train[:300]', 'dataset.test_split': 'test[:100]'}
    train_and_evaluate(small_config(**{**OWN, **named}), str(tmp_path / 'named'))
    config = small_config(**OWN)
    summary = train_and_evaluate(config, str(tmp_path / 'own'), dataset)
    assert (summary['dataset'], summary['train_examples']) == ('own:mine', 300)
    assert rows_of(tmp_path / 'own') == rows_of(tmp_path / 'named')
    results = evaluate_checkpoint(str(tmp_path / 'own'), dataset=dataset)['results']
    assert results[0]['correct'] == summary['results'][0]['test_correct']
    with refuses('dataset.name'):
        other = dataset_of_arrays(digits_arrays(), name='other')
        train_and_evaluate(config, tmp_path / 'own', other)


@pytest.mark.slow
def test_a_config_need_not_be_resolved(tmp_path):
    dataset = {'name': 'digits', 'train_split': 'train[:64]', 'test_split': 'test[:64]'}
    model = {'num_blocks': 1, 'patches': {'size': 2, 'stride': 2}}
    config = {'dataset': dataset, 'num_epochs': 1, 'batch': 32, 'model': model}
    summary = train_and_evaluate(config, str(tmp_path / 'run'))
    assert (summary['train_examples'], summary['num_tokens']) == (64, 16)
    with refuses('config.epochs'):
        train_and_evaluate({**config, 'epochs': 3}, str(tmp_path / 'other'))
    assert not (tmp_path / 'other').exists()


def arrays(**changes):
    images, labels = random_bytes((6, 5, 4, 3)), np.array([0, 1, 2, 0, 1, 2])
    return {'train': (images, labels), 'test': (images, labels), **changes}


@pytest.mark.parametrize(
    ('splits', 'class_names', 'named'),
    [
        (arrays(test=(np.zeros((6, 5, 4, 3)), np.zeros(6, int))), None, "'test'"),
        (arrays(test=(random_bytes((6, 5)), np.zeros(6, int))), None, "'test'"),
        (arrays(test=(random_bytes((0, 5, 4, 3)), np.zeros(0, int))), None, "'test'"),
        (arrays(test=(random_bytes((6, 5, 4, 3)), np.zeros(5, int))), None, "'test'"),
        (arrays(test=(random_bytes((6, 5, 4, 3)), np.zeros(6))), None, 'float64'),
        (arrays(test=(random_bytes((6, 5, 4, 3)), np.full(6, -1))), None, 'from 0'),
        (arrays(test=(random_bytes((6, 4, 4, 3)), np.zeros(6, int))), None, 'shapes'),
        (arrays(), ['cat', 'dog'], 'class_names'),
    ],
)
def test_arrays_of_another_form_are_refused(splits, class_names, named):
    with refuses(named):
        dataset_of_arrays(splits, class_names)


def test_an_image_size_that_the_given_images_do_not_have_is_refused(tmp_path):
    config = small_config(**{**OWN, 'dataset.image_size': 16})
    with refuses('config.dataset.image_size = 16'):
        train_and_evaluate(config, tmp_path / 'run', dataset_of_arrays(digits_arrays()))


@pytest.mark.slow
def test_a_trained_network_loads_silently_and_is_called_like_any_module(tmp_path):
    folder = str(tmp_path / 'run')
    train_and_evaluate(small_config(num_epochs=1), folder)
    trained = load_trained(folder)
    logits = trained.model.apply(trained.variables(), np.zeros((2, 8, 8, 1), 'f4'), train=False)
    assert logits.shape == (2, 10)
    code = f'from mixer_dilated.inference.trained import load_trained; load_trained({folder!r})'
    done = run_python('-c', code)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
