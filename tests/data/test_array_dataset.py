"""Arrays that people bring in .npz and idx files, as data sets."""

import io
import pickle
import warnings
import zipfile

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from mixer_dilated import files
from mixer_dilated.data.preprocessing import resize_image
from tests.conftest import flip_bit, refuses, warns
from tests.data.array_sets import arrays, check_examples, images, open_npz
from tests.tfds_files import open_set


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_an_npz_of_keras_form_is_a_data_set(tmp_path, save):
    content = arrays(x_val=images(4, seed=2), y_val=np.array([2, 1, 0, 0]))
    save(tmp_path / 'own.npz', **content)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        source = open_npz(tmp_path / 'own.npz')
    assert source.image_shape == source.stored_shape == (6, 5, 1)
    assert source.class_names == ('0', '1', '2') and source.num_classes == 3
    assert source.split_sizes == {'train': 12, 'test': 6, 'validation': 4}
    for split, name in (('train', 'train'), ('test', 'test'), ('validation', 'val')):
        check_examples(source, split, content[f'x_{name}'], content[f'y_{name}'])
    both = np.concatenate([content['x_train'][9:], content['x_test'][:2]])
    check_examples(source, 'train[9:]+test[:2]', both, [0, 1, 2, 0, 1])
    assert open_set(tmp_path, 'npz:own.npz').identity == source.identity


def test_names_of_other_forms_are_understood(tmp_path):
    path, content = tmp_path / 'a.npz', arrays()
    spelled = 'train_images', 'train_labels', 'val_images', 'val_labels'
    np.savez(path, **dict(zip(spelled, content.values(), strict=True)))
    with warns('validation is the test split'):
        source = open_npz(path)
    check_examples(source, 'test', content['x_test'], content['y_test'])
    np.savez(path, scans=content['x_train'], y=[5] * 6 + [7] * 6, groups=[1] * 12)
    with warns('left out the arrays groups'):
        assert open_npz(path, image_key='scans').class_names == ('5', '7')
    both = {'images': content['x_train'], 'labels': [0, 1] * 6, 'kind': [5, 6, 7] * 4}
    assert open_npz(path, both, label_key='kind').class_names == ('5', '6', '7')


def test_arrays_without_splits_have_a_share_of_each_class_for_testing(tmp_path):
    labels, keys = np.repeat(np.arange(3), (2, 9, 20)), {'test_fraction': 0.3, 'split_seed': 4}
    numbers = np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    source = open_npz(tmp_path / 'a.npz', {'images': numbers, 'labels': labels}, **keys)
    assert list(np.bincount(source.read('test').labels)) == [1, 3, 6]
    both = source.read('train+test')
    assert sorted(both.images[:, 0, 0, 0]) == list(range(len(labels)))
    np.testing.assert_array_equal(labels[both.images[:, 0, 0, 0]], both.labels)
    assert open_npz(tmp_path / 'a.npz', **keys).identity == source.identity
    assert open_npz(tmp_path / 'a.npz', **keys | {'split_seed': 5}).identity != source.identity


@given(
    st_numpy.arrays(np.uint8, st.tuples(*[st.integers(4, 9)] * 3)),
    st.sampled_from(['float16', 'float32', '>f8', 'int64', '>u2', 'int16', 'whole', 'fortran']),
    st.sampled_from([1, 3]),
    st.booleans(),
)
def test_images_of_any_type_and_layout_are_the_same(tmp_path_factory, grey, kind, channels, first):
    grey[0, 0, 0] = 255
    expected = np.stack([np.roll(grey, k, axis=2) for k in range(channels)], axis=-1)
    if kind in ('float16', 'float32', '>f8'):
        stored = (expected / 255).astype(kind)
    else:
        stored = np.asfortranarray(expected) if kind == 'fortran' else expected
        stored = stored.astype({'whole': np.float32, 'fortran': np.uint8}.get(kind, kind))
    if first:
        stored = np.moveaxis(stored, -1, 1)
    labels = np.arange(len(grey)) % 2
    content = {'x_train': stored, 'y_train': labels, 'x_test': stored, 'y_test': labels}
    source = open_npz(tmp_path_factory.mktemp('types') / 'a.npz', content)
    np.testing.assert_array_equal(source.read('train').images, expected)
    np.testing.assert_array_equal(source.read('test').labels, labels)


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        (np.float32([0.5, 1]), 'values from 0.5 to 1; 0 is black, 1 is white'),
        (np.int64([3, 200]), 'values from 3 to 200; 0 is black, 255 is white'),
        (np.array([False, True]), 'values from 0 to 1; 0 is black, 1 is white'),
    ],
)
def test_the_rule_by_which_values_become_grey_levels_is_said(tmp_path, values, words):
    np.savez(tmp_path / 'a.npz', images=np.resize(values, (4, 3, 6, 6)), labels=[0, 0, 1, 1])
    with warns(words), warns('images is taken as (N, C, H, W)'):
        assert open_npz(tmp_path / 'a.npz').image_shape == (6, 6, 3)


