"""Images in a folder a class, or in a list, as a data set."""

import errno
import os
import warnings

import chex
import numpy as np
import pytest
from PIL import Image

from mixer_dilated.data import image_decoding, image_folder
from tests.conftest import refuses, warns
from tests.data.image_sets import make, open_folder, put, put_classes, put_listing


@pytest.fixture
def root(tmp_path):
    """A folder of ten cats and ten dogs."""
    return put_classes(tmp_path / 'set')


@pytest.mark.parametrize('kind', ['folder', 'csv'])
def test_a_share_of_each_class_is_for_testing(tmp_path, kind):
    put_listing(tmp_path / 'set')
    name = 'folder:set' if kind == 'folder' else 'csv:set/labels.csv'
    keys = {'test_fraction': 0.3, 'image_size': (3, 5), 'data_dir': str(tmp_path)}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the list is beside the folders
        source = open_folder(tmp_path / 'set', name=name, **keys)
    assert source.class_names == ('cat', 'dog') and source.num_classes == 2
    assert source.image_shape == (3, 5, 1) and source.split_sizes == {'train': 14, 'test': 6}
    assert list(np.bincount(source.read('test').labels)) == [3, 3]
    both = source.read('train+test')
    assert both.images.dtype == np.uint8 and both.labels.dtype == np.int32
    levels = both.images.max((1, 2, 3))
    np.testing.assert_array_equal(levels >= 200, both.labels)
    assert sorted(levels) == [*range(10, 20), *range(200, 210)]
    streamed = source.data_source('train[5:]+test[:2]').read(range(11))
    np.testing.assert_array_equal(streamed.images, both.images[5:16])
    np.testing.assert_array_equal(streamed.labels, both.labels[5:16])


@pytest.mark.parametrize(
    ('keys', 'words'),
    [
        ({'image_size': 0}, ['--config.dataset.image_size=64']),
        ({'image_size': (3, 0)}, ['image_size = (3, 0)', 'from 1']),
        ({'resize': 'stretch'}, ["resize = 'stretch'", "'crop', 'pad', 'squash'"]),
        ({'preprocess': 'mnist', 'channels': 3}, ["preprocess = 'mnist'"]),
    ],
    ids=str,
)
def test_wrong_keys_are_refused_with_what_is_allowed(root, keys, words):
    with refuses(*words):
        open_folder(root, **keys)


def test_any_change_of_files_or_settings_is_another_fingerprint(root):
    seen = {open_folder(root).fingerprint}
    assert open_folder(root).fingerprint in seen
    for change in (
        lambda: os.utime(root / 'cat' / '1.png', (1, 1)),
        lambda: put(root / 'cat' / '99.png', 5),
        lambda: (root / 'cat' / '99.png').rename(root / 'dog' / '99.png'),
    ):
        change()
        assert open_folder(root).fingerprint not in seen
        seen.add(open_folder(root).fingerprint)
    for keys in ({'image_size': 5}, {'resize': 'pad'}, {'split_seed': 1}, {'test_fraction': 0.5}):
        assert open_folder(root, **keys).fingerprint not in seen


# Corrupt files


def corrupt(root, *names):
    for name in names or ('cat/3.png', 'dog/1.png'):
        (root / name).write_bytes((root / name).read_bytes()[:50])


def test_corrupt_images_of_all_splits_are_named_at_once_and_refused(root, tmp_path):
    corrupt(root, *[f'cat/{k}.png' for k in range(10)])
    words = ('truncated', '7 more', '--config.dataset.on_corrupt=skip')
    with refuses(f'{root}: 10 of 20 images', 'cat/', *words):
        open_folder(root).read('train')
    for split in ('train', 'test'):
        corrupt(put_classes(tmp_path / 'splits' / split, 3), 'cat/1.png')
    for split in ('train', 'test[:1]+test[1:]'):
        with refuses('2 of 12 images', 'train/cat/1.png: ', 'test/cat/1.png: '):
            open_folder(tmp_path / 'splits').read(split)


