"""Image and label of a TFDS set, and sets of other file formats."""

import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mixer_dilated.training.setup import create_setup
from tests.conftest import refuses, small_config, warns
from tests.tfds_files import encoded, grey, open_set, write_set

IMAGE, CLASS = tfds.features.Image(shape=(8, 8, 1)), tfds.features.ClassLabel(num_classes=3)
ROWS = [{'image': encoded(grey(k)), 'label': k % 3} for k in range(6)]


def rows(**values):
    """`ROWS` with more features, functions of the label."""
    return [{**row, **{key: of(row['label']) for key, of in values.items()}} for row in ROWS]


def make_set(data_dir, features, records, supervised=None):
    return write_set(data_dir, records, splits=['train'], features=features, supervised=supervised)


def test_the_one_image_and_the_one_class_label_are_taken_which_is_said(tmp_path):
    make_set(tmp_path, {'image': IMAGE, 'label': CLASS, 'size': tfds.features.Scalar(np.int64)},
             rows(size=lambda label: 7))  # fmt: skip
    with warns("its image is 'image'"), warns("its label is 'label'"):
        source = open_set(tmp_path)
    examples = source.read('train')
    np.testing.assert_array_equal(examples.labels, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(examples.images[3, ..., 0], grey(3))


def test_another_label_is_chosen_by_its_key(tmp_path):
    coarse = tfds.features.ClassLabel(names=['small', 'large'])
    make_set(tmp_path, {'image': IMAGE, 'label': CLASS, 'coarse': coarse},
             rows(coarse=lambda label: label // 2), ('image', 'label'))  # fmt: skip
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
    make_set(tmp_path, {'image': IMAGE, 'kind': feature}, rows(kind=of), ('image', 'kind'))
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
        ({'left': IMAGE, 'right': IMAGE, 'label': CLASS},
         ['left, right', '--config.dataset.image_key=']),
    ],
)  # fmt: skip
def test_what_is_no_image_with_one_label_is_refused_with_the_way_on(tmp_path, features, words):
    make_set(tmp_path, features, ROWS)
    with refuses("config.dataset.name = 'tiny'", *words):
        open_set(tmp_path)


def test_texts_that_are_no_classes_are_refused(tmp_path):
    records = [{'image': ROWS[0]['image'], 'name': b'%d' % k} for k in range(1001)]
    features = {'image': IMAGE, 'name': tfds.features.Text()}
    make_set(tmp_path, features, records, ('image', 'name'))
    with refuses('name', '1001 values', 'label_key'):
        open_set(tmp_path)


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


def test_a_set_of_one_class_is_refused(tmp_path):
    one = tfds.features.ClassLabel(names=['cat'])
    records = [{**row, 'label': 0} for row in ROWS]
    make_set(tmp_path, {'image': IMAGE, 'label': one}, records, ('image', 'label'))
    with refuses("config.dataset.name = 'tiny'", "'cat'"):
        create_setup(small_config(**{'dataset.name': 'tiny', 'dataset.data_dir': str(tmp_path)}))


def prepared(tmp_path, formats):
    """A set whose info says that it is stored as these formats, of which one is there."""
    folder = write_set(tmp_path, [(row['image'], row['label']) for row in ROWS])
    info = json.loads((folder / 'dataset_info.json').read_text())
    info |= {'fileFormat': formats[0], 'alternativeFileFormats': formats[1:]}
    (folder / 'dataset_info.json').write_text(json.dumps(info))
    return folder


def test_a_set_that_was_converted_in_place_is_read(tmp_path):
    prepared(tmp_path, ['tfrecord', 'array_record'])
    source = open_set(tmp_path)
    np.testing.assert_array_equal(source.read('train').labels, [0, 1, 2, 0, 1, 2])
    shutil.rmtree(tmp_path / 'tiny')
    prepared(tmp_path, ['array_record'])
    assert open_set(tmp_path).identity == source.identity


def test_another_format_is_refused_with_the_command_that_converts_it(tmp_path):
    folder = prepared(tmp_path, ['tfrecord'])
    with refuses(folder, 'tfrecord', f'--dataset_version_dir={folder}', 'array_record'):
        open_set(tmp_path)
