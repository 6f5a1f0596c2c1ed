"""Image files and labels that a CSV lists."""

import csv
import shutil

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mixer_dilated.data import csv_dataset
from mixer_dilated.data.csv_dataset import read_listing
from tests.conftest import refuses, warns
from tests.data.image_sets import make, open_folder, put_listing

HEADER = ('file', 'label')


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


def test_a_column_says_the_split(tmp_path):
    rows = [('Image Path', 'Category', 'Split')]
    for split in ('Train', 'Train', 'valid', 'test'):
        rows += [(f'{split}{len(rows) + k}.jpg', k, split) for k in range(2)]
    make(tmp_path, *(name for name, *_ in rows[1:]))
    path = write(tmp_path / 'a.csv', rows)
    validation = {'valid5.jpg': '0', 'valid6.jpg': '1'}
    assert listed(path)['validation'] == validation
    assert open_csv(path).split_sizes == {'train': 4, 'validation': 2, 'test': 2}
    listing = read_listing(write(path, rows[:-2]))
    assert listing.notes == ('no test split: validation is the test split',)
    assert listed(path)['test'] == validation
    with refuses(path, 'splits are train'):
        open_csv(write(path, rows[:5]))


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
    rows = [HEADER, *((name, 'x') for name in spelled)]
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
    path = write(tmp_path / 'a.csv', [HEADER, *rows])
    assert read_listing(path).class_names == tuple(names)


def test_columns_are_chosen_by_preference_or_by_key(tmp_path):
    make(tmp_path, 'a.png')
    header = ('id', 'image', 'class', 'label', 'colour')
    path = write(tmp_path / 'a.csv', [header, ('b.png', 'a.png', '3', 'cat', 'red')])
    assert listed(path) == {'all': {'a.png': 'cat'}}
    assert all(key in str(read_listing(path).notes) for key in ("'image'", "'label'", 'label_key'))
    assert listed(path, 'image', 'colour') == {'all': {'a.png': 'red'}}


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
        (b'file,label\n"a.png,x\n', ['not a CSV']),
        (b'file,label\na.png,\xff\n', ['UTF-8']),
        (b'file,label\na.png,' + b'x' * 200_000, ['field']),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(tmp_path, rows, words):
    make(tmp_path, 'a.png', 'b.png', 'twice.png', 'twice.jpg', 'folder/a.png')
    path = tmp_path / 'a.csv'
    path.write_bytes(rows) if isinstance(rows, bytes) else write(path, rows)
    with refuses(path, *words):
        open_csv(path)


def test_more_lines_than_are_read_are_refused(tmp_path, monkeypatch):
    path = put_listing(tmp_path)
    lines = path.read_text().count('\n')
    monkeypatch.setattr(csv_dataset, 'MAX_ROWS', lines)
    open_csv(path)
    monkeypatch.setattr(csv_dataset, 'MAX_ROWS', lines - 1)
    with refuses(path, f'more than {lines - 1} lines'):
        open_csv(path)


def test_the_identity_follows_files_and_labels_and_not_the_place(tmp_path):
    path = put_listing(tmp_path / 'a')
    source = open_csv(path)
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    (tmp_path / 'b' / 'labels.csv').rename(tmp_path / 'b' / 'other.csv')
    assert open_csv(tmp_path / 'b' / 'other.csv').identity == source.identity
    rows = [*csv.reader(path.open())]
    rows[1][1], rows[-1][1] = rows[-1][1], rows[1][1]
    assert open_csv(write(path, rows)).identity != source.identity
    rows[1][1] = 'bird'  # a class that the run does not have
    with warns('1 image is gone that the run had'):
        again = open_csv(write(path, rows), recorded=source.split_files)
    assert again.class_names == ('cat', 'dog') and sum(again.split_sizes.values()) == 19