@pytest.mark.parametrize(
    ('values', 'white', 'grey'),
    [
        (np.uint16([0, 1000, 4095]), 4095, {0, 62, 255}),
        (np.uint8([0, 1]), 1, {0, 255}),
        (np.uint8([0, 1]), 255, {0, 1}),
    ],
)
def test_the_value_that_is_white_can_be_named(tmp_path, values, white, grey):
    content = {'images': np.resize(values, (4, 3, 6)), 'labels': [0, 0, 1, 1]}
    most = values.max()
    with refuses(f'images: values from 0 to {most}', f'--config.dataset.white={most}'):
        open_npz(tmp_path / 'a.npz', content)
    assert {*open_npz(tmp_path / 'a.npz', content, white=white).read('train').images.flat} == grey


@pytest.mark.parametrize(
    ('labels', 'names'),
    [
        ([[3], [3], [12], [12]], ('3', '12')),
        (np.eye(2, dtype=np.float32)[[0, 0, 1, 1]], ('0', '1')),
        (['cat', 'cat', 'dog ', 'dog'], ('cat', 'dog')),
        (np.array([b'b', b'b', b'\xc3\xa4', b'\xc3\xa4']), ('b', 'ä')),
        ([False, False, True, True], ('0', '1')),
    ],
)
def test_labels_are_integers_texts_or_one_hot(tmp_path, labels, names):
    content = {'images': images(4), 'labels': labels}
    source = open_npz(tmp_path / 'a.npz', content, test_fraction=0.5)
    assert source.class_names == names
    for image, label in zip(*source.read('train+test'), strict=True):
        assert any(np.array_equal(image[..., 0], own) for own in images(4)[2 * label :][:2])


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (arrays(y_train=None), ['array x_train', 'no labels']),
        (arrays(x_test=None), ['array y_test', 'no images']),
        (arrays(x_test=None, y_test=None), ['splits are train', 'test']),
        ({'a': [1], 'b': [2]}, ['arrays are a, b', 'x_train', 'images and labels']),
        ({'images': images(4), 'labels': [0, 1], 'x': [1]}, ['images and x', 'image_key']),
        (arrays(images=images(4), labels=[0] * 4), ['splits are all, test, train']),
        (arrays(y_train=[0, 1]), ['12 images in x_train', '2 labels in y_train']),
        (arrays(x_test=images(0), y_test=[]), ['0 images in x_test']),
        (arrays(y_train=3), ['0 labels in y_train']),
        (arrays(x_train=images(12, (30,))), ['x_train', '(12, 30)', '(N, H, W)']),
        (arrays(x_train=images(12, (3, 5, 3))), ['x_train', '(12, 3, 5, 3)']),
        (arrays(x_train=images(12, (6, 5, 4))), ['x_train', '(12, 6, 5, 4)']),
        (arrays(x_train=np.full((12, 6, 5), 'a')), ['x_train', '<U1']),
        (arrays(x_test=images(6, (5, 6))), ['(6, 5, 1)', '(5, 6, 1)']),
        (arrays(x_train=images(12) - 1.0), ['values from -1 to']),
        (arrays(x_train=images(12) * 0.9), ['fractional', 'white=']),
        (arrays(x_train=images(12) * np.nan), ['values from nan']),
        (arrays(x_test=np.full((6, 6, 5), np.nan)), ['values from nan']),
        (arrays(x_train=images(12) + np.inf), ['to inf']),
        (arrays(y_train=np.linspace(0, 1, 12)), ['y_train', 'float64 (12,)', 'one-hot']),
        (arrays(y_train=np.eye(12) + 1), ['y_train', 'row 0']),
        (arrays(y_train=['cat', ''] * 6), ['y_train', 'row 1 is empty']),
        (arrays(y_test=[0, 1, 2, 7, 0, 0]), ['y_test: label 7', 'y_train']),
        (arrays(y_test=['0'] * 6), ["y_test: label '0'"]),
        ({'images': images(3), 'labels': ['a', 'a', 'b']}, ['class b: a single image']),
        ({'images': images(2000, (1, 1)), 'labels': np.arange(2000)}, ['2000 values']),
    ],
)
def test_arrays_of_another_form_are_refused_with_what_is_there(tmp_path, content, words):
    content = {key: array for key, array in content.items() if array is not None}
    with refuses(tmp_path / 'a.npz', *words):
        open_npz(tmp_path / 'a.npz', content)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ('unpickled',))


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_objects_and_what_is_no_array_are_never_loaded(tmp_path):
    path, content = tmp_path / 'a.npz', {f'{key}.npy': npy(a) for key, a in arrays().items()}
    with refuses(path, 'array y_train', 'Python objects', 'astype(str)'):
        open_npz(path, arrays(y_train=np.array([Evil(), 'cat'] * 6, object)))
    path.write_bytes(pickle.dumps(Evil()))
    with refuses(path, 'not an .npz'):
        open_npz(path)
    claims = content['x_train.npy'].replace(b'(12, 6, 5), }      ', b'(99999999, 6, 5), }', 1)
    assert b'99999999' in claims  # more than the file holds
    for change, words in (
        ({'x_train.npy': claims}, ['x_train cannot be read']),
        ({'x_val': b'text', 'y_val': b'text'}, ['x_val', 'not an array']),
    ):
        with zipfile.ZipFile(path, 'w') as archive:
            for name, encoded in {**content, **change}.items():
                archive.writestr(name, encoded)
        with refuses(path, *words):
            open_npz(path)


