"""What the folders of a data set mean: classes, splits, and the splits of a run."""

import shutil

import chex
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mixer_dilated.data.class_folders import SplitFiles, find_again, find_images, split_images
from mixer_dilated.data.split_names import splits_of
from tests.conftest import refuses, warns
from tests.data.image_sets import make, open_folder, put, put_classes


def classes(*splits, names=('cat', 'dog'), count=2):
    return [f'{split}/{name}/{k}.png' for split in splits for name in names for k in range(count)]


def paths(files):
    return sorted(file.path for file in files)


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        ('train test', ['train', 'test']),
        ('Training Testing', ['train', 'test']),
        ('TRAIN TEST Valid', ['train', 'test', 'validation']),
        ('train_images test_images', ['train', 'test']),
        ('seg_train seg_test', ['train', 'test']),
        ('trainset testset devset', ['train', 'test', 'validation']),
        ('TrainData EvalData', ['train', 'test']),
        ('pets-train pets-val', ['train', 'validation']),
        ('my\xa0train\xa0set my\xa0test\xa0set', ['train', 'test']),
        ('train.1 eval.1', ['train', 'test']),
        ('bus car train', [None, None, 'train']),
        ('trainer tester', [None, None]),
        ('left right', [None, None]),
        ('contest attest', [None, None]),
    ],
)
def test_the_usual_names_of_splits_are_splits(names, expected):
    assert splits_of([name.replace('\xa0', ' ') for name in names.split(' ')]) == expected


@pytest.mark.parametrize(('train', 'test'), [('train', 'test'), ('My Train Set', 'My Test Set')])
def test_folders_of_splits_hold_folders_of_classes(tmp_path, train, test):
    folders = find_images(make(tmp_path, *classes(train, test), f'{test}/dog/deeper/yet/7.png'))
    assert folders.class_names == ('cat', 'dog') and not folders.notes
    assert paths(folders.splits['train']) == sorted(classes(train))
    assert paths(folders.splits['test']) == [*classes(test), f'{test}/dog/deeper/yet/7.png']


@pytest.mark.parametrize('name', ['val', 'Validation'])
def test_validation_is_tested_on_where_there_is_no_test_split_and_that_is_said(tmp_path, name):
    folders = find_images(make(tmp_path / 'two', *classes('train', name)))
    assert {*folders.splits} == {'train', 'test'} and name in folders.notes[0]
    assert paths(folders.splits['test']) == sorted(classes(name))
    folders = find_images(make(tmp_path / 'three', *classes('train', name, 'test')))
    assert [*folders.splits] == ['train', 'validation', 'test'] and not folders.notes


@pytest.mark.parametrize(
    ('made', 'names'),
    [
        (['bus/1.png', 'car/1.png', 'train/1.png'], ('bus', 'car', 'train')),
        (['bus/1.png', 'train/1.png'], ('bus', 'train')),
        (classes('cat', 'dog', names=('images',)), ('cat', 'dog')),  # as in Tiny ImageNet
    ],
)
def test_other_folders_are_classes_whatever_their_name(tmp_path, made, names):
    folders = find_images(make(tmp_path, *made))
    assert folders.class_names == names and paths(folders.splits['all']) == made


@pytest.mark.parametrize(
    ('made', 'words'),
    [
        (classes('train', 'test', 'fox'), ["'test', 'train'", "'fox'"]),
        (['train/1.png', 'test/2.png'], ["'test', 'train'", 'SPLIT/CLASS/image.png']),
        (classes('train', 'val', 'valid'), ["'val', 'valid'"]),
        (classes('a', 'b'), ["'a', 'b'", "'cat', 'dog'", 'no images', 'train']),
        (classes('cat', 'dog', names=('train', 'test')), ["'test', 'train'", 'test/cat/image']),
        (classes('pets'), ["'pets'", "'cat', 'dog'", 'name ']),
        (classes('train'), ["'train'", "'cat', 'dog'"]),
        ([*classes('train', 'test'), 'test/fox/1.png'], ['train and test', "'fox'"]),
        (['cat/1.png', 'cat/2.png'], ["'cat'", 'two']),
        (['1.png', '2.png'], ['no class folders']),
        (['a/1.png', 'a/2.png', 'b/'], ['b: ', 'without images']),
        (['a/1.png', 'a/2.png', 'b/1.png'], ['b: a single image']),
        (['train/a/1.png', 'test/a/1.png'], ['train: ', "'a'"]),
    ],
)
def test_folders_whose_meaning_is_not_clear_are_refused_with_what_is_meant(tmp_path, made, words):
    with refuses(tmp_path, *words):
        split_images(tmp_path, find_images(make(tmp_path, *made)), 0.2, 0)


