"""Trained networks from the folders of runs: what is damaged is named or passed over."""

import json
import shutil
import warnings

import pytest

from mixer_dilated.files import read_json, write_json
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.inference.prediction import open_classifier
from mixer_dilated.inference.trained import load_trained
from mixer_dilated.training.run_folder import read_config
from mixer_dilated.training.setup import read_preprocessing
from tests.conftest import refuses, small_config, warns


@pytest.mark.parametrize(
    ('changes', 'key'),
    [
        ({'class_names': []}, 'class_names = []'),
        ({'class_names': [1]}, 'class_names = [1]'),
        ({'image_shape': [8, 8]}, 'image_shape = [8, 8]'),
        ({'image_shape': [8, 8, 2]}, 'image_shape = [8, 8, 2]'),
        ({'image_shape': [10**9, 8, 1]}, 'image_shape = [1000000000, 8, 1]'),
        ({'image_shape': [8, 8, 3], 'preprocess': 'fill'}, 'fill'),
        ({'preprocess': ['crop']}, "preprocess = ['crop']"),
        ({'resize': None}, 'resize = None'),
        ({'image_shape': [1, 1, 1]}, '1'),
        ({'train_examples': 0}, 'train_examples = 0'),
        (None, 'None'),
        ('not json', ''),
    ],
    ids=str,
)
def test_a_damaged_file_of_preprocessing_is_refused(run, tmp_path, changes, key):
    shutil.copy(run / 'config.json', tmp_path)
    recorded = read_json(run / 'preprocessing.json')
    content = json.dumps({**recorded, **changes} if isinstance(changes, dict) else changes)
    (tmp_path / 'preprocessing.json').write_text('{' if changes == 'not json' else content)
    reads = [lambda: open_classifier(tmp_path, ['x.png'])]
    if key != 'fill':  # which weights of `config.init_from` do not need
        reads.append(lambda: read_preprocessing(tmp_path, read_config(tmp_path)))
    for read in reads:
        with refuses(f'{tmp_path}/preprocessing.json: ', key, 'remove it'):
            read()


@pytest.mark.parametrize(
    ('file', 'changes', 'values'),
    [
        ('preprocessing', {'class_names': list('012345678')}, ['class_names', '9', '10']),
        ('preprocessing', {'image_shape': [16, 16, 1]}, ['image_shape = [16, 16, 1]']),
        ('preprocessing', {'image_shape': [8, 8, 3]}, ['stem/kernel', '1, 8]', '3, 8]']),
        ('config', {'num_seeds': 3}, ['num_seeds: 2']),
    ],
    ids=str,
)
def test_an_edit_that_the_network_does_not_fit_is_no_damage_of_checkpoints(
    copy, file, changes, values
):
    path = copy / f'{file}.json'
    write_json(path, {**read_json(path), **changes})
    if file == 'preprocessing':
        values = [f'{path}: ', 'remove it', *values]
    with warnings.catch_warnings(), refuses(*values) as refusal:
        warnings.simplefilter('error', UserWarning)
        load_trained(copy)
    assert 'undamaged' not in str(refusal.value)


def test_a_damaged_checkpoint_has_no_shapes_and_the_one_before_it_is_loaded(copy):
    for path in (copy / 'checkpoints' / '27' / 'record').iterdir():
        path.write_text('[' * 200_000)
    with warns('checkpoints/27'):
        assert load_trained(copy).step == 18


def test_evaluating_without_a_run_or_checkpoint_is_refused(tmp_path):
    with refuses(tmp_path / 'nothing', 'no run'):
        evaluate_checkpoint(tmp_path / 'nothing')
    (tmp_path / 'config.json').write_text(json.dumps(small_config().to_dict()))
    with refuses(tmp_path, 'no checkpoint'):
        evaluate_checkpoint(tmp_path)
    (tmp_path / 'config.json').write_text('{"seed":')
    with refuses(tmp_path / 'config.json', 'cannot be read'):
        evaluate_checkpoint(tmp_path)
