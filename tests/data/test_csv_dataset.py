"""Image files and labels that a CSV lists, as a data set."""

import csv
import shutil

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from mixer_dilated.data.csv_dataset import read_listing
from tests.conftest import refuses, warns
from tests.data.image_sets import make, open_folder, put, put_listing


def write(path, rows, delimiter=',', **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='', **options) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def open_csv(path, **keys):
    return open_folder(path, **{'name': f'csv:{path}', **keys})


def listed(path, *keys):
    """{split: {path: name of the class}} of a CSV."""
    listing = read_listing(path, *keys)
    return {
        split: {file.path: listing.class_names[file.label] for file in files}
        for split, files in listing.splits.items()
    }


def test_a_csv_is_a_data_set_with_a_share_of_each_class_for_testing(tmp_path):
    source = open_csv(put_listing(tmp_path), test_fraction=0.3, image_size=(3, 5))
    assert source.class_names == ('cat', 'dog') and source.num_classes == 2
    assert source.image_shape == source.stored_shape == (3, 5, 1)
    assert source.split_sizes == {'train': 14, 'test': 6}
    both = source.read('train+test')
    levels = both.images.max((1, 2, 3))
    np.testing.assert_array_equal(levels >= 200, both.labels)
    assert sorted(levels) == [*range(10, 20), *range(200, 210)]
    streamed = source.data_source('train').read(range(14))
    np.testing.assert_array_equal(streamed.images, both.images[:14])
    keys = {'test_fraction': 0.3, 'image_size': (3, 5)}
    assert open_csv('labels.csv', data_dir=str(tmp_path), **keys).identity == source.identity


def test_a_column_says_the_split(tmp_path):
    rows = [('Image Path', 'Category', 'Split')]
    for split, count in (('Train', 3), ('valid', 2), ('test', 1)):
        for k in range(2 * count):
            put(tmp_path / f'{split}{k}.jpg', 100)
            rows.append((f'{split}{k}.jpg', k % 2, split))
    source = open_csv(write(tmp_path / 'a.csv', rows))
    assert source.split_sizes == {'train': 6, 'validation': 4, 'test': 2}
    assert listed(tmp_path / 'a.csv')['validation'] == {
        f'valid{k}.jpg': f'{k % 2}' for k in range(4)
    }
    write(tmp_path / 'a.csv', rows[:-2])
    with warns('a.csv: no test split: validation is the test split'):
        assert open_csv(tmp_path / 'a.csv').split_sizes == {'train': 6, 'test': 4}
    write(tmp_path / 'a.csv', rows[:7])
    with refuses(tmp_path / 'a.csv', 'splits are train'):
        open_csv(tmp_path / 'a.csv')


@settings(max_examples=25)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=['C', 'Z']), min_size=1, max_size=8),
        min_size=1, max_size=6,
    ),
    st.sampled_from(',;\t'),
    st.sampled_from(['utf-8', 'utf-8-sig']),
    st.sampled_from([('file', 'label'), ('File_Name', 'Class'), ('image_id', 'target')]),
)  # fmt: skip
def test_any_texts_are_the_names_of_classes(tmp_path_factory, labels, delimiter, encoding, header):
    root = tmp_path_factory.mktemp('texts')
    rows = [(f'{k}.png', label) for k, label in enumerate(labels)]
    make(root, *(name for name, _ in rows))
    path = write(root / 'a.csv', [header, *rows], delimiter, encoding=encoding)
    assert listed(path) == {'all': dict(rows)}
    shutil.rmtree(root)


def test_names_are_found_with_and_without_ending_and_in_other_spellings(tmp_path):
    names = ['a.png', 'b.JPG', 'deep/c.jpeg', 'deep/d.webp', '../beside/e.png', 'f.v2.png']
    make(tmp_path / 'set', *names, 'a.txt')
    absolute = str(tmp_path / 'set' / 'deep' / 'd.webp')
    spelled = ['./a', 'b', 'deep\\c', absolute, '../beside/e', 'f.v2']
    rows = [('file', 'label'), *((name, 'x') for name in spelled)]
    assert [*listed(write(tmp_path / 'set' / 'a.csv', rows))['all']] == names


@pytest.mark.parametrize(
    ('labels', 'names'),
    [
        (range(-1, 11), map(str, range(-1, 11))),
        (('-1', '1', '0', 'NA'), ('-1', '0', '1', 'NA')),
        (('002', '000', '010'), ('000', '002', '010')),  # texts, as they are
        (('10', '9', '1.0'), ('1.0', '10', '9')),
    ],
)
def test_classes_that_are_integers_are_in_their_order(tmp_path, labels, names):
    rows = [(f'{k}.png', label) for k, label in enumerate(labels)]
    make(tmp_path, *(name for name, _ in rows))
    path = write(tmp_path / 'a.csv', [('file', 'label'), *rows])
    assert read_listing(path).class_names == tuple(names)


