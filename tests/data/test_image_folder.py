"""Pictures in a folder a class, as a data set."""

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
from mixer_dilated.data.datasets import load_examples, open_dataset
from mixer_dilated.data.image_files import Ignored, find_images, ignored_text, walk_images
from mixer_dilated.errors import UserError

LEVELS = {'cat': 10, 'dog': 200}


def put(path, level, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, level, np.uint8)).save(path)


def classes(root, count=10, **levels):
    """Grey pictures, as many of each class, whose level says the class."""
    for name, level in (levels or LEVELS).items():
        for k in range(count):
            put(root / name / f'{k}.png', level + k % 5)
    return root


def opened(root, **keys):
    dataset = {'name': f'folder:{root}', 'image_size': 4, 'channels': 1, **keys}
    dataset = {'cache_dir': str(root.parent / 'cache'), **dataset}
    return open_dataset(resolve({'dataset': dataset}).dataset)


def test_each_folder_is_a_class_and_a_share_of_it_is_for_testing(tmp_path):
    source = opened(classes(tmp_path / 'set'), test_fraction=0.3, image_size=(3, 5))
    assert source.class_names == ('cat', 'dog') and source.num_classes == 2
    assert source.image_shape == (3, 5, 1) and source.split_sizes == {'train': 14, 'test': 6}
    train, test = source.read('train'), source.read('test')
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int32
    for part, each in ((train, 7), (test, 3)):
        assert list(np.bincount(part.labels)) == [each, each]
        np.testing.assert_array_equal(part.images.max(axis=(1, 2, 3)) >= 200, part.labels)
    both = source.read('train[5:]+test[:2]')
    np.testing.assert_array_equal(both.labels, [*train.labels[5:], *test.labels[:2]])
    np.testing.assert_array_equal(both.images, [*train.images[5:], *test.images[:2]])


def test_colour_is_the_default(tmp_path):
    assert opened(classes(tmp_path / 'set'), channels=3).read('train').images.shape[1:] == (4, 4, 3)


@settings(deadline=None, max_examples=30)
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
    names, found = find_images(root, share, seed, Ignored())
    assert names == tuple(str(label) for label in range(len(counts)))
    paths = [file.path for files in found.values() for file in files]
    assert len(paths) == len({*paths}) == sum(counts)
    for label, count in enumerate(counts):
        for_testing = sum(file.label == label for file in found['test'])
        assert 1 <= for_testing <= count - 1
        assert abs(for_testing - share * count) <= 1
        assert all(file.path.startswith(f'{file.label}/') for file in found['train'])
    assert find_images(root, share, seed, Ignored()) == (names, found)
    shutil.rmtree(root)


def test_another_seed_is_another_split_and_a_slice_has_all_classes(tmp_path):
    root = classes(tmp_path / 'set', 40)
    one, other = (find_images(root, 0.2, seed, Ignored())[1] for seed in (0, 1))
    assert {file.path for file in one['test']} != {file.path for file in other['test']}
    labels = [file.label for file in one['train'][:20]]
    assert 4 <= sum(labels) <= 16


def test_a_new_picture_leaves_the_others_nearly_where_they_are(tmp_path):
    root = classes(tmp_path / 'set', 40)
    before = {file.path for file in find_images(root, 0.2, 0, Ignored())[1]['test']}
    put(root / 'cat' / 'new.png', 12)
    after = {file.path for file in find_images(root, 0.2, 0, Ignored())[1]['test']}
    assert len(before - after) <= 1


def test_folders_train_and_test_are_the_splits(tmp_path):
    root = tmp_path / 'set'
    classes(root / 'train', 5)
    classes(root / 'test', 2)
    classes(root / 'validation', 3)
    put(root / 'test' / 'cat' / 'deeper' / 'yet' / '7.png', 10)
    source = opened(root)
    assert source.split_sizes == {'train': 10, 'validation': 6, 'test': 5}
    assert list(np.bincount(source.read('test').labels)) == [3, 2]


def test_a_class_may_be_called_train(tmp_path):
    source = opened(classes(tmp_path / 'set', train=10, bus=200))
    assert source.class_names == ('bus', 'train')


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        put(root / path, 5) if path.endswith('.png') else (root / path).mkdir()
    return root