def test_files_that_are_no_arrays_are_refused(tmp_path):
    path = tmp_path / 'a.npz'
    np.savez(path, **arrays())
    whole = path.read_bytes()
    for size in (0, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with refuses(path, 'not an .npz file'):
            open_npz(path)
    path.write_bytes(whole)
    flip_bit(path, 8 * whole.index(arrays()['x_train'].tobytes()))
    with refuses(path, 'x_train', 'CRC'):
        open_npz(path)
    with refuses(path, f"'npz:{path}'"):  # without its kind
        open_set('', str(path))


def test_the_identity_follows_content_and_not_place(tmp_path):
    identity = open_npz(tmp_path / 'a.npz', arrays()).identity
    (tmp_path / 'elsewhere').mkdir()
    np.savez_compressed(tmp_path / 'elsewhere' / 'b.npz', **arrays())
    assert open_npz(tmp_path / 'elsewhere' / 'b.npz').identity == identity
    changed, labels = arrays()['x_train'], arrays()['y_test']
    changed[3, 2, 1] ^= 1
    for change in ({'x_train': changed}, {'y_test': labels[::-1]}):
        assert open_npz(tmp_path / 'a.npz', arrays(**change)).identity != identity


@pytest.mark.parametrize('shape', [(8, 6), (8, 6, 3)])
def test_images_are_upsampled_on_the_device_or_resized_when_read(tmp_path, shape):
    content, channels = arrays(shape=shape), (*shape, 1)[2]
    source = open_npz(tmp_path / 'a.npz', content, image_size=(16, 12))
    assert source.image_shape == (16, 12, channels) and source.stored_shape == (8, 6, channels)
    check_examples(source, 'train', content['x_train'], content['y_train'])
    small = open_npz(tmp_path / 'a.npz', image_size=4, resize='squash')
    assert small.image_shape == small.stored_shape == (4, 4, channels)
    expected = resize_image(Image.fromarray(content['x_test'][1]), (4, 4), 'squash')
    np.testing.assert_array_equal(small.read('test').images[1].squeeze(), np.asarray(expected))
    assert small.identity != source.identity
    with refuses('48 pixels', 'max_pixels'):
        open_npz(tmp_path / 'a.npz', max_pixels=47)


def test_arrays_that_unpack_to_more_than_their_file_suggests_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'SMALL_ARRAY_BYTES', 1000)
    content = arrays(train=300, **{'x_test': np.zeros((6, 6, 5), np.uint8)})
    open_npz(tmp_path / 'plain.npz', content)
    content['x_train'] = np.zeros((9000, 6, 5), np.uint8)
    np.savez_compressed(tmp_path / 'packed.npz', **content)
    with refuses(tmp_path / 'packed.npz', 'allowed are at most'):
        open_npz(tmp_path / 'packed.npz')
