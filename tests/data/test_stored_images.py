"""Images that are stored smaller, or as whole squares, and how the network sees them."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mixer_dilated.data.augmentation import draw_boxes, random_resized_crop
from mixer_dilated.data.datasets import Digits
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.stored_images import (
    aspect_ratios,
    crop_and_resize,
    image_shapes,
    is_square,
    square_of,
    square_shape,
    to_input,
)
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.inference.prediction import open_classifier, predict
from mixer_dilated.reports.result_files import read_run
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import random_bytes, refuses, small_config
from tests.data.image_sets import open_folder
from tests.training.runs import check_same_bytes


def resized(image, size, box=None):
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box=box))


# Upsampled


@given(st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(0, 99))
@settings(max_examples=10)
@example(7, 2, 1, 0)  # as high as wide and one more
def test_upsampled_images_are_those_of_pillow(side, factor, channels, seed):
    images = random_bytes((2, side, 6, channels), seed)
    size = (side * factor + factor // 2, 6 * factor)
    upsampled = np.asarray(to_input(images, size))
    assert upsampled.shape == (2, *size, channels) and upsampled.dtype == np.uint8
    for pixels, image in zip(upsampled, images, strict=True):
        expected = resized(Image.fromarray(image.squeeze(-1) if channels == 1 else image), size)
        # Pillow's weights have 8 bits.
        assert np.abs(pixels.reshape(expected.shape).astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_training_is_that_on_images_upsampled_before():
    setup = create_setup(small_config(**{'dataset.image_size': 12, 'num_epochs': 1}))
    assert setup.num_tokens == 16 and setup.dataset.stored_shape == (8, 8, 1)
    images, labels = setup.dataset.read('train[:300]')
    large = Digits((12, 12))
    large.stored_shape = (12, 12, 1)  # nothing to upsample
    results = []
    for dataset, pixels in (
        (setup.dataset, images),
        (large, np.asarray(to_input(images, (12, 12)))),
    ):
        programs = CompiledFunctions(dataclasses.replace(setup, dataset=dataset))
        inputs = programs.in_memory(Examples(pixels, labels))
        state, _ = programs.train_epoch(programs.init_state(), inputs)
        results.append((state.params, programs.evaluate(state, inputs)))
    chex.assert_trees_all_close(*results, atol=1e-6)


def test_a_run_and_its_files_have_the_size_that_the_network_sees(tmp_path):
    changes = {'dataset.image_size': 12, 'num_epochs': 1, 'augment.translate': 1, 'batch_eval': 50}
    summary = train_and_evaluate(small_config(**changes), tmp_path / 'run')
    assert summary['image_shape'] == [12, 12, 1] and summary['pixels'] == 144
    run = read_run(tmp_path / 'run')
    assert run.predictions['class_images'].shape == (10, 12, 12, 1)
    assert run.predictions['shown_images'].shape[1:] == (12, 12, 1)
    (result,) = evaluate_checkpoint(tmp_path / 'run')['results']
    assert result['correct'] == summary['results'][0]['test_correct']


# Whole squares: nothing is cut off; crops are of the original, evaluation sees its centre

SIDES = st.integers(40, 120)


def smooth(width, height):
    """An image without detail that resizing would lose."""
    few = Image.fromarray(random_bytes((height // 10, width // 10, 3)))
    return few.resize((width, height), Image.Resampling.BICUBIC)


def differ(image, expected):
    return np.abs(np.asarray(image).astype(int) - expected).mean()


@given(SIDES, SIDES)
def test_a_square_holds_the_whole_image_and_its_ratio_and_evaluation_sees_its_centre(width, height):
    image = smooth(width, height)
    square = square_of(image, 64)
    assert square.shape == square_shape(64, 3) == (65, 64, 3)
    assert is_square(square.shape[:2], (56, 56)) and not is_square((64, 64), (56, 56))
    np.testing.assert_array_equal(square[:64], resized(image, (64, 64)))
    np.testing.assert_allclose(aspect_ratios(square[None]), width / height, rtol=2e-4)
    cut = 56 / 64 * min(width, height)  # pixels of the original
    left, top = (width - cut) / 2, (height - cut) / 2
    expected = resized(image, (56, 56), (left, top, left + cut, top + cut))
    assert differ(to_input(square[None], (56, 56))[0], expected) < 3


def test_a_square_of_a_square_is_cut_to_the_pixel():
    image = Image.fromarray(random_bytes((64, 64, 3)))
    (seen,) = to_input(square_of(image, 64)[None], (56, 56))
    np.testing.assert_array_equal(seen, np.asarray(image)[4:60, 4:60])


def test_a_crop_of_a_square_is_the_crop_of_the_original():
    image, key = smooth(120, 80), jax.random.key(1)
    squares = np.repeat(square_of(image, 64)[None], 8, 0)
    boxes = np.asarray(draw_boxes(key, 8, 0.2, 1.5))
    crops = crop_and_resize(squares[:, :64], boxes, (56, 56))
    for crop, ((top, height), (left, width)) in zip(crops, boxes, strict=True):
        box = (left * 120, top * 80, (left + width) * 120, (top + height) * 80)
        assert differ(crop, resized(image, (56, 56), box)) < 4
    drawn = random_resized_crop(key, squares, 0.2, (56, 56))
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(crops)).max() <= 1


@pytest.fixture
def photos(tmp_path):
    """Files of two classes, of several sizes."""
    for name, low in (('dark', 0), ('bright', 128)):
        (tmp_path / 'photos' / name).mkdir(parents=True)
        for k in range(20):
            pixels = random_bytes((12 + k, 30 - k, 3), k, low, low + 128)
            Image.fromarray(pixels).save(tmp_path / 'photos' / name / f'{k}.png')
    return tmp_path / 'photos'


@pytest.mark.slow
def test_a_run_in_memory_streaming_and_from_disk_predicts_what_it_evaluated(photos, tmp_path):
    changes = {
        'dataset.name': f'folder:{photos}', 'dataset.image_size': 8, 'dataset.decode_size': 10,
        'dataset.train_split': 'train', 'dataset.test_split': 'test', 'batch': 8, 'num_epochs': 2,
        'dataset.cache_dir': str(tmp_path / 'cache'), 'augment.min_crop_area': 0.3,
    }  # fmt: skip
    for mode in ('memory', 'stream', 'disk'):
        config = small_config(**changes, **{'input.mode': mode})
        assert train_and_evaluate(config, tmp_path / mode)['image_shape'] == [8, 8, 3]
    check_same_bytes(tmp_path / 'disk', tmp_path / 'stream')
    memory, stream = (
        np.load(tmp_path / mode / 'predictions.npz')['probabilities']
        for mode in ('memory', 'stream')
    )
    np.testing.assert_allclose(memory, stream, rtol=1e-4)
    augmented = np.load(tmp_path / 'memory' / 'augmented.npz')
    assert augmented['images'].shape[1:] == augmented['drawn'].shape[2:] == (8, 8, 3)
    dataset = open_folder(photos, image_size=8, decode_size=10, channels=3)
    paths = [str(photos / path) for path in dataset.split_files.paths['test']]
    predictions = [*predict(*open_classifier(tmp_path / 'memory', paths))]
    probabilities = [prediction.probabilities for prediction in predictions]
    np.testing.assert_allclose(probabilities, memory.mean(0), rtol=1e-5)
    assert {prediction.image.shape for prediction in predictions} == {(8, 8, 3)}


@pytest.mark.parametrize(
    ('keys', 'words'),
    [
        ({'decode_size': 7}, 'integers from 8'),
        ({'decode_size': 10, 'resize': 'pad'}, 'dataset.resize'),
        ({'decode_size': 10, 'name': 'digits'}, 'arrays'),
    ],
)
def test_a_size_that_does_not_fit_is_refused(photos, keys, words):
    with refuses(f'config.dataset.decode_size = {keys["decode_size"]}', words):
        open_folder(photos, image_size=8, **keys)


def test_a_size_is_enough_for_images_of_several_sizes_whatever_their_channels():
    assert image_shapes('x', (None, None, None), (8, 6))[0] == (8, 6, None)
    with refuses('image_size = 0', "'x'"):
        image_shapes('x', (None, None, 3), None)
