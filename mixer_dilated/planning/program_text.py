"""The collectives of a compiled program, read from its HLO text."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4, 'f64': 8}

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{$')
_OPERATION = re.compile(r'^\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\((.*)$')
_ARRAY = re.compile(r'\b([a-z]+[0-9]*)\[([0-9,]*)\]')
_CALLED = re.compile(r'(?:body|to_apply|calls|branch_computations)=\{?((?:%?[\w.-]+(?:, )?)+)\}?')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LISTED = re.compile(r'(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}')
_MESH = re.compile(
    r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? '
    r'\{([^}]*)\}'
)
_ALL = re.compile(r'replica_groups=\{\}')
_PARTITIONS = re.compile(r'^HloModule .*\bnum_partitions=(\d+)', re.MULTILINE)
_COUNTED = re.compile(r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A collective of a program, in one step.

    Attributes:
      kind: one of `KINDS`.
      array_bytes: of its result on one device; of a reduce-scatter, of what goes into it.
      groups: devices, by their number in the mesh, that exchange with each other.
      times: how often a step does it.
    """

    kind: str
    array_bytes: int
    groups: tuple[tuple[int, ...], ...]
    times: int


def exchanges(text: str) -> list[Exchange]:
    """All collectives of a program; loops of an unknown number of rounds count once.

    Args:
      text: of a compiled program, `jax.stages.Compiled.as_text()`.
    """
    computations, entry = _computations(text)
    partitions = _PARTITIONS.search(text)
    return list(_inside(entry, computations, 1, int(partitions[1]) if partitions else 1))


def axis_of(exchange: Exchange, mesh_shape: Mapping[str, int]) -> str:
    """Names of the mesh axes along which its devices lie, joined by '+'; '' for a single device."""
    group = min(exchange.groups, default=(0,))
    places = np.array(np.unravel_index(group, tuple(mesh_shape.values())))
    moved = (places != places[:, :1]).any(axis=1)
    return '+'.join(name for name, there in zip(mesh_shape, moved, strict=True) if there)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    found, entry, name = collections.defaultdict(list), '', ''
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            name = head[2]
            entry = name if head[1] else entry
        elif name:
            found[name].append(line)
    return found, entry


def _inside(
    name: str, computations: Mapping[str, list[str]], times: int, devices: int
) -> Iterator[Exchange]:
    for line in computations[name]:
        operation = _OPERATION.match(line)
        if not operation:
            continue
        result, kind, rest = operation.groups()
        kind = kind.removesuffix('-start')
        if kind in KINDS:
            groups = groups_of(rest, devices)
            if max(map(len, groups), default=1) > 1:
                scale = len(groups[0]) if kind == 'reduce-scatter' else 1
                yield Exchange(kind, _array_bytes(result) * scale, groups, times)
        elif called := _CALLED.search(rest):
            trips = _TRIPS.search(rest)
            rounds = int(trips[1]) if kind == 'while' and trips else 1
            for each in called[1].replace('%', '').split(', '):
                yield from _inside(each, computations, times * rounds, devices)


def _array_bytes(shape: str) -> int:
    return sum(
        _BYTES[dtype] * math.prod(int(size) for size in sizes.split(',') if size)
        for dtype, sizes in _ARRAY.findall(shape)
    )


def groups_of(attributes: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """Groups of devices that exchange, in each of the ways that XLA writes them: all, one by one,
    as a grid of numbers, or as axes of a mesh.

    Args:
      attributes: what follows a collective's operands.
      devices: of the whole program.

    Raises:
      ValueError: they are written in another way.
    """
    if named := _MESH.search(attributes):
        mesh, shape, order, along = named.groups()
        numbers = _grid(shape, order).reshape(-1) if shape else None
        groups = _along_axes(mesh, along)
        return groups if numbers is None else tuple(tuple(numbers[[*g]].tolist()) for g in groups)
    if counted := _COUNTED.search(attributes):
        shape = int(counted[1]), int(counted[2])
        return tuple(map(tuple, _grid(counted[3], counted[4]).reshape(shape).tolist()))
    if listed := _LISTED.search(attributes):
        each = re.findall(r'\{([\d,]+)\}', listed[1])
        return tuple(tuple(int(number) for number in group.split(',')) for group in each)
    if _ALL.search(attributes):
        return (tuple(range(devices)),)
    raise ValueError(f'a collective whose devices cannot be read: {attributes[:300]}')


def _grid(shape: str, order: str | None) -> np.ndarray:
    """The numbers of all devices, in an array of a shape whose axes are then put in an order."""
    sizes = [int(each) for each in shape.split(',')]
    grid = np.arange(math.prod(sizes)).reshape(sizes)
    return grid.transpose([int(each) for each in order.split(',')]) if order else grid


def _along_axes(mesh: str, along: str) -> tuple[tuple[int, ...], ...]:
    """Groups along axes of a mesh of all devices in their order.

    Args:
      mesh: its axes, "'a'=2,'b'=8".
      along: those along which devices exchange, or a part of one: "'a','b':(2)4" are 4 along b, of
        which 2 such parts lie before it and the rest behind.
    """
    asked = {
        name: (int(before or 1), int(size or 0))
        for name, before, size in re.findall(r"('[^']+')(?::\((\d+)\)(\d+))?", along)
    }
    sizes, exchanging = [], []
    for name, size in re.findall(r"('[^']+')=(\d+)", mesh):
        before, part = asked.get(name, (1, 1))
        part = part or int(size)
        exchanging.append(len(sizes) + 1)
        sizes += [before, part, int(size) // (before * part)]
    grid = np.arange(math.prod(sizes)).reshape(sizes)
    joined = np.moveaxis(grid, exchanging, range(-len(exchanging), 0))
    together = math.prod(sizes[axis] for axis in exchanging)
    return tuple(map(tuple, joined.reshape(-1, together).tolist()))