@settings(max_examples=30)
@given(
    st.lists(st.integers(2, 30), min_size=2, max_size=5),
    st.floats(0.01, 0.99),
    st.integers(0, 2**31 - 1),
)
def test_every_split_has_its_share_of_every_class(tmp_path_factory, counts, share, seed):
    root = tmp_path_factory.mktemp('share')
    made = [f'{label}/{k}.png' for label, count in enumerate(counts) for k in range(count)]
    folders = find_images(make(root, *made))
    splits = split_images(root, folders, share, seed)
    assert folders.class_names == tuple(str(label) for label in range(len(counts)))
    assert paths(file for files in splits.values() for file in files) == sorted(made)
    for label, count in enumerate(counts):
        for_testing = sum(file.label == label for file in splits['test'])
        assert 1 <= for_testing <= count - 1
        assert abs(for_testing - share * count) <= 1
        assert all(file.path.startswith(f'{file.label}/') for file in splits['train'])
    assert split_images(root, find_images(root), share, seed) == splits
    shutil.rmtree(root)


def test_another_seed_is_another_split_and_a_new_image_leaves_the_others_where_they_are(tmp_path):
    root = put_classes(tmp_path, 40)

    def split(seed=0):
        return split_images(root, find_images(root), 0.2, seed)

    before = split()
    assert paths(before['test']) != paths(split(1)['test'])
    assert 4 <= sum(file.label for file in before['train'][:20]) <= 16
    put(root / 'cat' / 'new.png', 12)
    assert len({*paths(before['test'])} - {*paths(split()['test'])}) <= 1


def test_the_order_of_splits_is_that_of_earlier_versions(tmp_path):
    """The identity of a data set, which stands in data.json, depends on it."""
    folders = find_images(make(tmp_path, *classes('train', 'test', 'validation')))
    assert [*split_images(tmp_path, folders, 0.2, 0)] == ['train', 'validation', 'test']
    recorded = {split: [file.path for file in files] for split, files in folders.splits.items()}
    splits, text = find_again(folders, SplitFiles(folders.class_names, recorded))
    assert [*splits] == ['train', 'validation', 'test'] and not text


def test_the_splits_of_a_run_are_found_again_after_images_were_added(tmp_path):
    root = put_classes(tmp_path / 'set')
    before = open_folder(root)
    for name in ('ant', 'cat', 'dog'):  # a class that comes first, too
        for k in range(30):
            put(root / name / f'new{k}.png', 255)
    with warns('90 images are new'):
        after = open_folder(root, before.split_files)
    assert after.identity == before.identity and after.class_names == ('cat', 'dog')
    chex.assert_trees_all_equal(after.read('train+test'), before.read('train+test'))
    (root / before.split_files.paths['test'][0]).unlink()
    with warns('1 image is gone'):
        assert sum(open_folder(root, before.split_files).split_sizes.values()) == 19
    for path in before.split_files.paths['train']:
        (root / path).unlink()
    with warns('17 images are gone'):
        assert open_folder(root, before.split_files).split_sizes['train'] == 0
    # Another data set has splits of its own.
    other = put_classes(tmp_path / 'other')
    for path in [*other.rglob('*.png')]:
        path.rename(path.with_name(f'x{path.name}'))
    assert open_folder(other, before.split_files).split_sizes == {'train': 16, 'test': 4}
