"""How devices are joined, and how long an exchange between them takes."""

import dataclasses
import math
from typing import Protocol

# (devices, bytes a second that each sends): along one dimension of the network.
Dimension = tuple[int, float]


class Links(Protocol):
    """How the devices of one kind are joined."""

    def shape(self, text: str) -> tuple[int, ...]:
        """Devices along each dimension of the network, of the word after 'v5e:'.

        Raises:
          ValueError: there is no such network; the message says what is allowed.
        """

    def dimensions(self, shape: tuple[int, ...]) -> tuple[Dimension, ...]:
        """Devices and bandwidth along each dimension, the slowest first."""

    def first(self, size: int, dimensions: list[Dimension]) -> int:
        """Which dimension an axis of a mesh takes first; of several the last, the fastest."""

    def of_part(self, devices: int, whole: Dimension) -> Dimension:
        """Neighbours in a dimension, as a dimension of their own."""

    def of_rest(self, devices: int, whole: Dimension) -> Dimension:
        """Devices of a dimension with the same place among such neighbours, likewise."""

    def seconds(self, array_bytes: float, dimensions: tuple[Dimension, ...]) -> float:
        """To gather arrays along some dimensions, the fastest first, or to scatter their sum."""


@dataclasses.dataclass(frozen=True)
class Torus:
    """Neighbours are joined by links along some axes, which close to rings when they are long.

    Attributes:
      slices: grids that can be had, each a pair of chips along either axis.
      link_bandwidth: bytes a second in one direction of one link.
      ring: devices along an axis from which on its ends are joined.
    """

    slices: tuple[tuple[int, ...], ...]
    link_bandwidth: float
    ring: int

    def shape(self, text: str) -> tuple[int, ...]:
        sizes = _sizes(text)
        for each in self.slices:
            if sizes in (each, (math.prod(each),)):
                return each
        raise ValueError(', '.join('x'.join(map(str, each)) for each in self.slices))

    def dimensions(self, shape: tuple[int, ...]) -> tuple[Dimension, ...]:
        return tuple((size, self.link_bandwidth * self._links(size)) for size in shape)

    def first(self, size: int, dimensions: list[Dimension]) -> int:
        """One of its size, as JAX lays meshes out."""
        sizes = [devices for devices, _ in dimensions]
        return max((k for k, each in enumerate(sizes) if each == size), default=-1)

    def of_part(self, devices: int, whole: Dimension) -> Dimension:
        """A line, which has no more than a whole that shares its links."""
        if devices == whole[0]:
            return whole
        return devices, min(self.link_bandwidth, whole[1])

    def of_rest(self, devices: int, whole: Dimension) -> Dimension:
        """All such groups lie along the same links, which they share."""
        return devices, whole[1] * devices / whole[0]

    def seconds(self, array_bytes: float, dimensions: tuple[Dimension, ...]) -> float:
        """Arrays are cut so that every dimension carries its part at the same time."""
        return _at_once(array_bytes, dimensions)

    def _links(self, size: int) -> int:
        """Along which a device sends at once: both ways around a ring, one way along a line."""
        return 2 if size >= self.ring else 1


@dataclasses.dataclass(frozen=True)
class Switched:
    """Nodes of devices behind a switch, and a slower network between nodes.

    Attributes:
      node: devices of a node.
      node_bandwidth: bytes a second that a device sends within its node.
      bandwidth: bytes a second that a device sends to other nodes.
    """

    node: int
    node_bandwidth: float
    bandwidth: float

    def shape(self, text: str) -> tuple[int, ...]:
        sizes = _sizes(text)
        if len(sizes) != 1 or (sizes[0] > self.node and sizes[0] % self.node):
            raise ValueError(f'a number up to {self.node}, or a multiple of {self.node}')
        nodes = max(1, sizes[0] // self.node)
        return nodes, sizes[0] // nodes

    def dimensions(self, shape: tuple[int, ...]) -> tuple[Dimension, ...]:
        nodes, within = shape
        return (nodes, self.bandwidth), (within, self.node_bandwidth)

    def first(self, size: int, dimensions: list[Dimension]) -> int:
        return -1

    def of_part(self, devices: int, whole: Dimension) -> Dimension:
        return devices, whole[1]

    of_rest = of_part

    def seconds(self, array_bytes: float, dimensions: tuple[Dimension, ...]) -> float:
        """Between nodes goes only what a device has of the sum over its node."""
        seconds = 0.0
        for devices, bandwidth in dimensions:
            seconds += (devices - 1) / devices * array_bytes / bandwidth
            array_bytes /= devices
        return seconds


@dataclasses.dataclass(frozen=True)
class SharedMemory:
    """Devices that are parts of one machine: what they exchange is copied in its memory.

    Attributes:
      bandwidth: bytes a second that all of them together copy.
    """

    bandwidth: float

    def shape(self, text: str) -> tuple[int, ...]:
        sizes = _sizes(text)
        if len(sizes) != 1 or sizes[0] > 1024:
            raise ValueError('a number up to 1024')
        return sizes

    def dimensions(self, shape: tuple[int, ...]) -> tuple[Dimension, ...]:
        return ((shape[0], self.bandwidth / shape[0]),)

    def first(self, size: int, dimensions: list[Dimension]) -> int:
        return -1

    def of_part(self, devices: int, whole: Dimension) -> Dimension:
        return devices, whole[1]

    of_rest = of_part

    def seconds(self, array_bytes: float, dimensions: tuple[Dimension, ...]) -> float:
        return _at_once(array_bytes, dimensions)


def axis_dimensions(
    links: Links, shape: tuple[int, ...], mesh_shape: dict[str, int]
) -> dict[str, tuple[Dimension, ...]]:
    """The dimensions of the network that each axis of a mesh lies along.

    The last axis of the mesh takes its dimensions first. Where an axis needs only a part of one,
    the rest is for the axis before it.

    Args:
      links: how devices are joined.
      shape: devices along each dimension of the network.
      mesh_shape: devices along each axis of the mesh; as many in all.
    """
    left, found = list(links.dimensions(shape)), {}
    for name, size in reversed(mesh_shape.items()):
        taken = []
        while size > 1 and left:
            devices, bandwidth = left.pop(links.first(size, left))
            common = math.gcd(size, devices)
            if common > 1:
                taken.append(links.of_part(common, (devices, bandwidth)))
            size //= common
            if devices > common:
                left.append(links.of_rest(devices // common, (devices, bandwidth)))
            if common == 1 and devices > 1:
                break
        found[name] = tuple(taken)
    return found


def _at_once(array_bytes: float, dimensions: tuple[Dimension, ...]) -> float:
    devices = math.prod(size for size, _ in dimensions)
    bandwidth = sum(bandwidth for _, bandwidth in dimensions)
    return (devices - 1) / devices * array_bytes / bandwidth if dimensions else 0.0


def _sizes(text: str) -> tuple[int, ...]:
    words = text.lower().split('x')
    if not all(word.isascii() and word.isdigit() and 0 < int(word) < 10**5 for word in words):
        return ()
    return tuple(map(int, words))
