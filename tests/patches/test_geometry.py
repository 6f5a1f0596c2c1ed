"""The geometry of patches against what is gathered by its definition."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import Patches, num_tokens
from tests.conftest import refuses
from tests.patches.test_extraction import gather, geometries, roomy_sizes


@settings(max_examples=100)
@given(patches=geometries, size=roomy_sizes)
def test_pixel_indices_and_coverage_are_those_of_what_is_gathered(patches, size):
    try:
        indices = patches.pixel_indices(size)
    except UserError:
        assume(False)
    height, width = size
    numbered = 1 + np.arange(height * width).reshape(1, height, width, 1)
    gathered = gather(numbered, patches)[0]
    rows, columns = indices[..., 0], indices[..., 1]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    np.testing.assert_array_equal(np.where(inside, 1 + rows * width + columns, 0), gathered)
    counts = np.bincount(gathered.ravel(), minlength=height * width + 1)[1:]
    np.testing.assert_array_equal(patches.coverage(size), counts.reshape(size))
    assert patches.num_tokens(size) == len(gathered) == np.prod(patches.grid(size))


@settings(max_examples=100)
@given(patches=geometries, size=st.tuples(st.integers(1, 13), st.integers(1, 13)))
def test_geometry_is_refused_only_if_a_token_would_see_no_pixel(patches, size):
    try:
        patches.grid(size)
        refused = False
    except UserError:
        refused = True
    try:
        seen = gather(np.ones((1, *size, 1)), patches)
    except ValueError:  # not one window fits
        assert refused
        return
    assert refused == bool((seen.sum(axis=2) == 0).any())


@pytest.mark.parametrize(
    ('patches', 'window', 'grid', 'seen'),
    [
        (Patches(size=4, stride=4), (4, 4), (7, 7), 784),
        (Patches(size=4, dilation=2, stride=7), (7, 7), (4, 4), 256),
        (Patches(size=7, stride=7), (7, 7), (4, 4), 784),
        (Patches(size=8, stride=7, padding='SAME'), (8, 8), (4, 4), 784),
    ],
)
def test_geometry_of_the_papers_experiment(patches, window, grid, seen):
    assert patches.window == window
    assert patches.grid((28, 28)) == grid
    assert (patches.coverage((28, 28)) > 0).sum() == seen
    assert 'offset' not in str(patches)
    assert 'offset (0, 1)' in str(dataclasses.replace(patches, offset=(0, 1)))


@settings(max_examples=100)
@given(patches=geometries, data=st.data())
def test_phases_are_spread_evenly_over_the_dilation(patches, data):
    number = tuple(data.draw(st.integers(1, dilation)) for dilation in patches.dilation)
    phases = patches.phases(number)
    downs, rights = (
        [offset + i * dilation // n for i in range(n)]
        for offset, dilation, n in zip(patches.offset, patches.dilation, number, strict=True)
    )
    assert [phase.offset for phase in phases] == [
        (down, right) for down in downs for right in rights
    ]
    assert len({*phases}) == len(phases) and phases[0] == patches
    for phase in phases:
        assert dataclasses.replace(phase, offset=patches.offset) == patches


@pytest.mark.parametrize('dilation', [2, 3])
def test_as_many_phases_as_the_dilation_see_every_pixel_of_a_window(dilation):
    patches = Patches(size=4, dilation=dilation, stride=7)
    phases = patches.phases(dilation)
    room = dilation - 1  # the last phase reaches so far beyond the last window
    solid = Patches(size=4 * dilation, stride=7, padding=((0, room), (0, room)))
    size = (28, 28)
    assert num_tokens(phases, 'channels', size) == solid.num_tokens(size)
    assert num_tokens(phases, 'tokens', size) == dilation**2 * solid.num_tokens(size)
    pixels = np.concatenate([phase.pixel_indices(size) for phase in phases], axis=1)
    for token, solid_token in zip(pixels, solid.pixel_indices(size), strict=True):
        assert sorted(map(tuple, token)) == sorted(map(tuple, solid_token))


@pytest.mark.parametrize('number', [0, 3, (2, 3), (1, 0), 1.5, 'all', True])
def test_more_phases_than_the_dilation_are_refused(number):
    with refuses(f'phases = {number!r}', 'allowed is'):
        Patches(size=4, dilation=2).phases(number)


def test_phases_without_end_are_refused():
    with refuses('phases = 1000000', '1024'):
        Patches(size=4, dilation=10**6).phases(10**6)
    assert len(Patches(size=4, dilation=32).phases(32)) == 1024


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('size', 0),
        ('size', 2.5),
        ('size', True),
        ('dilation', 0),
        ('stride', 'x'),
        ('offset', 0.5),
        ('offset', (1, 2, 3)),
        ('offset', 2**31),
        ('padding', 'FULL'),
        ('padding', ((0, 1), (0, 0.5))),
    ],
)
def test_impossible_geometry_is_refused_by_name_and_value(key, value):
    with refuses(f'patches.{key} = {value!r}', 'allowed is'):
        Patches(**{'size': 4, key: value})


def test_what_does_not_fit_an_image_is_refused_with_both_lengths():
    with refuses('31', '28'):
        Patches(size=(1, 4), dilation=10, stride=1).grid((28, 28))
    branches = (Patches(size=4, stride=4), Patches(size=4, dilation=2, stride=7))
    assert num_tokens(branches, 'tokens', (28, 28)) == 49 + 16
    with refuses('7×7', '4×4'):
        num_tokens(branches, 'channels', (28, 28))
