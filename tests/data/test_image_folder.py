"""Images in a folder a class, as a data set."""

import errno
import os
import warnings

import numpy as np
import pytest

from mixer_dilated.data import image_decoding, image_folder
from tests.conftest import refuses, warns
from tests.data.image_sets import open_folder, put, put_classes


@pytest.fixture
def root(tmp_path):
    """A folder of ten cats and ten dogs."""
    return put_classes(tmp_path / 'set')


def test_each_folder_is_a_class_and_a_share_of_it_is_for_testing(root):
    source = open_folder(root, test_fraction=0.3, image_size=(3, 5))
    assert source.class_names == ('cat', 'dog') and source.num_classes == 2
    assert source.image_shape == (3, 5, 1) and source.split_sizes == {'train': 14, 'test': 6}
    train, test = source.read('train'), source.read('test')
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int32
    for examples, count in ((train, 7), (test, 3)):
        assert list(np.bincount(examples.labels)) == [count, count]
        np.testing.assert_array_equal(examples.images.max(axis=(1, 2, 3)) >= 200, examples.labels)
    both = source.read('train[5:]+test[:2]')
    np.testing.assert_array_equal(both.labels, [*train.labels[5:], *test.labels[:2]])
    np.testing.assert_array_equal(both.images, [*train.images[5:], *test.images[:2]])
    assert open_folder(root, channels=3).read('train').images.shape[1:] == (4, 4, 3)
    (root / 'README').touch()
    with warns(f'{root}: ', '1 file beside the folders'):
        open_folder(root)
    # The folder may be named below data_dir.
    assert open_folder(root, name='folder:set', data_dir=str(root.parent)).num_classes == 2


@pytest.mark.parametrize(
    ('keys', 'words'),
    [
        ({'name': 'folder:no/where'}, ['no/where']),
        ({'name': 'folder:'}, ['no such folder']),
        ({'image_size': 0}, ['--config.dataset.image_size=64']),
        ({'image_size': (3, 0)}, ['image_size = (3, 0)', 'from 1']),
        ({'channels': 2}, ['channels = 2', '1, 3']),
        ({'channels': True}, ['channels = True', '1, 3']),
        ({'resize': 'stretch'}, ["resize = 'stretch'", "'crop', 'pad', 'squash'"]),
        ({'test_fraction': 1.0}, ['test_fraction = 1.0', '(0, 1)']),
        ({'on_corrupt': 'ignore'}, ["on_corrupt = 'ignore'", "'stop', 'skip'"]),
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


CORRUPT = ('cat/3.png', 'dog/1.png')


def corrupt(root, *names):
    for name in names or CORRUPT:
        (root / name).write_bytes((root / name).read_bytes()[:50])


def test_corrupt_images_of_all_splits_are_named_at_once_and_refused(root, tmp_path):
    corrupt(root, *[f'cat/{k}.png' for k in range(10)])
    words = ('truncated', '7 more', '--config.dataset.on_corrupt=skip')
    with refuses(f'{root}: 10 of 20 images', 'cat/', *words):
        open_folder(root).read('train')
    for split in ('train', 'test'):
        put_classes(tmp_path / 'splits' / split, 3)
        (tmp_path / 'splits' / split / 'cat' / '1.png').write_bytes(b'no image')
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


def check_same(source, other):
    for split in source.split_sizes:
        for array, expected in zip(source.read(split), other.read(split), strict=True):
            np.testing.assert_array_equal(array, expected)


def test_corrupt_images_are_left_out_before_the_split(root):
    """Even if they are all of those that a class would be tested on."""
    corrupt(root, *open_folder(root).split_files.paths['test'])
    with warns('left out 4 of 20 images'):
        source = open_folder(root, on_corrupt='skip')
    assert source.split_sizes == {'train': 12, 'test': 4}
    assert list(np.bincount(source.read('test').labels)) == [2, 2]
    assert len({image.max() for image in source.read('train+test').images}) == 16


def test_corrupt_images_are_left_out_and_counted_if_asked(root, monkeypatch):
    corrupt(root)
    with warns('left out 2 of 20 images', 'truncated'):
        source = open_folder(root, on_corrupt='skip')
    assert sum(source.split_sizes.values()) == 18
    assert sum(len(source.read(split).labels) for split in source.split_sizes) == 18
    # Which they are is known from now on, and what is decoded again is the same.
    with warns('left out 2 of 20'), monkeypatch.context() as patch:
        patch.setattr(image_folder, 'decode_images', None)
        again = open_folder(root, on_corrupt='skip')
    assert again.fingerprint == source.fingerprint != open_folder(root).fingerprint
    check_same(again, source)


def test_another_bound_of_pixels_leaves_out_other_images(root):
    with refuses(root, 'cat', 'no image that can be used'):
        open_folder(root, on_corrupt='skip', max_pixels=1)
    source = open_folder(root, on_corrupt='skip')
    assert sum(source.split_sizes.values()) == 20


def test_nothing_is_printed_and_nothing_changes_if_none_is_corrupt(root):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        source = open_folder(root, on_corrupt='skip')
    assert source.fingerprint == open_folder(root).fingerprint
    check_same(source, open_folder(root))


@pytest.mark.parametrize('content', ['', '[1]', '{"a": 1}', 'no json'])
def test_a_damaged_note_of_corrupt_images_is_made_again(root, content):
    corrupt(root)
    for _ in range(2):
        with warns('left out 2 of 20'):
            source = open_folder(root, on_corrupt='skip')
        assert sum(source.split_sizes.values()) == 18
        (note,) = (root.parent / 'cache').glob('*-corrupt.json')
        note.write_text(content)
