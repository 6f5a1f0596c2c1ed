"""The image files of a folder: their classes and splits, what is left out and what is refused."""

import os
import shutil

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from mixer_dilated.data.class_folders import find_images, split_images
from mixer_dilated.data.image_files import Ignored, ignored_text, walk_images
from tests.conftest import refuses


def put(path, level, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, level, np.uint8)).save(path)


def put_classes(root, count=10, **levels):
    """Grey images, as many of each class, whose level says the class."""
    for name, level in (levels or {'cat': 10, 'dog': 200}).items():
        for k in range(count):
            put(root / name / f'{k}.png', level + k % 5)
    return root


def find(root, test_fraction=0.2, split_seed=0):
    """Class names, the paths of each split, and what was left out."""
    ignored = Ignored()
    folders = find_images(root, ignored)
    names, splits = folders.class_names, split_images(root, folders, test_fraction, split_seed)
    paths = {split: [file.path for file in files] for split, files in splits.items()}
    return names, paths, ignored_text(ignored)


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
    folders = find_images(root, Ignored())
    names, splits = folders.class_names, split_images(root, folders, share, seed)
    assert names == tuple(str(label) for label in range(len(counts)))
    paths = [file.path for files in splits.values() for file in files]
    assert len(paths) == len({*paths}) == sum(counts)
    for label, count in enumerate(counts):
        for_testing = sum(file.label == label for file in splits['test'])
        assert 1 <= for_testing <= count - 1
        assert abs(for_testing - share * count) <= 1
        assert all(file.path.startswith(f'{file.label}/') for file in splits['train'])
    assert split_images(root, find_images(root, Ignored()), share, seed) == splits
    shutil.rmtree(root)


def test_another_seed_is_another_split_and_a_new_image_leaves_the_others_where_they_are(tmp_path):
    root = put_classes(tmp_path, 40)
    splits = find(root)[1]
    before = {*splits['test']}
    assert before != {*find(root, split_seed=1)[1]['test']}
    assert 4 <= sum(path.startswith('dog/') for path in splits['train'][:20]) <= 16
    put(root / 'cat' / 'new.png', 12)
    assert len(before - {*find(root)[1]['test']}) <= 1


def test_folders_train_and_test_are_the_splits(tmp_path):
    root = tmp_path / 'set'
    for split, count in (('train', 5), ('test', 2), ('validation', 3)):
        put_classes(root / split, count)
    put(root / 'test' / 'cat' / 'deeper' / 'yet' / '7.png', 10)
    names, splits, _ = find(root)
    assert names == ('cat', 'dog')
    assert {split: len(files) for split, files in splits.items()} == {
        'train': 10, 'validation': 6, 'test': 5,
    }  # fmt: skip
    assert sum('/cat/' in path for path in splits['test']) == 3
    # A class may be called train.
    assert find(put_classes(tmp_path / 'named', train=10, bus=200))[0] == ('bus', 'train')


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
        (['train/a/1.png', 'test/a/1.png'], ['train: ', "'a'"]),
    ],
)
def test_a_folder_of_another_kind_is_refused_with_what_is_there(tmp_path, paths, words):
    with refuses(tmp_path / 'set', *words):
        find(make(tmp_path / 'set', *paths))


def test_what_is_no_image_is_left_out_and_counted_and_hidden_files_are_not_seen(tmp_path):
    root = put_classes(tmp_path / 'set')
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
    names, splits, ignored = find(root)
    assert names == ('cat', 'dog') and len(splits['train']) == 16 and len(splits['test']) == 4
    assert ignored == (
        '1 file beside the folders, 3 links to folders, 1 .txt file, '
        '2 pipes, devices or dead links, 1 link to an image of the folder, '
        '1 link out of the folder'
    )


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
    _, splits, ignored = find(root)
    assert len(splits['train']) == 4 and len(splits['test']) == 6
    assert ignored == '1 file beside the folders, 2 links to images of the folder'
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
