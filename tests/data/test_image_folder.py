"""Images in a folder a class, as a data set."""

import errno
import json
import os
import shutil
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.data import image_folder
from mixer_dilated.data import preprocessing as preprocessing_module
from mixer_dilated.data.datasets import open_dataset
from mixer_dilated.data.image_files import Ignored, find_images, ignored_text, walk_images
from tests.conftest import refuses

LEVELS = {'cat': 10, 'dog': 200}


def put(path, level, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, level, np.uint8)).save(path)


def put_classes(root, count=10, **levels):
    """Grey images, as many of each class, whose level says the class."""
    for name, level in (levels or LEVELS).items():
        for k in range(count):
            put(root / name / f'{k}.png', level + k % 5)
    return root


@pytest.fixture
def root(tmp_path):
    """A folder of ten cats and ten dogs."""
    return put_classes(tmp_path / 'set')


def open_folder(root, **keys):
    dataset = {'name': f'folder:{root}', 'image_size': 4, 'channels': 1, **keys}
    dataset = {'cache_dir': str(root.parent / 'cache'), **dataset}
    return open_dataset(resolve({'dataset': dataset}).dataset)


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


@settings(max_examples=30)
@given(
    st.lists(st.integers(2, 30), min_size=2, max_size=5),
    st.floats(0.01, 0.99),
    st.integers(0, 2**31 - 1),
)
def test_every_split_has_its_share_of_every_class(tmp_path_factory, counts, share, seed):
    root = tmp_path_factory.mktemp('share')
    for label, count in enumerate(counts):
        (root / str(label)).mkdir()
        for k in range(count):
            (root / str(label) / f'{k}.png').touch()  # nothing is opened yet
    names, splits = find_images(root, share, seed, Ignored())
    assert names == tuple(str(label) for label in range(len(counts)))
    paths = [file.path for files in splits.values() for file in files]
    assert len(paths) == len({*paths}) == sum(counts)
    for label, count in enumerate(counts):
        for_testing = sum(file.label == label for file in splits['test'])
        assert 1 <= for_testing <= count - 1
        assert abs(for_testing - share * count) <= 1
        assert all(file.path.startswith(f'{file.label}/') for file in splits['train'])
    assert find_images(root, share, seed, Ignored()) == (names, splits)
    shutil.rmtree(root)


def test_another_seed_is_another_split_and_a_new_image_leaves_the_others_where_they_are(tmp_path):
    root = put_classes(tmp_path / 'set', 40)

    def split(seed):
        return find_images(root, 0.2, seed, Ignored())[1]

    before, other = ({file.path for file in split(seed)['test']} for seed in (0, 1))
    assert before != other
    assert 4 <= sum(file.label for file in split(0)['train'][:20]) <= 16  # has all classes
    put(root / 'cat' / 'new.png', 12)
    assert len(before - {file.path for file in split(0)['test']}) <= 1


def test_folders_train_and_test_are_the_splits(tmp_path):
    root = tmp_path / 'set'
    for split, count in (('train', 5), ('test', 2), ('validation', 3)):
        put_classes(root / split, count)
    put(root / 'test' / 'cat' / 'deeper' / 'yet' / '7.png', 10)
    source = open_folder(root)
    assert source.split_sizes == {'train': 10, 'validation': 6, 'test': 5}
    assert list(np.bincount(source.read('test').labels)) == [3, 2]
    # A class may be called train, and the folder be named below data_dir.
    put_classes(tmp_path / 'named', train=10, bus=200)
    source = open_folder(root, name='folder:named', data_dir=str(tmp_path))
    assert source.class_names == ('bus', 'train')


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        put(root / path, 5) if path.endswith('.png') else (root / path).mkdir()
    return root


