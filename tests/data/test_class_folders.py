"""What the folders of a data set mean: classes, splits, links, endings, and splits of a run."""

import os

import numpy as np
import pytest
from PIL import Image

from mixer_dilated.config import resolve
from mixer_dilated.data.class_folders import find_again, find_images, split_images
from mixer_dilated.data.datasets import open_dataset
from mixer_dilated.data.image_files import Ignored, ignored_text
from mixer_dilated.data.split_names import splits_of
from tests.conftest import refuses, warns
from tests.data.test_image_files import put_classes


def make(root, *paths):
    """Empty files; a name with a / at its end is a folder."""
    for path in paths:
        folder = root / path if path.endswith('/') else (root / path).parent
        folder.mkdir(parents=True, exist_ok=True)
        if not path.endswith('/'):
            (root / path).touch()
    return root


def classes(*splits, names=('cat', 'dog'), count=2):
    return [f'{split}/{name}/{k}.png' for split in splits for name in names for k in range(count)]


def find(root, **options):
    return find_images(root, Ignored(), **options)


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
        ('train.1 eval.1', ['train', 'test']),
        ('bus car train', [None, None, 'train']),
        ('trainer tester', [None, None]),
        ('left right', [None, None]),
        ('contest attest', [None, None]),
    ],
)
def test_the_usual_names_of_splits_are_splits(names, expected):
    assert splits_of(names.split()) == expected


@pytest.mark.parametrize('spelling', ['{}', '{}_images', 'seg_{}', '{}ing', 'my {} set'])
@pytest.mark.parametrize('change', [str.lower, str.upper, str.title])
def test_split_folders_are_found_whatever_their_spelling(tmp_path, spelling, change):
    train, test = (change(spelling.format(split)) for split in ('train', 'test'))
    folders = find(make(tmp_path, *classes(train, test)))
    assert folders.class_names == ('cat', 'dog') and not folders.notes
    assert paths(folders.splits['train']) == sorted(classes(train))
    assert paths(folders.splits['test']) == sorted(classes(test))


@pytest.mark.parametrize('name', ['val', 'valid', 'Validation', 'dev'])
def test_validation_is_tested_on_where_there_is_no_test_split_and_that_is_said(tmp_path, name):
    folders = find(make(tmp_path / 'two', *classes('train', name)))
    assert {*folders.splits} == {'train', 'test'} and name in folders.notes[0]
    assert paths(folders.splits['test']) == sorted(classes(name))
    folders = find(make(tmp_path / 'three', *classes('train', name, 'test')))
    assert [*folders.splits] == ['train', 'validation', 'test'] and not folders.notes


def test_bus_car_and_train_are_classes(tmp_path):
    names = ('bus', 'car', 'train')
    folders = find(make(tmp_path, *(f'{name}/{k}.png' for name in names for k in range(2))))
    assert folders.class_names == names and [*folders.splits] == ['all']


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
    ],
)
def test_folders_whose_meaning_is_not_clear_are_refused_with_what_is_meant(tmp_path, made, words):
    with refuses(tmp_path, *words):
        find(make(tmp_path, *made))


def test_images_in_one_folder_of_each_class_are_its_images(tmp_path):
    """As in Tiny ImageNet."""
    folders = find(make(tmp_path, *classes('cat', 'dog', names=('images',))))
    assert folders.class_names == ('cat', 'dog') and len(folders.splits['all']) == 4


def test_what_is_left_out_is_counted_by_its_ending(tmp_path):
    made = ['cat/1.png', 'dog/1.BMP', 'dog/2.jfif', 'cat/1.heic', 'cat/2.HEIC', 'dog/notes.txt']
    made += ['__MACOSX/cat/._1.png', 'cat/__MACOSX/2.png', 'cat/Makefile', '.hidden/1.png']
    ignored = Ignored()
    folders = find_images(make(tmp_path, *made), ignored)
    assert paths(folders.splits['all']) == ['cat/1.png', 'dog/1.BMP', 'dog/2.jfif']
    assert ignored_text(ignored) == (
        '2 .heic files (save as JPEG), 1 file without an ending of images, 1 .txt file'
    )


def test_links_are_left_out_and_named_or_followed(tmp_path):
    make(tmp_path, 'pool/cats/1.png', 'pool/cats/2.png', 'pool/dog.png', 'set/cat/', 'set/dog/')
    root = tmp_path / 'set'
    os.symlink('../../pool/cats', root / 'cat' / 'link')
    os.symlink('../../pool/dog.png', root / 'dog' / '1.png')
    with refuses(root / 'cat', '1 link to a folder', '--config.dataset.follow_links=True'):
        find(root)
    os.symlink('..', root / 'dog' / 'back')  # a loop
    folders = find(root, follow_links=True)
    of_cat = {path for path in paths(folders.splits['all']) if path.startswith('cat/')}
    assert of_cat == {'cat/link/1.png', 'cat/link/2.png'}
    # Not what the link leads back to, which is of other classes too.
    assert {path for path in paths(folders.splits['all']) if path[:3] == 'dog'} == {'dog/1.png'}
    os.rename(root / 'dog', tmp_path / 'dogs')
    os.symlink('../dogs', root / 'dog')
    with refuses(root, "one class folder, 'cat'", 'follow_links'):
        find(root)


