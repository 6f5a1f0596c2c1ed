"""How devices are joined, and how long a collective between them takes, at full bandwidth."""

import dataclasses
import math

Place = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Torus:
    """TPU chips: links to the neighbours along each axis of a grid, whose long axes are rings.

    Attributes:
      link_bandwidth: bytes a second in one direction of one link.
      ring: devices along an axis from which on its ends are joined.
    """

    link_bandwidth: float
    ring: int

    def gather_seconds(self, array_bytes: float, places: list[Place]) -> float:
        """To gather arrays over devices, or scatter their sum; all axes carry a part at once."""
        ways = 0.0
        for line in map(set, zip(*places, strict=True)):
            if len(line) > 1:  # devices that lie apart share the links between them
                both = 2 if len(line) >= self.ring else 1
                ways += both * len(line) / (max(line) - min(line) + 1)
        return (len(places) - 1) / len(places) * array_bytes / (ways * self.link_bandwidth)


@dataclasses.dataclass(frozen=True)
class Switched:
    """GPUs: nodes with a switch, and a slower network between nodes; places are (node, GPU).

    Attributes:
      node_bandwidth, bandwidth: bytes a second that a GPU sends in its node, and to others.
    """

    node_bandwidth: float
    bandwidth: float

    def gather_seconds(self, array_bytes: float, places: list[Place]) -> float:
        """Likewise; between nodes goes only what a GPU has of the sum over its node."""
        nodes = len({node for node, _ in places})
        within = math.ceil(len(places) / nodes)
        inside = (within - 1) / within * array_bytes / self.node_bandwidth
        return inside + (nodes - 1) / nodes * array_bytes / within / self.bandwidth