@pytest.mark.parametrize(
    ('paths', 'words'),
    [
        (['cat/1.png', 'cat/2.png'], ["'cat'", 'two']),
        (['1.png', '2.png'], ['no class folders']),
        (['a/1.png', 'a/2.png', 'b'], ['set/b: ', 'without images']),
        (['a/1.png', 'a/2.png', 'b/1.png'], ['b: a single image']),
        (['train/a/1.png', 'train/b/1.png'], ['no test']),
        (['train/a/1.png', 'train/b/1.png', 'val/a/1.png'], ['no test', 'validation']),
        (['train/1.png', 'test/1.png'], ['train: ', 'no class folders']),
        (['train/a/1.png', 'test/a/1.png'], ['train: ', "'a'"]),
        (['train/a/1.png', 'train/b/1.png', 'test/a/1.png', 'c/1.png'], ["'c'", 'train, test']),
        (
            ['train/a/1.png', 'train/b/1.png', 'test/a/1.png', 'test/c/1.png'],
            ['train and test', "'b', 'c'"],
        ),
    ],
)
def test_a_folder_of_another_kind_is_refused_with_what_is_there(tmp_path, paths, words):
    with refuses(tmp_path / 'set', *words):
        open_folder(make(tmp_path / 'set', *paths))


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
def test_wrong_keys_are_refused_with_what_is_allowed(tmp_path, keys, words):
    with refuses(*words):
        open_folder(make(tmp_path / 'set', 'a/1.png', 'a/2.png', 'b/1.png', 'b/2.png'), **keys)


def test_what_is_no_image_is_left_out_and_counted_and_hidden_files_are_not_seen(root, tmp_path):
    outside = tmp_path / 'outside'
    put(outside / 'secret.png', 5)
    (root / 'cat' / 'notes.txt').write_text('')
    put(root / 'cat' / '.hidden.png', 5)
    put(root / '.git' / 'x.png', 5)
    (root / 'dog' / 'out.png').symlink_to(outside / 'secret.png')
    (root / 'dog' / 'all').symlink_to(outside)
    (root / 'dog' / 'round').symlink_to(root)
    (root / 'dog' / 'dead.png').symlink_to(root / 'nothing.png')
    (root / 'dog' / 'inside.png').symlink_to(root / 'dog' / '0.png')
    os.mkfifo(root / 'dog' / 'pipe.png')
    (root / 'dog' / 'folder.png').mkdir()
    (root / 'README').write_text('')
    (root / 'bird').symlink_to(outside)
    ignored = (
        '1 file beside the folders, 3 links to folders, 1 file that is no image, '
        '2 pipes, devices or dead links, 1 link to an image of the folder, '
        '1 link out of the folder'
    )
    with pytest.warns(UserWarning, match=f'set: left out {ignored}$'):
        source = open_folder(root)
    assert source.class_names == ('cat', 'dog')
    assert source.split_sizes == {'train': 16, 'test': 4}


def test_no_image_is_trained_on_and_tested_with_under_two_names(tmp_path):
    """By links; one to a place where no image is looked for is the image's only name."""
    root = tmp_path / 'set'
    for place in ('.store', 'train/cat', 'train/dog', 'test/cat', 'test/dog'):
        for k in range(2):
            put(root / place / f'{len(place)}-{k}.png', 10 * len(place) + k)
    put(root / 'train' / 'beside.png', 5)
    for name in ('cat', 'dog'):
        (root / 'test' / name / 'again.png').symlink_to(f'../../train/{name}/9-0.png')
    (root / 'test' / 'cat' / 'stored.png').symlink_to('../../.store/6-0.png')
    (root / 'test' / 'dog' / 'beside.png').symlink_to('../../train/beside.png')
    with pytest.warns(UserWarning, match='1 file beside the folders, 2 links to images'):
        source = open_folder(root)
    assert source.split_sizes == {'train': 4, 'test': 6}
    ignored = Ignored()
    names = {os.path.relpath(entry.path, root) for entry in walk_images(root, ignored)}
    assert 'test/cat/stored.png' in names and 'test/cat/again.png' not in names
    # Here the image beside the folders is walked.
    assert 'train/beside.png' in names and 'test/dog/beside.png' not in names
    assert ignored_text(ignored) == '3 links to images of the folder'


