"""Data sets of TFDS: found or prepared, their image and label, and what is read of them."""

import hashlib
import shutil

import chex
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mixer_dilated.data.preprocessing import Preprocessing
from mixer_dilated.data.tfds_dataset import TfdsDataSource
from mixer_dilated.errors import UserError
from mixer_dilated.training.setup import create_setup
from tests.conftest import flip_bit, refuses, small_config, warns
from tests.tfds_files import encoded, grey, open_set, write_set

IMAGE, CLASS = tfds.features.Image(shape=(8, 8, 1)), tfds.features.ClassLabel(num_classes=3)
GOOD = [(encoded(grey(seed)), seed % 10) for seed in range(12)]
PNG = GOOD[0][0]


def test_mnist_is_read_as_tfds_gives_it(mnist):
    source = open_set(mnist, 'mnist')
    assert source.image_shape == (28, 28, 1) and source.num_classes == 10
    assert source.split_sizes == {'train': 60000, 'test': 10000}
    images, labels = source.read('train[30:40]+test[:5]')
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    parts = 'train[30:40]', 'test[:5]'
    expected = [
        record for part in parts for record in tfds.data_source('mnist', data_dir=mnist, split=part)
    ]
    np.testing.assert_array_equal(images, [record['image'] for record in expected])
    np.testing.assert_array_equal(labels, [record['label'] for record in expected])


def test_a_folder_of_the_same_name_does_not_hide_a_set(tmp_path, monkeypatch):
    write_set(tmp_path / 'sets', GOOD)
    monkeypatch.chdir(tmp_path)
    for name in ('tiny', 'pets'):
        (tmp_path / name).mkdir()
    (tmp_path / 'own.npz').touch()
    assert open_set(tmp_path / 'sets').num_classes == 10
    for name, kind in (('pets', 'folder'), ('own.npz', 'npz'), (str(tmp_path), 'folder')):
        with refuses(f'config.dataset.name = {name!r}', f"'{kind}:{name}'"):
            open_set(tmp_path / 'sets', name)


# Which features are image and label


def make_set(data_dir, features, supervised=None, **values):
    """Six examples of the labels 0, 1, 2, with more features, functions of the label."""
    more = [{key: of(k % 3) for key, of in values.items()} for k in range(6)]
    records = [{'image': encoded(grey(k)), 'label': k % 3, **more[k]} for k in range(6)]
    write_set(data_dir, records, splits=['train'], features=features, supervised=supervised)