@pytest.mark.parametrize(
    ('paths', 'said'),
    [
        (['cat/1.png', 'cat/2.png'], "holds one class folder, 'cat'; allowed are at least two"),
        (['1.png', '2.png'], 'holds no class folders; allowed are at least two'),
        (['a/1.png', 'a/2.png', 'b'], 'b: a class folder without images'),
        (['a/1.png', 'a/2.png', 'b/1.png'], 'b: a single image, which cannot be split'),
        (['train/a/1.png', 'train/b/1.png'], 'but no test; name its folders train, test'),
        (['train/a/1.png', 'train/b/1.png', 'val/a/1.png'], 'but no test; name its folders'),
        (['train/1.png', 'test/1.png'], 'train: holds no class folders'),
        (['train/a/1.png', 'test/a/1.png'], "train: holds one class folder, 'a'"),
        (['train/a/1.png', 'train/b/1.png', 'test/a/1.png', 'c/1.png'], "test there is 'c'"),
        (
            ['train/a/1.png', 'train/b/1.png', 'test/a/1.png', 'test/c/1.png'],
            "train and test have different classes: 'b', 'c' are in one of them only",
        ),
    ],
)
def test_a_folder_of_another_kind_is_refused_with_what_is_there(tmp_path, paths, said):
    with pytest.raises(UserError, match=said) as refusal:
        opened(make(tmp_path / 'set', *paths))
    assert '\n' not in str(refusal.value)


@pytest.mark.parametrize(
    ('keys', 'said'),
    [
        ({'name': 'folder:no/where'}, 'no such folder: no/where'),
        ({'name': 'folder:'}, 'no such folder'),
        ({'image_size': 0}, 'set it, for example --config.dataset.image_size=64'),
        ({'image_size': (3, 0)}, r'image_size = \(3, 0\): allowed is 0 or an integer from 1'),
        ({'channels': 2}, 'channels = 2: allowed is one of 1, 3'),
        ({'channels': True}, 'channels = True: allowed is one of 1, 3'),
        ({'resize': 'stretch'}, "resize = 'stretch': allowed is one of 'crop', 'pad', 'squash'"),
        ({'test_fraction': 1.0}, r'test_fraction = 1.0: allowed is a number in \(0, 1\)'),
        ({'on_corrupt': 'ignore'}, "on_corrupt = 'ignore': allowed is one of 'stop', 'skip'"),
        ({'preprocess': 'mnist', 'channels': 3}, "preprocess = 'mnist': it is for grey images"),
    ],
    ids=str,
)
def test_wrong_keys_are_refused_with_what_is_allowed(tmp_path, keys, said):
    with pytest.raises(UserError, match=said):
        opened(classes(tmp_path / 'set'), **keys)


def test_the_folder_may_be_named_below_data_dir(tmp_path):
    classes(tmp_path / 'set')
    source = opened(tmp_path / 'set', name='folder:set', data_dir=str(tmp_path))
    assert source.split_sizes == {'train': 16, 'test': 4}


def test_what_is_no_picture_is_left_out_and_counted_and_hidden_files_are_not_seen(tmp_path):
    root, outside = classes(tmp_path / 'set'), tmp_path / 'outside'
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
    told = (
        '1 file beside the folders, 3 links to folders, 1 file that is no image, '
        '2 pipes, devices or dead links, 1 link to an image of the folder, '
        '1 link out of the folder'
    )
    with pytest.warns(UserWarning, match=f'set: left out {told}$'):
        source = opened(root)
    assert source.class_names == ('cat', 'dog')
    assert source.split_sizes == {'train': 16, 'test': 4}


