"""Splits: as TFDS reads them, and what two of them share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer_dilated.data.examples import check_disjoint, count_examples, split_slices
from tests.conftest import refuses

SIZES = {'train': 1000, 'test': 200}


@pytest.mark.parametrize(
    ('split', 'slices'),
    [
        ('train', [('train', 0, 1000)]),
        ('train[:100]', [('train', 0, 100)]),
        ('train[-10:]', [('train', 990, 1000)]),
        ('train[50%:]+test[:5]', [('train', 500, 1000), ('test', 0, 5)]),
    ],
)
def test_splits_are_read_as_tfds_reads_them(split, slices):
    assert split_slices('config.x', split, SIZES) == slices
    assert count_examples('config.x', split, SIZES) == sum(b - a for _, a, b in slices)


@pytest.mark.parametrize(
    'split', ['trian', 'train[:2000]', 'train[', 'train[5:5]', 'train[9:5]+test', 'train[a:b]']
)
def test_a_wrong_split_is_refused_with_what_is_there(split):
    with refuses(f'config.x = {split!r}', 'train (1000 examples)', 'test'):
        split_slices('config.x', split, SIZES)


@given(
    st.lists(st.tuples(st.sampled_from(['train', 'test']), st.integers(0, 8), st.integers(1, 9)),
             min_size=2, max_size=4)
)  # fmt: skip
def test_splits_share_examples_exactly_if_their_sets_meet(parts):
    parts = [(name, 5 * start, min(5 * (start + size), SIZES[name])) for name, start, size in parts]
    texts = [f'{name}[{start}:{stop}]' for name, start, stop in parts]
    sets = [{(name, i) for i in range(start, stop)} for name, start, stop in parts]
    one, other = texts[0], '+'.join(texts[1:])
    shared = sum(len(sets[0] & other_set) for other_set in sets[1:])
    if not shared:
        return check_disjoint('--calibrate', one, {'--split': other}, SIZES)
    with refuses(f': {shared} ', '--split'):
        check_disjoint('--calibrate', one, {'--split': other}, SIZES)