@pytest.mark.parametrize('on_corrupt', ['stop', 'skip'])
@pytest.mark.parametrize('number', [errno.EMFILE, errno.EACCES, errno.EIO])
def test_an_error_of_the_system_is_raised_and_makes_no_image_a_corrupt_one(
    root, monkeypatch, number, on_corrupt
):
    def fail(path, _):
        if str(path).endswith('cat/3.png'):
            raise OSError(number, os.strerror(number))
        return open(path, 'rb')

    with monkeypatch.context() as patch:
        patch.setattr(image_decoding, '_open_image', fail)
        with refuses(f'cat/3.png: cannot be read: {os.strerror(number)}'):
            open_folder(root, on_corrupt=on_corrupt).read('train+test')
    assert sum(open_folder(root, on_corrupt=on_corrupt).split_sizes.values()) == 20


def test_corrupt_images_are_left_out_before_the_split(root):
    """Even if they are all of those that a class would be tested on."""
    corrupt(root, *open_folder(root).split_files.paths['test'])
    with warns('left out 4 of 20 images'):
        source = open_folder(root, on_corrupt='skip')
    assert source.split_sizes == {'train': 12, 'test': 4}
    assert list(np.bincount(source.read('test').labels)) == [2, 2]
    assert len({image.max() for image in source.read('train+test').images}) == 16


def test_which_images_are_corrupt_is_known_from_then_on(root, monkeypatch):
    corrupt(root)
    with warns('left out 2 of 20 images', 'truncated'):
        source = open_folder(root, on_corrupt='skip')
    assert sum(len(source.read(split).labels) for split in source.split_sizes) == 18
    with warns('left out 2 of 20'), monkeypatch.context() as patch:
        patch.setattr(image_folder, 'decode_images', None)
        again = open_folder(root, on_corrupt='skip')
    assert again.fingerprint == source.fingerprint != open_folder(root).fingerprint
    chex.assert_trees_all_equal(again.read('train+test'), source.read('train+test'))
    for content in ('', '[1]', '{"a": 1}', 'no json'):
        (note,) = (root.parent / 'cache').glob('*-corrupt.json')
        note.write_text(content)
        with warns('left out 2 of 20'):
            assert open_folder(root, on_corrupt='skip').fingerprint == source.fingerprint


def test_another_bound_of_pixels_leaves_out_other_images(root):
    with refuses(root, 'cat', 'no image that can be used'):
        open_folder(root, on_corrupt='skip', max_pixels=1)
    with warnings.catch_warnings():  # where none is left out, nothing is said and nothing changes
        warnings.simplefilter('error')
        source = open_folder(root, on_corrupt='skip')
    usual = open_folder(root)
    assert source.fingerprint == usual.fingerprint
    chex.assert_trees_all_equal(source.read('train+test'), usual.read('train+test'))


@pytest.mark.parametrize(('top', 'white'), [(255, 255), (1000, 1023), (4095, 4095)])
def test_dark_images_of_16_bits_are_refused_with_the_key_that_makes_them_light(
    tmp_path, top, white
):
    values = np.linspace(0, top, 16).reshape(4, 4).astype(np.uint16)
    root = make(tmp_path / 'set', *(f'{name}/{k}.png' for name in 'ab' for k in range(3)))
    for path in root.rglob('*.png'):
        Image.fromarray(values).save(path)
    with refuses(root, f'at most {white}', f'--config.dataset.white={white}'):
        open_folder(root)
    images = open_folder(root, white=white).read('train').images
    expected = np.round(values * (255 / white)).astype(np.uint8)
    np.testing.assert_array_equal(images[0][..., 0], expected)
    assert open_folder(root, white=65535).read('train').images.max() == round(top / 257)
    assert open_folder(root, max_pixels=15).num_classes == 2  # larger ones are never decoded
