"""Decoded examples on disk: the pixels of decoding, whatever befalls the file."""

import os
import pickle
import types

import chex
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mixer_dilated.data.disk_source import DiskDataSource, keep_on_disk
from mixer_dilated.data.examples import Examples, InMemoryDataSource
from tests.conftest import flip_bit, random_bytes, refuses, small_config

EXAMPLES = Examples(random_bytes((12, 3, 4, 1)), np.arange(12, dtype=np.int32))
ROW = 4 + 4 + 12  # checksum, label and pixels


class Counting:
    """A data source that notes what it decodes."""

    image_shape, all_labels = (3, 4, 1), EXAMPLES.labels

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return 12

    def read(self, index):
        self.decoded += map(int, index)
        return InMemoryDataSource(EXAMPLES).read(index)

    def labels(self, index):
        return EXAMPLES.labels[np.asarray(index)]


def read(source, index):
    chex.assert_trees_all_equal(source.read(index), InMemoryDataSource(EXAMPLES).read(index))


@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=6), max_size=4))
def test_each_example_is_decoded_once_in_any_order_and_by_any_process(tmp_path_factory, batches):
    path, counting = tmp_path_factory.mktemp('rows') / 'file', Counting()
    source = DiskDataSource(counting, path)
    for index in batches:
        read(source, np.array(index))
    assert {*counting.decoded} == {number for index in batches for number in index}
    before = len(counting.decoded)
    for another in (source, pickle.loads(pickle.dumps(source)), DiskDataSource(counting, path)):
        for index in batches:
            read(another, index)
    assert len(counting.decoded) == before
    np.testing.assert_array_equal(source.labels([3, 1]), [3, 1])
    assert len(source) == 12 and source.all_labels is EXAMPLES.labels


DAMAGES = {
    'cut': (lambda path: os.truncate(path, 10 * ROW + 7), [10, 11]),  # within row 10
    'flipped': (lambda path: [flip_bit(path, 80 * ROW), flip_bit(path, -1)], [10, 11]),
    'emptied': (lambda path: os.truncate(path, 0), [*range(12)]),
    'removed': (lambda path: path.unlink(), [*range(12)]),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_row_that_is_damaged_is_decoded_again(damage, tmp_path):
    path, counting = tmp_path / 'file', Counting()
    read(DiskDataSource(counting, path), range(12))
    assert path.stat().st_size == 12 * ROW
    change, rows = DAMAGES[damage]
    change(path)
    counting.decoded.clear()
    again = DiskDataSource(counting, path)
    for _ in range(2):
        read(again, range(12))
        assert counting.decoded == rows


def test_a_full_disk_is_no_harm():
    counting = Counting()
    source = DiskDataSource(counting, '/dev/full')
    for _ in range(2):
        read(source, [1, 2])
    assert counting.decoded == [1, 2, 1, 2]


def keep(folder, mode, gib, fingerprint='a', source=None):
    dataset = types.SimpleNamespace(
        name='tfds/set', fingerprint=fingerprint, stored_shape=(3, 4, 1),
        data_source=lambda split: source or Counting(),
    )  # fmt: skip
    settings = small_config(**{'input.mode': mode, 'input.disk_gib': gib}).input
    return keep_on_disk(dataset, 'train', settings, str(folder))


def test_what_is_kept_is_bounded_and_what_was_used_last_stays(tmp_path):
    room = 1.5 * 4096 / 2**30
    for number, fingerprint in enumerate('abac'):
        source = keep(tmp_path, 'disk', room, fingerprint)
        read(source, range(12))  # a block of the disk, 4 KiB
        os.utime(source._path, (number, number))
    kept = {*(tmp_path / 'decoded').iterdir()}
    assert kept == {keep(tmp_path, 'disk', room, name)._path for name in 'ac'} and len(kept) == 2


@pytest.mark.parametrize('put', [os.symlink, lambda _, path: os.mkfifo(path)])
def test_nothing_is_written_through_what_stands_in_the_way(put, tmp_path):
    precious = tmp_path / 'precious'
    precious.write_bytes(bytes(1000))
    path = keep(tmp_path, 'disk', 1)._path
    path.unlink()
    put(precious, path)
    read(keep(tmp_path, 'disk', 1), range(12))
    assert precious.read_bytes() == bytes(1000) and path.stat().st_size == 12 * ROW


def test_what_has_no_room_streams_or_is_refused(tmp_path):
    assert isinstance(keep(tmp_path, 'auto', 1), DiskDataSource)
    assert isinstance(keep(tmp_path, 'stream', 1), Counting)
    assert isinstance(keep(tmp_path, 'auto', 0), Counting)
    in_memory = InMemoryDataSource(EXAMPLES)
    assert keep(tmp_path, 'disk', 0, source=in_memory) is in_memory
    with refuses("config.input.mode = 'disk'", 'config.input.disk_gib', 'config.dataset.cache_dir'):
        keep(tmp_path, 'disk', 1e-9)
    (tmp_path / 'file').touch()
    assert isinstance(keep(tmp_path / 'file', 'auto', 1), Counting)
    with refuses("config.input.mode = 'disk'", 'Not a directory'):
        keep(tmp_path / 'file', 'disk', 1)
