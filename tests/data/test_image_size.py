"""`dataset.image_size`: images upsample on the device, or brought to one size when decoded."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mixer_dilated.config import resolve
from mixer_dilated.data.datasets import Digits, open_dataset
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.preprocessing import Preprocessing, is_upsample, upsample
from mixer_dilated.errors import UserError
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.reports.run_files import read_run
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.tfds_files import encoded, grey, write_set


@given(st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_enlarged_images_are_those_of_pillow(side, factor, channels, seed):
    images = np.random.default_rng(seed).integers(0, 256, (2, side, 6, channels), np.uint8)
    size = (side * factor + factor // 2, 6 * factor)
    found = np.asarray(upsample(images, size))
    assert found.shape == (2, *size, channels) and found.dtype == np.uint8
    for one, image in zip(found, images, strict=True):
        picture = Image.fromarray(image.squeeze(-1) if channels == 1 else image)
        expected = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))
        # Pillow's weights have 8 bits.
        assert np.abs(one.reshape(expected.shape).astype(int) - expected).max() <= 1


def test_images_are_enlarged_on_the_device_only_if_nothing_is_lost():
    assert is_upsample((28, 28), (28, 28)) and is_upsample((4, 6), (8, 12))
    assert not is_upsample((28, 28), (14, 14)) and not is_upsample((4, 6), (12, 12))


# Sets of TFDS


def tiny(tmp_path, image_size, **keys):
    dataset = {'name': 'tiny', 'data_dir': str(tmp_path), 'image_size': image_size, **keys}
    return open_dataset(resolve({'dataset': dataset}).dataset)


SIZES = ((6, 9, 3), (12, 8, 3), (40, 40, 3), (5, 5, 3))
PICTURES = [
    (encoded(grey(seed, size), 'JPEG' if seed % 2 else 'PNG'), seed)
    for seed, size in enumerate(SIZES)
]


@pytest.mark.parametrize('resize', ['crop', 'pad', 'squash'])
def test_pictures_of_several_sizes_are_brought_to_one(resize, tmp_path):
    write_set(tmp_path, PICTURES, (None, None, 3))
    source = tiny(tmp_path, (8, 10), resize=resize)
    assert source.image_shape == source.stored_shape == (8, 10, 3)
    found = source.read('train')
    preprocessing = Preprocessing((8, 10, 3), resize=resize)
    np.testing.assert_array_equal(
        found.images, [preprocessing.read(picture) for picture, _ in PICTURES]
    )
    np.testing.assert_array_equal(found.labels, range(4))


def test_the_size_is_part_of_what_a_cache_entry_is_of(tmp_path):
    write_set(tmp_path, PICTURES, (None, None, 3))
    sources = [
        tiny(tmp_path, 8),
        tiny(tmp_path, 9),
        tiny(tmp_path, 8, resize='pad'),
    ]
    assert len({source.fingerprint for source in sources}) == 3


def test_pictures_of_several_sizes_need_a_size(tmp_path):
    write_set(tmp_path, PICTURES, (None, None, 3))
    with pytest.raises(UserError, match=r"'tiny' are of several sizes, .* set it, for example"):
        tiny(tmp_path, 0)


def test_a_broken_picture_among_several_sizes_is_refused_with_its_place(tmp_path):
    write_set(tmp_path, [*PICTURES, (b'<html>', 1)], (None, None, 3))
    with pytest.raises(UserError, match="split 'train', record 4: not a PNG, JPEG or WebP"):
        tiny(tmp_path, 8).read('train')
    with pytest.raises(UserError, match='record 2: 40×40 = 1600 pixels; allowed are at most 200'):
        tiny(tmp_path, 8, max_pixels=200).read('train')


@pytest.mark.parametrize(
    'image_size, stored', [(0, (8, 8)), (8, (8, 8)), (20, (8, 8)), (4, (4, 4)), ((8, 20), (8, 20))]
)
def test_pictures_of_one_size_are_stored_as_they_are_if_they_only_grow(
    image_size, stored, tmp_path
):
    write_set(tmp_path, [(encoded(grey(seed)), seed) for seed in range(3)])
    source = tiny(tmp_path, image_size)
    size = {0: (8, 8)}.get(image_size, image_size)
    assert source.image_shape[:2] == (size if isinstance(size, tuple) else (size, size))
    assert source.stored_shape[:2] == stored
    assert source.read('train').images.shape == (3, *stored, 1)


# The network sees them so


@pytest.mark.slow
def test_training_is_that_on_images_enlarged_before():
    config = small_config(**{'dataset.image_size': 12, 'num_epochs': 1})
    setup = create_setup(config)
    assert setup.num_tokens == 16 and setup.dataset.stored_shape == (8, 8, 1)
    images, labels = setup.dataset.read('train[:300]')
    large = Examples(np.asarray(upsample(images, (12, 12))), labels)
    # What has large images has no need to enlarge them.
    source = Digits((12, 12))
    source.stored_shape = (12, 12, 1)
    states = []
    for one, examples in ((setup, Examples(images, labels)), (replaced(setup, source), large)):
        programs = CompiledFunctions(one)
        placed = programs.in_memory(examples)
        state, _ = programs.train_epoch(programs.init_state(), placed)
        states.append((state.params, programs.evaluate(state, placed)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), *states)


def replaced(setup, source):
    return dataclasses.replace(setup, dataset=source)


def test_a_run_and_its_files_have_the_size_that_the_network_sees(tmp_path):
    config = small_config(
        **{'dataset.image_size': 12, 'num_epochs': 1, 'augment.translate': 1, 'batch_eval': 50}
    )
    summary = train_and_evaluate(config, tmp_path / 'run')
    assert summary['image_shape'] == [12, 12, 1] and summary['pixels'] == 144
    run = read_run(tmp_path / 'run')
    assert run.predictions['class_images'].shape == (10, 12, 12, 1)
    assert run.predictions['shown_images'].shape[1:] == (12, 12, 1)
    (result,) = evaluate_checkpoint(tmp_path / 'run')['results']
    assert result['correct'] == summary['results'][0]['test_correct']


@pytest.mark.parametrize('image_size', [7, (8, 9)])
def test_digits_can_only_be_enlarged(image_size):
    with pytest.raises(UserError, match="'digits' has images of 8×8, which can only be"):
        open_dataset(small_config(**{'dataset.image_size': image_size}).dataset)