def test_no_picture_is_trained_on_and_tested_with_under_two_names(tmp_path):
    """By links; one to a place where no picture is looked for is the picture's only name."""
    root = tmp_path / 'set'
    for place in ('.store', 'train/cat', 'train/dog', 'test/cat', 'test/dog'):
        for k in range(2):
            put(root / place / f'{len(place)}-{k}.png', 10 * len(place) + k)
    put(root / 'train' / 'beside.png', 5)
    for name in ('cat', 'dog'):
        (root / 'test' / name / 'again.png').symlink_to(f'../../train/{name}/9-0.png')
    (root / 'test' / 'cat' / 'stored.png').symlink_to('../../.store/6-0.png')
    (root / 'test' / 'dog' / 'beside.png').symlink_to('../../train/beside.png')
    told = '1 file beside the folders, 2 links to images of the folder$'
    with pytest.warns(UserWarning, match=told):
        source = opened(root)
    assert source.split_sizes == {'train': 4, 'test': 6}
    in_folder = Ignored()
    names = {os.path.relpath(entry.path, root) for entry in walk_images(root, in_folder)}
    assert 'test/cat/stored.png' in names and 'test/cat/again.png' not in names
    # Here the picture beside the folders is walked.
    assert 'train/beside.png' in names and 'test/dog/beside.png' not in names
    assert ignored_text(in_folder) == '3 links to images of the folder'


def test_folders_are_walked_in_order_however_deep(tmp_path):
    make(tmp_path, 'b.png', 'a/2.png', 'a/1.png', 'c/' + 'd/' * 300 + '3.png')
    paths = [os.path.relpath(entry.path, tmp_path) for entry in walk_images(tmp_path, Ignored())]
    assert paths == ['b.png', 'a/1.png', 'a/2.png', 'c/' + 'd/' * 300 + '3.png']
    assert ignored_text(Ignored()) == ''
    with pytest.raises(UserError, match='no/where: cannot be read: No such file'):
        list(walk_images('no/where', Ignored()))


def test_any_change_of_files_or_settings_is_another_fingerprint(tmp_path):
    root = classes(tmp_path / 'set')
    seen = {opened(root).fingerprint}
    assert opened(root).fingerprint in seen
    for change in (
        lambda: os.utime(root / 'cat' / '1.png', (1, 1)),
        lambda: put(root / 'cat' / '99.png', 5),
        lambda: (root / 'cat' / '99.png').rename(root / 'dog' / '99.png'),
    ):
        change()
        assert opened(root).fingerprint not in seen
        seen.add(opened(root).fingerprint)
    for keys in ({'image_size': 5}, {'resize': 'pad'}, {'split_seed': 1}, {'test_fraction': 0.5}):
        assert opened(root, **keys).fingerprint not in seen


def broken_set(tmp_path, names=('cat/3.png', 'dog/1.png')):
    root = classes(tmp_path / 'set')
    for name in names:
        (root / name).write_bytes((root / name).read_bytes()[:50])
    return root


def test_broken_pictures_are_named_and_refused(tmp_path):
    source = opened(broken_set(tmp_path, [f'cat/{k}.png' for k in range(10)]))
    with pytest.raises(UserError) as refusal:
        source.read('train')
    message = str(refusal.value)
    assert message.startswith(f'{tmp_path / "set"}: 10 of 20 images cannot be used: cat/')
    assert 'truncated' in message and 'and 7 more' in message
    assert 'on_corrupt=skip' in message and '\n' not in message


def test_broken_pictures_of_all_splits_are_named_at_once(tmp_path):
    root = tmp_path / 'set'
    for split in ('train', 'test'):
        classes(root / split, 3)
        (root / split / 'cat' / '1.png').write_bytes(b'no picture')
    for split in ('train', 'test[:1]+test[1:]'):
        with pytest.raises(UserError, match='2 of 12 images cannot be used') as refusal:
            opened(root).read(split)
        assert all(f'{part}/cat/1.png: ' in str(refusal.value) for part in ('train', 'test'))


@pytest.mark.parametrize('on_corrupt', ['stop', 'skip'])
@pytest.mark.parametrize('number', [errno.EMFILE, errno.EACCES, errno.EIO])
def test_an_error_of_the_system_is_told_and_makes_no_picture_a_broken_one(
    tmp_path, monkeypatch, number, on_corrupt
):
    root = classes(tmp_path / 'set')

    def fail(path, _):
        if str(path).endswith('cat/3.png'):
            raise OSError(number, os.strerror(number))
        return open(path, 'rb')

    with monkeypatch.context() as patch:
        patch.setattr(preprocessing_module, '_open_image', fail)
        said = f'cat/3.png: cannot be read: {os.strerror(number)}; when that is mended'
        with pytest.raises(UserError, match=said):
            [source := opened(root, on_corrupt=on_corrupt), source.read('train+test')]
    assert sum(opened(root, on_corrupt=on_corrupt).split_sizes.values()) == 20