def test_folders_are_walked_in_order_however_deep(tmp_path):
    make(tmp_path, 'b.png', 'a/2.png', 'a/1.png', 'c/' + 'd/' * 300 + '3.png')
    paths = [os.path.relpath(entry.path, tmp_path) for entry in walk_images(tmp_path, Ignored())]
    assert paths == ['b.png', 'a/1.png', 'a/2.png', 'c/' + 'd/' * 300 + '3.png']
    with refuses('no/where: cannot be read: No such file'):
        list(walk_images('no/where', Ignored()))


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
        patch.setattr(preprocessing_module, '_open_image', fail)
        with refuses(f'cat/3.png: cannot be read: {os.strerror(number)}'):
            open_folder(root, on_corrupt=on_corrupt).read('train+test')
    assert sum(open_folder(root, on_corrupt=on_corrupt).split_sizes.values()) == 20


def check_same(source, other):
    for split in source.split_sizes:
        for array, expected in zip(source.read(split), other.read(split), strict=True):
            np.testing.assert_array_equal(array, expected)


def test_corrupt_images_are_left_out_and_counted_if_asked(root, monkeypatch):
    corrupt(root)
    with pytest.warns(UserWarning, match='left out 2 of 20 images.*truncated'):
        source = open_folder(root, on_corrupt='skip')
    assert sum(source.split_sizes.values()) == 18
    assert sum(len(source.read(split).labels) for split in source.split_sizes) == 18
    # Which they are is known from now on, and what is decoded again is the same.
    with pytest.warns(UserWarning, match='left out 2'), monkeypatch.context() as patch:
        patch.setattr(image_folder, 'decode_images', None)
        again = open_folder(root, on_corrupt='skip')
    assert again.fingerprint == source.fingerprint != open_folder(root).fingerprint
    check_same(again, source)


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
        with pytest.warns(UserWarning, match='left out 2 of 20'):
            source = open_folder(root, on_corrupt='skip')
        assert sum(source.split_sizes.values()) == 18
        (note,) = (root.parent / 'cache').glob('*-corrupt.json')
        note.write_text(content)


def test_a_class_of_which_nothing_can_be_used_is_refused(root):
    corrupt(root, *[f'cat/{k}.png' for k in range(10)])
    with pytest.warns(UserWarning, match='left out 10 of 20'), refuses(root, "'cat'", 'train'):
        open_folder(root, on_corrupt='skip')


@pytest.mark.slow
def test_a_network_is_trained_on_a_folder_and_keeps_its_class_names(tmp_path, capsys):
    root = put_classes(tmp_path / 'set', 20, **{'dark\x1b[31m': 10, '<b>bright': 200})
    changes = {
        'dataset.name': f'folder:{root}', 'dataset.image_size': 8, 'dataset.channels': 1,
        'dataset.train_split': 'train', 'dataset.test_split': 'test', 'num_epochs': 2, 'batch': 8,
        'model.num_blocks': 1, 'model.hidden_dim': 8,
    }  # fmt: skip
    overrides = [f'--config.{key}={value}' for key, value in changes.items()]
    workdir = tmp_path / 'run'
    assert main(['--config=configs/digits_dilated.py', f'--workdir={workdir}', *overrides], 0) == 0
    assert '\x1b' not in capsys.readouterr().out
    assert json.loads((workdir / 'preprocessing.json').read_text()) == {
        'class_names': ['<b>bright', 'dark\x1b[31m'],
        'image_shape': [8, 8, 1],
        'preprocess': 'resize',
        'resize': 'crop',
        'train_examples': 32,
        'test_examples': 8,
    }
    shutil.rmtree(root)  # which a prediction does not need
    put(tmp_path / 'new.png', 205)
    assert main(['predict', f'--workdir={workdir}', str(tmp_path / 'new.png')], 0) == 0
    printed = capsys.readouterr().out
    assert '<b>bright 0.' in printed and 'dark\\x1b[31m 0.' in printed and '\x1b' not in printed
