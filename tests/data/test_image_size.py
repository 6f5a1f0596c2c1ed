"""`dataset.image_size`: images upsampled on the device, or brought to one size when decoded."""

import dataclasses
import hashlib

import chex
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mixer_dilated.data.datasets import Digits
from mixer_dilated.data.examples import Examples
from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.data.stored_images import to_input
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.reports.result_files import read_run
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import random_bytes, refuses, small_config
from tests.tfds_files import encoded, grey, open_set, write_set


@given(st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(0, 99))
@settings(max_examples=10)
@example(7, 2, 1, 0)  # as high as wide and one more
def test_upsampled_images_are_those_of_pillow(side, factor, channels, seed):
    images = random_bytes((2, side, 6, channels), seed)
    size = (side * factor + factor // 2, 6 * factor)
    upsampled = np.asarray(to_input(images, size))
    assert upsampled.shape == (2, *size, channels) and upsampled.dtype == np.uint8
    for pixels, image in zip(upsampled, images, strict=True):
        pillow = Image.fromarray(image.squeeze(-1) if channels == 1 else image)
        expected = np.asarray(pillow.resize(size[::-1], Image.Resampling.BILINEAR))
        # Pillow's weights have 8 bits.
        assert np.abs(pixels.reshape(expected.shape).astype(int) - expected).max() <= 1


# Sets of TFDS

SIZES = ((6, 9, 3), (12, 8, 3), (40, 40, 3), (5, 5, 3))
RECORDS = [
    (encoded(grey(seed, size), 'JPEG' if seed % 2 else 'PNG'), seed)
    for seed, size in enumerate(SIZES)
]


def open_tiny(folder, image_size, records=RECORDS, shape=(None, None, 3), **keys):
    if not (folder / 'tiny').exists():
        write_set(folder, records, shape)
    return open_set(folder, image_size=image_size, **keys)


@pytest.mark.parametrize('resize', ['crop', 'pad', 'squash'])
def test_images_of_several_sizes_are_brought_to_one(resize, tmp_path):
    source = open_tiny(tmp_path, (8, 10), resize=resize)
    assert source.image_shape == source.stored_shape == (8, 10, 3)
    examples = source.read('train')
    preprocessing = Preprocessing((8, 10, 3), resize=resize)
    expected = [preprocessing.read(content) for content, _ in RECORDS]
    np.testing.assert_array_equal(examples.images, expected)
    np.testing.assert_array_equal(examples.labels, range(4))


def test_the_size_is_part_of_what_a_cache_entry_is_of(tmp_path):
    sources = [open_tiny(tmp_path, 8), open_tiny(tmp_path, 9), open_tiny(tmp_path, 8, resize='pad')]
    assert len({source.fingerprint for source in sources}) == 3


def test_the_identities_of_earlier_versions_are_known(tmp_path):
    """They had max_pixels in them, which changes no image that was read."""
    source, folder = open_tiny(tmp_path, 8, max_pixels=12345), tmp_path / 'tiny' / '1.0.0'
    paths = [path for split in source.split_sizes for path in folder.glob(f'tiny-{split}.*')]
    files = [f'{path.name} {path.stat().st_size}' for path in paths]
    for max_pixels in (2**24, 12345):
        fields = f"image_shape=(8, 8, 3), how='resize', resize='crop', max_pixels={max_pixels}"
        lines = '\n'.join(['tiny/1.0.0', f'Preprocessing({fields})', *files])
        assert hashlib.sha256(lines.encode()).hexdigest() in source.old_identities
    assert open_tiny(tmp_path, 8).identity == source.identity


def test_images_of_several_sizes_need_a_size_and_are_refused_with_their_place(tmp_path):
    broken = [*RECORDS, (b'<html>', 1)]
    with refuses("'tiny'", '--config.dataset.image_size='):
        open_tiny(tmp_path, 0, broken)
    with refuses("split 'train', record 4: "):
        open_tiny(tmp_path, 8).read('train')
    with refuses('record 2: 40×40 = 1600 pixels', '200'):
        open_tiny(tmp_path, 8, max_pixels=200).read('train')


@pytest.mark.parametrize(
    ('image_size', 'seen', 'stored'),
    [
        (0, (8, 8), (8, 8)),
        (20, (20, 20), (8, 8)),
        (4, (4, 4), (4, 4)),
        ((8, 20), (8, 20), (8, 20)),  # of another aspect ratio
    ],
)
def test_images_of_one_size_are_stored_as_they_are_if_they_only_grow(
    image_size, seen, stored, tmp_path
):
    records = [(encoded(grey(seed)), seed) for seed in range(3)]
    source = open_tiny(tmp_path, image_size, records, (8, 8, 1))
    assert (source.image_shape, source.stored_shape) == ((*seen, 1), (*stored, 1))
    assert source.read('train').images.shape == (3, *stored, 1)


# The network sees them so


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
