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


class Counted:
    """A data source that notes what it decodes."""

    image_shape, all_labels = (3, 4, 1), EXAMPLES.labels

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return 12

    def read(self, index):
        self.decoded += map(int, index)
        return Examples(*(array[np.asarray(index)] for array in EXAMPLES))

    def labels(self, index):
        return EXAMPLES.labels[np.asarray(index)]


def read(source, index):
    chex.assert_trees_all_equal(source.read(index), Counted().read(index))


@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=6), max_size=4))
def test_each_example_is_decoded_once_in_any_order_and_by_any_process(tmp_path_factory, batches):
    path, counted = tmp_path_factory.mktemp('rows') / 'file', Counted()
    source = DiskDataSource(counted, path)
    for index in batches:
        read(source, np.array(index))
    assert {*counted.decoded} == {number for index in batches for number in index}
    before = len(counted.decoded)
    for another in (source, pickle.loads(pickle.dumps(source)), DiskDataSource(counted, path)):
        for index in batches:
            read(another, index)
    assert len(counted.decoded) == before
    np.testing.assert_array_equal(source.labels([3, 1]), [3, 1])
    assert len(source) == 12 and source.all_labels is EXAMPLES.labels


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'emptied', 'removed'])
def test_a_row_that_is_damaged_is_decoded_again(damage, tmp_path):
    path, counted = tmp_path / 'file', Counted()
    read(DiskDataSource(counted, path), range(12))
    assert path.stat().st_size == 12 * ROW
    if damage == 'cut':
        os.truncate(path, 10 * ROW + 7)  # within row 10
    elif damage == 'flipped':
        for row, byte in ((10, 0), (11, ROW - 1)):  # a checksum, a pixel
            flip_bit(path, 8 * (row * ROW + byte))
    elif damage == 'emptied':
        os.truncate(path, 0)
    else:
        path.unlink()
    counted.decoded.clear()
    again = DiskDataSource(counted, path)
    read(again, range(12))
    assert counted.decoded == [10, 11] if damage in ('cut', 'flipped') else [*range(12)]
    read(again, range(12))
    assert len(counted.decoded) in (2, 12)


def test_a_full_disk_is_no_harm(tmp_path, monkeypatch):
    counted = Counted()
    source = DiskDataSource(counted, '/dev/full')
    read(source, [1, 2])
    read(source, [1, 2])
    assert counted.decoded == [1, 2, 1, 2]


def dataset(fingerprint='a', source=None):
    return types.SimpleNamespace(
        name='tfds/set', fingerprint=fingerprint, stored_shape=(3, 4, 1),
        data_source=lambda split: source or Counted(),
    )  # fmt: skip


def test_what_is_kept_is_bounded_and_what_was_used_last_stays(tmp_path):
    settings = small_config(**{'input.mode': 'disk', 'input.disk_gib': 1.5 * 4096 / 2**30}).input
    for number, fingerprint in enumerate('abac'):
        source = keep_on_disk(dataset(fingerprint), 'train', settings, str(tmp_path))
        read(source, range(12))  # a block of the disk, 4 KiB
        os.utime(source._path, (number, number))
    kept = {*(tmp_path / 'decoded').iterdir()}
    paths = [keep_on_disk(dataset(f), 'train', settings, str(tmp_path))._path for f in 'ac']
    assert kept == {*paths} and len(kept) == 2


def test_what_has_no_room_streams_or_is_refused(tmp_path):
    def keep(mode, gib, folder=tmp_path, **of):
        settings = small_config(**{'input.mode': mode, 'input.disk_gib': gib}).input
        return keep_on_disk(dataset(**of), 'train', settings, str(folder))

    assert isinstance(keep('auto', 1), DiskDataSource)
    assert isinstance(keep('stream', 1), Counted) and isinstance(keep('auto', 0), Counted)
    in_memory = InMemoryDataSource(EXAMPLES)
    assert keep('disk', 0, source=in_memory) is in_memory
    with refuses("config.input.mode = 'disk'", 'config.input.disk_gib', 'config.dataset.cache_dir'):
        keep('disk', 1e-9)
    (tmp_path / 'file').touch()
    assert isinstance(keep('auto', 1, tmp_path / 'file'), Counted)
    with refuses("config.input.mode = 'disk'", 'Not a directory'):
        keep('disk', 1, tmp_path / 'file')