def test_columns_are_chosen_by_preference_or_by_key(tmp_path):
    make(tmp_path, 'a.png')
    header = ('id', 'image', 'class', 'label', 'colour')
    path = write(tmp_path / 'a.csv', [header, ('b.png', 'a.png', '3', 'cat', 'red')])
    listing = read_listing(path)
    assert listing.class_names == ('cat',) and listing.splits['all'][0].path == 'a.png'
    assert all(key in str(listing.notes) for key in ("'image'", "'label'", 'label_key'))
    assert read_listing(path, 'image', 'colour').class_names == ('red',)


HEADER = ('file', 'label')


@pytest.mark.parametrize(
    ('rows', 'words'),
    [
        ([], ["no column 'file'"]),
        ([HEADER], ['no rows']),
        ([('picture', 'label'), ('a.png', 'x')], ["column 'file'", 'picture, label', 'filename']),
        ([('file', 'kind'), ('a.png', 'x')], ["no column 'label'", '--config.dataset.label_key']),
        ([HEADER, ('a.png', 'x'), ('b.png', '')], ['line 3', "label = ''"]),
        ([HEADER, ('', 'x')], ['line 2', "file = ''"]),
        ([(*HEADER, 'split'), ('a.png', 'x', 'fold 3')], ['line 2', "split = 'fold 3'", 'train']),
        ([HEADER, ('a.png', 'x'), ('a.png', 'y')], ['line 3', "'a.png'", 'line 2']),
        ([HEADER, ('a.png', 'x'), ('./a', 'x')], ['line 3', "'./a'", 'line 2']),
        ([HEADER, ('a.png', 'x', 'z')], ['line 2', '3 columns', '2']),
        ([HEADER, ('a.png',)], ['line 2', '1 columns']),
        ([HEADER, ('a.png', 'x'), ('c.png', 'y'), ('d.png', 'y')], ["line 3: 'c.png'", '2 of 3']),
        ([HEADER, ('no\0name', 'x')], ['line 2', 'no such file']),
        ([HEADER, ('x' * 5000, 'x')], ['line 2', 'no such file']),
        ([HEADER, ('folder', 'x')], ['line 2', 'no such file']),
        ([HEADER, ('twice', 'x')], ['line 2', "'twice'", 'twice.jpg or twice.png']),
        ([HEADER, ('a.png', 'x'), ('b.png', 'y')], ['class x: a single image']),
        ([HEADER, ('a.png', '01'), ('b.png', '1')], ["'01' and '1'", 'one number']),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_meant_are_refused_with_their_line(tmp_path, rows, words):
    make(tmp_path, 'a.png', 'b.png', 'twice.png', 'twice.jpg', 'folder/a.png')
    with refuses(write(tmp_path / 'a.csv', rows), *words):
        open_csv(tmp_path / 'a.csv')


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'file,label\n"a.png,x\n', ['not a CSV']),
        (b'file,label\na.png,\xff\n', ['UTF-8']),
        (b'file,label\na.png,' + b'x' * 200_000, ['field']),
    ],
)
def test_files_that_are_no_csv_are_refused(tmp_path, content, words):
    path = tmp_path / 'a.csv'
    path.write_bytes(content)
    with refuses(path, *words):
        open_csv(path)
    for name in (tmp_path / 'none.csv', tmp_path, ''):
        with refuses('no such file'):
            open_csv(name)
    with refuses('image_size = 0'):
        open_csv(path, image_size=0)


def test_corrupt_files_are_named_or_left_out(tmp_path):
    path = put_listing(tmp_path)
    (tmp_path / 'cat' / '3.png').write_bytes(b'no image')
    with refuses(tmp_path, '1 of 20', 'cat/3.png'):
        open_csv(path).read('train+test')
    keys = {'on_corrupt': 'skip', 'cache_dir': str(tmp_path / 'cache')}
    with warns('labels.csv: left out 1 of 20 images'):
        source = open_csv(path, **keys)
    assert sum(source.split_sizes.values()) == 19


def test_the_identity_follows_files_and_labels_and_not_the_place(tmp_path):
    path = put_listing(tmp_path / 'a')
    source = open_csv(path)
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    (tmp_path / 'b' / 'labels.csv').rename(tmp_path / 'b' / 'other.csv')
    assert open_csv(tmp_path / 'b' / 'other.csv').identity == source.identity
    rows = [*csv.reader(path.open())]
    rows[1][1], rows[-1][1] = rows[-1][1], rows[1][1]
    assert open_csv(write(path, rows)).identity != source.identity
    recorded = source.split_files
    rows[1][1] = 'bird'  # a class that the run does not have
    with warns('1 image is gone that the run had'):
        again = open_csv(write(path, rows), recorded=recorded)
    assert again.class_names == ('cat', 'dog') and sum(again.split_sizes.values()) == 19