def test_the_one_image_and_the_one_class_label_are_taken_which_is_said(tmp_path):
    features = {'image': IMAGE, 'label': CLASS, 'size': tfds.features.Scalar(np.int64)}
    make_set(tmp_path, features, size=lambda label: 7)
    with warns("its image is 'image'"), warns("its label is 'label'"):
        examples = open_set(tmp_path).read('train')
    np.testing.assert_array_equal(examples.labels, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(examples.images[3, ..., 0], grey(3))


def test_another_label_is_chosen_by_its_key(tmp_path):
    coarse = tfds.features.ClassLabel(names=['small', 'large'])
    features = {'image': IMAGE, 'label': CLASS, 'coarse': coarse}
    make_set(tmp_path, features, ('image', 'label'), coarse=lambda label: label // 2)
    usual, other = open_set(tmp_path), open_set(tmp_path, label_key='coarse')
    assert usual.class_names == ('0', '1', '2') and other.class_names == ('small', 'large')
    np.testing.assert_array_equal(other.read('train').labels, [0, 0, 1, 0, 0, 1])
    assert usual.identity != other.identity
    for key, value, allowed in (('label', 'fine', 'coarse, label'), ('image', 'label', 'image')):
        with refuses(f'config.dataset.{key}_key = {value!r}', allowed):
            open_set(tmp_path, **{f'{key}_key': value})


@pytest.mark.parametrize(
    ('feature', 'of', 'names'),
    [
        (tfds.features.Scalar(np.int64), lambda label: 40 - 10 * label, ('20', '30', '40')),
        (tfds.features.Text(), lambda label: b'dog%d' % (9 - label), ('dog7', 'dog8', 'dog9')),
    ],
)
def test_plain_labels_are_classes_once_counted(tmp_path, feature, of, names):
    make_set(tmp_path, {'image': IMAGE, 'kind': feature}, ('image', 'kind'), kind=of)
    source = open_set(tmp_path)
    assert source.class_names == names and source.num_classes == 3
    np.testing.assert_array_equal(source.read('train').labels, [2, 1, 0, 2, 1, 0])
    np.testing.assert_array_equal(source.data_source('train').labels([5, 0]), [0, 2])


@pytest.mark.parametrize(
    ('features', 'words'),
    [
        ({'image': IMAGE, 'labels': tfds.features.Sequence(CLASS)}, ['several labels', 'labels']),
        ({'image': IMAGE}, ['no label', 'image']),
        ({'label': CLASS}, ['no image', 'label']),
        ({'image': IMAGE, 'a': CLASS, 'b': CLASS}, ['a, b', '--config.dataset.label_key=']),
        ({'a': IMAGE, 'b': IMAGE, 'label': CLASS}, ['a, b', '--config.dataset.image_key=']),
    ],
)
def test_what_is_no_image_with_one_label_is_refused_with_the_way_on(tmp_path, features, words):
    make_set(tmp_path, features)
    with refuses("config.dataset.name = 'tiny'", *words):
        open_set(tmp_path)


def test_texts_that_are_no_classes_are_refused(tmp_path):
    records = [{'image': PNG, 'name': b'%d' % k} for k in range(1001)]
    features = {'image': IMAGE, 'name': tfds.features.Text()}
    write_set(tmp_path, records, features=features, supervised=('image', 'name'))
    with refuses('name', '1001 values', 'label_key'):
        open_set(tmp_path)


def test_a_set_of_one_class_is_refused(tmp_path):
    one = tfds.features.ClassLabel(names=['cat'])
    write_set(tmp_path, [{'image': PNG, 'label': 0}] * 6, features={'image': IMAGE, 'label': one})
    with refuses("config.dataset.name = 'tiny'", "'cat'"):
        create_setup(small_config(**{'dataset.name': 'tiny', 'dataset.data_dir': str(tmp_path)}))


# Sizes and channels

SIZES = ((6, 9, 3), (12, 8, 3), (40, 40, 3), (5, 5, 3))
RECORDS = [
    (encoded(grey(seed, size), 'JPEG' if seed % 2 else 'PNG'), seed)
    for seed, size in enumerate(SIZES)
]


@pytest.fixture
def several(tmp_path):
    """A folder with a set of images of several sizes."""
    write_set(tmp_path, RECORDS, (None, None, 3))
    return tmp_path


@pytest.mark.parametrize('resize', ['crop', 'pad', 'squash'])
def test_images_of_several_sizes_are_brought_to_one(resize, several):
    source = open_set(several, image_size=(8, 10), resize=resize)
    assert source.image_shape == source.stored_shape == (8, 10, 3)
    examples, preprocessing = source.read('train'), Preprocessing((8, 10, 3), resize=resize)
    np.testing.assert_array_equal(examples.images, [preprocessing.read(r) for r, _ in RECORDS])
    np.testing.assert_array_equal(examples.labels, range(4))


def test_the_size_is_part_of_the_fingerprint(several):
    ways = {'image_size': 8}, {'image_size': 9}, {'image_size': 8, 'resize': 'pad'}
    assert len({open_set(several, **keys).fingerprint for keys in ways}) == 3


def test_images_of_several_sizes_need_a_size_and_are_refused_with_their_place(several):
    with refuses("'tiny'", '--config.dataset.image_size='):
        open_set(several)
    with refuses('record 2: 40×40 = 1600 pixels', '200'):
        open_set(several, image_size=8, max_pixels=200).read('train')


def test_the_identities_of_earlier_versions_are_known(several):
    """They had max_pixels in them, which changes no image that was read."""
    source, folder = open_set(several, image_size=8, max_pixels=12345), several / 'tiny' / '1.0.0'
    paths = [path for split in source.split_sizes for path in folder.glob(f'tiny-{split}.*')]
    files = [f'{path.name} {path.stat().st_size}' for path in paths]
    for max_pixels in (2**24, 12345):
        fields = f"image_shape=(8, 8, 3), how='resize', resize='crop', max_pixels={max_pixels}"
        lines = '\n'.join(['tiny/1.0.0', f'Preprocessing({fields})', *files])
        assert hashlib.sha256(lines.encode()).hexdigest() in source.old_identities
    assert open_set(several, image_size=8).identity == source.identity


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
    write_set(tmp_path, GOOD)
    source = open_set(tmp_path, image_size=image_size)
    assert (source.image_shape, source.stored_shape) == ((*seen, 1), (*stored, 1))
    assert source.read('train').images.shape == (12, *stored, 1)


@pytest.mark.parametrize('size', [0, 4])
@pytest.mark.parametrize(('declared', 'stored'), [(3, (8, 8)), (1, (8, 8, 3))])
def test_grey_and_colour_are_converted_at_every_size(tmp_path, size, declared, stored):
    write_set(tmp_path, [(encoded(grey(k, stored)), k) for k in range(3)], (8, 8, declared))
    images = open_set(tmp_path, image_size=size).read('train').images
    assert images.shape == (3, size or 8, size or 8, declared)
    if not size:
        mode = 'L' if declared == 1 else 'RGB'
        converted = [np.asarray(Image.fromarray(grey(k, stored)).convert(mode)) for k in range(3)]
        np.testing.assert_array_equal(images, np.reshape(converted, images.shape))


# Damaged files


@pytest.mark.parametrize(
    ('record', 'words'),
    [
        ((PNG, -1), ['label -1', '0 to 9']),
        ((PNG, 10), ['label 10', '0 to 9']),
        ((encoded(grey(0, (9, 8))), 1), ['9×8', '8×8']),
        ((PNG[:60], 1), ['cannot be decoded']),
        ((b'<html>', 1), ['not a PNG']),
        ((encoded(np.zeros((3000, 3000), np.uint8)), 1), ['3000×3000']),
    ],
)
def test_a_broken_record_is_refused_with_its_place(record, words, tmp_path):
    folder = write_set(tmp_path, [*GOOD[:3], record, *GOOD[3:]])
    source = open_set(tmp_path)
    with refuses(f"{folder}, split 'train', record 3: ", *words):
        source.read('train')
    assert len(source.read('train[:3]').labels) == 3


def test_damaged_files_of_a_prepared_set_are_refused_or_read_as_they_were(tmp_path):
    """Cut off and flipped at many places: what is read is right, or refused in one line."""
    path = write_set(tmp_path, GOOD) / 'tiny-train.array_record-00000-of-00001'
    expected, whole = open_set(tmp_path).read('train'), path.read_bytes()
    draw, refused = np.random.default_rng(0), 0
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))  # the rest is padding
    for k in range(60):
        path.write_bytes(whole[: len(whole) * k // 10] if k < 10 else whole)
        if k >= 10:
            flip_bit(path, int(8 * draw.choice(used) + draw.integers(8)))
        try:
            examples = open_set(tmp_path).read('train')
        except UserError as error:
            refused += 1
            assert '\n' not in str(error) and str(path.parent) in str(error)
        else:
            chex.assert_trees_all_equal(examples, expected)
    assert refused > 30


def test_records_that_cannot_be_read_are_refused_by_number(tmp_path):
    folder = write_set(tmp_path, GOOD, files=len(GOOD))
    path = folder / 'tiny-train.array_record-00003-of-00012'
    path.write_bytes(path.read_bytes()[:1000])
    records = open_set(tmp_path).data_source('train')
    assert records.labels([5, 0]).tolist() == [5, 0]
    with refuses(folder, "split 'train': record 3 cannot be read: "):
        records.read([5, 3, 0])
    empty = TfdsDataSource([b''], 1, 'somewhere', ('image', 'label'), {}, (8, 8, 1), None)
    with refuses('somewhere: record 0 cannot be read: ', 'image'):
        empty.read([0])


def test_data_that_is_too_large_or_vanishes_is_refused(tmp_path):
    folder = write_set(tmp_path, GOOD)
    with refuses('64 pixels', '63'):
        open_set(tmp_path, max_pixels=63)
    source = open_set(tmp_path)
    shutil.rmtree(folder)
    with refuses(folder):
        source.read('train')