def put(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6), level, np.uint8)).save(path)


def put_pets(root, count=10):
    for label, name in enumerate(('cat', 'dog')):
        for k in range(count):
            put(root / name / f'{k}.png', 100 * label + k)
    return root


def open_folder(root, recorded=None, **keys):
    dataset = {'name': f'folder:{root}', 'image_size': 4, 'channels': 1, **keys}
    dataset['cache_dir'] = str(root.parent / 'cache')
    return open_dataset(resolve({'dataset': dataset}).dataset, recorded)


def test_the_splits_of_a_run_are_found_again_after_images_were_added(tmp_path):
    root = put_pets(tmp_path / 'set')
    before = open_folder(root)
    for name in ('ant', 'cat', 'dog'):  # a class that comes first, too
        for k in range(30):
            put(root / name / f'new{k}.png', 255)
    with pytest.warns(UserWarning) as warned:
        after = open_folder(root, before.split_files)
    assert '90 images are new' in str(warned[0].message)
    assert after.identity == before.identity and after.class_names == ('cat', 'dog')
    for split in ('train', 'test'):
        for one, other in zip(before.read(split), after.read(split), strict=True):
            np.testing.assert_array_equal(one, other)
    (root / 'dog' / '3.png').unlink()
    with warns('1 image is gone'):
        assert sum(open_folder(root, before.split_files).split_sizes.values()) == 19
    # Another data set has splits of its own.
    other = put_pets(tmp_path / 'other')
    for path in [*other.rglob('*.png')]:
        path.rename(path.with_name(f'x{path.name}'))
    assert open_folder(other, before.split_files).split_sizes == {'train': 16, 'test': 4}


def test_the_order_of_splits_is_that_of_earlier_versions(tmp_path):
    """The identity of a data set, which stands in data.json, depends on it."""
    folders = find(make(tmp_path, *classes('train', 'test', 'validation')))
    assert [*split_images(tmp_path, folders, 0.2, 0)] == ['train', 'validation', 'test']
    splits, text = find_again(folders, open_like(folders))
    assert [*splits] == ['train', 'validation', 'test'] and not text


def open_like(folders):
    from mixer_dilated.data.class_folders import SplitFiles

    listed = {split: [file.path for file in files] for split, files in folders.splits.items()}
    return SplitFiles(folders.class_names, listed)


def test_corrupt_files_are_left_out_before_the_split(tmp_path):
    """Even if they are all of those that a class would be tested on."""
    root = put_pets(tmp_path / 'set', 5)
    tested = open_folder(root).split_files.paths['test']
    for path in tested:
        (root / path).write_bytes(b'')
    with warns(f'left out {len(tested)} of 10 images'):
        source = open_folder(root, on_corrupt='skip')
    assert source.split_sizes == {'train': 6, 'test': 2}
    assert list(np.bincount(source.read('test').labels)) == [1, 1]
    expected = {10 * 0 + k for k in range(5)} | {100 + k for k in range(5)}
    pixels = {int(image.flat[0]) for image in source.read('train+test').images}
    assert len(pixels) == 8 and pixels <= expected


@pytest.mark.parametrize(('top', 'white'), [(255, 255), (1000, 1023), (4095, 4095)])
def test_dark_images_of_16_bits_are_refused_with_the_key_that_makes_them_light(
    tmp_path, top, white
):
    root = tmp_path / 'set'
    for name in ('cat', 'dog'):
        for k in range(3):
            (root / name).mkdir(parents=True, exist_ok=True)
            values = np.linspace(0, top, 16).reshape(4, 4).astype(np.uint16)
            Image.fromarray(values).save(root / name / f'{k}.png')
    with refuses(root, f'at most {white}', f'--config.dataset.white={white}'):
        open_folder(root)
    images = open_folder(root, white=white).read('train').images
    expected = np.round(values * (255 / white)).astype(np.uint8)
    np.testing.assert_array_equal(images[0][..., 0], expected)
    assert open_folder(root, white=65535).read('train').images.max() == round(top / 257)
    assert open_folder(root, max_pixels=15).num_classes == 2  # larger ones are never decoded


def test_a_run_whose_training_images_are_gone_has_an_empty_split(tmp_path):
    root = put_classes(tmp_path / 'set', 4)
    recorded = open_folder(root).split_files
    for path in recorded.paths['train']:
        (root / path).unlink()
    with warns('6 images are gone'):
        assert open_folder(root, recorded).split_sizes == {'train': 0, 'test': 2}