def test_broken_pictures_are_left_out_and_counted_if_asked(tmp_path, monkeypatch):
    root = broken_set(tmp_path)
    told = 'left out 2 of 20 images, which cannot be used: .*truncated'
    with pytest.warns(UserWarning, match=told):
        source = opened(root, on_corrupt='skip')
    assert sum(source.split_sizes.values()) == 18
    first = {split: source.read(split) for split in source.split_sizes}
    assert sum(len(part.labels) for part in first.values()) == 18
    # Which they are is known from now on, and what is decoded again is the same.
    with pytest.warns(UserWarning, match=told), monkeypatch.context() as patch:
        patch.setattr(image_folder, 'decode_images', None)
        again = opened(root, on_corrupt='skip')
    assert again.fingerprint == source.fingerprint != opened(root).fingerprint
    for split, part in first.items():
        for array, expected in zip(again.read(split), part, strict=True):
            np.testing.assert_array_equal(array, expected)


def test_nothing_is_told_and_nothing_changes_if_none_is_broken(tmp_path):
    root = classes(tmp_path / 'set')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        source = opened(root, on_corrupt='skip')
    assert source.fingerprint == opened(root).fingerprint
    np.testing.assert_array_equal(source.read('test').images, opened(root).read('test').images)


@pytest.mark.parametrize('content', ['', '[1]', '{"a": 1}', 'no json'])
def test_a_damaged_note_of_broken_pictures_is_made_again(tmp_path, content):
    root = broken_set(tmp_path)
    for _ in range(2):
        with pytest.warns(UserWarning, match='left out 2 of 20'):
            source = opened(root, on_corrupt='skip')
        assert sum(source.split_sizes.values()) == 18
        (note,) = (tmp_path / 'cache').glob('*-corrupt.json')
        note.write_text(content)


def test_a_class_of_which_nothing_can_be_used_is_refused(tmp_path):
    root = broken_set(tmp_path, [f'cat/{k}.png' for k in range(10)])
    with (
        pytest.warns(UserWarning, match='left out 10 of 20'),
        pytest.raises(UserError, match="no image of class 'cat' in train can be used"),
    ):
        opened(root, on_corrupt='skip')


def test_pictures_that_are_too_large_are_refused_by_name(tmp_path):
    source = opened(classes(tmp_path / 'set'), max_pixels=40)
    with pytest.raises(UserError, match=r'0.png: 8×6 = 48 pixels; allowed are at most 40'):
        source.read('train')


def test_decoded_pictures_are_kept(tmp_path, monkeypatch):
    root = classes(tmp_path / 'set')
    dataset = {'name': f'folder:{root}', 'image_size': 4, 'cache_dir': str(tmp_path / 'cache')}
    dataset = resolve({'dataset': dataset}).dataset
    first = load_examples(open_dataset(dataset), 'train', dataset.cache_dir)
    monkeypatch.setattr(image_folder, 'decode_images', None)
    second = load_examples(open_dataset(dataset), 'train', dataset.cache_dir)
    assert isinstance(second.images, np.memmap)
    np.testing.assert_array_equal(first.images, second.images)


@pytest.mark.slow
def test_a_network_is_trained_on_a_folder_and_keeps_its_class_names(tmp_path, capsys):
    root = classes(tmp_path / 'set', 20, **{'dark\x1b[31m': 10, '<b>bright': 200})
    words = {
        'dataset.name': f'folder:{root}', 'dataset.image_size': 8, 'dataset.channels': 1,
        'dataset.train_split': 'train', 'dataset.test_split': 'test', 'num_epochs': 2, 'batch': 8,
        'model.num_blocks': 1, 'model.hidden_dim': 8,
    }  # fmt: skip
    overrides = [f'--config.{key}={value}' for key, value in words.items()]
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
    capsys.readouterr()
    assert main(['predict', f'--workdir={workdir}', str(tmp_path / 'new.png')], 0) == 0
    told = capsys.readouterr().out
    assert '<b>bright 0.' in told and 'dark\\x1b[31m 0.' in told and '\x1b' not in told
