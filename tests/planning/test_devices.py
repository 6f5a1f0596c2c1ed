"""The table of devices, the words for them, and their links."""

import dataclasses
import math
from types import SimpleNamespace

import pytest

from mixer_dilated.planning.devices import HARDWARE, parse_devices
from tests.conftest import refuses


def gather_seconds(word, places, **links):
    devices = parse_devices(word)
    devices = dataclasses.replace(devices, hardware=dataclasses.replace(devices.hardware, **links))
    key = 'coords' if devices.is_tpu else 'id'
    return devices.gather_seconds(16_000, [SimpleNamespace(**{key: place}) for place in places])


@pytest.mark.parametrize(
    ('places', 'seconds'),
    [
        # A grid of 4×4: one way along each line; an axis of 16 is a ring: both ways around.
        ([(i, j) for i in range(4) for j in range(4)], 15_000 / 200),
        ([(i, 0) for i in range(16)], 15_000 / 200),
        # Every other chip of a line: two groups share its links.
        ([(0, 0), (2, 0)], 8_000 / (100 * 2 / 3)),
    ],
)
def test_links_of_a_torus_carry_what_its_shape_lets_them(places, seconds):
    links = {'link_bandwidth': 100.0, 'ring': 16}
    assert gather_seconds('v5e:16x16', places, **links) == pytest.approx(seconds)


def test_between_nodes_goes_what_is_left_of_the_sum_over_each():
    links = {'link_bandwidth': 1000.0, 'network_bandwidth': 100.0}
    expected = 7 / 8 * 16_000 / 1000 + 1 / 2 * 2_000 / 100
    assert gather_seconds('h100:16', range(16), **links) == pytest.approx(expected)


def test_the_table_has_a_source_for_every_device():
    for kind, hardware in HARDWARE.items():
        assert hardware.peak_flops.keys() == {'float32', 'bfloat16'}
        assert hardware.source.startswith('https://') and hardware.remark
        assert hardware.usable_bytes < hardware.memory_bytes and hardware.link_bandwidth
        assert parse_devices(f'{kind}:8').is_tpu == bool(hardware.flops_per_cycle)
        assert bool(hardware.flops_per_cycle) == (not hardware.chip)


@pytest.mark.parametrize(
    ('word', 'shape'),
    [('v5e:4x4', (4, 4)), ('v6e:256', (16, 16)), ('h100:8', (1, 8)), ('H200:32', (4, 8)),
     ('this', (1,)), ('v5e:1', (1, 1)), ('v5p:2x2x2', (2, 2, 2)), ('t4:1', (1, 1))],
)  # fmt: skip
def test_words_for_devices_are_read(word, shape):
    assert parse_devices(word).shape == shape
    assert parse_devices(word).count == math.prod(shape)


@pytest.mark.parametrize(
    ('word', 'allowed'),
    [('v9:3', 'v4, v5e, v5p, v6e, t4, l4, a100, h100, h200 and this'), ('cpu:8', 'and this'),
     ('v5e', 'v5e:N with N 1x1, 2x2, 2x4'), ('v5e:3x3', 'v5e:N with N 1x1'),
     ('v4:4x4', 'v4:N with N 2x2x1'), ('h100:12', 'h100:N with N up to 8, or a multiple of 8'),
     ('h100:٣', 'up to 8'), ('this:2', 'and this')],
)  # fmt: skip
def test_other_words_are_refused_with_what_is_allowed(word, allowed):
    with refuses(f'--devices={word}: ', allowed, 'for example v5e:4x4'):
        parse_devices(word)
