"""What devices exchange in a step, by axis of the mesh and kind of collective."""

import dataclasses

from mixer_dilated.parallel.partition import Partition, named_leaves
from mixer_dilated.planning.links import Dimension, Links
from mixer_dilated.planning.memory import FLOAT32, leaf_bytes
from mixer_dilated.planning.shapes import Shapes
from mixer_dilated.planning.share import Share


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind along one axis of the mesh, all of a step together.

    Attributes:
      axis: 'data' or 'model'.
      kind: 'all-reduce', 'all-gather' or 'reduce-scatter'.
      what: is exchanged.
      array_bytes: of the arrays, on one device, when they are whole.
      devices: n, along the axis.
    """

    axis: str
    kind: str
    what: str
    array_bytes: int
    devices: int

    @property
    def sent_bytes(self) -> int:
        """Bytes that each device sends: (n-1)/n of the arrays, of an all-reduce twice that."""
        rounds = 2 if self.kind == 'all-reduce' else 1
        return rounds * (self.devices - 1) * self.array_bytes // self.devices

    def seconds(self, links: Links, dimensions: tuple[Dimension, ...]) -> float:
        """At the bandwidth of the links, without latency.

        Args:
          links: how devices are joined.
          dimensions: of the network, that the axis lies along, the fastest first.
        """
        rounds = 2 if self.kind == 'all-reduce' else 1
        return rounds * links.seconds(self.array_bytes, dimensions)


def collectives_of(shapes: Shapes, share: Share, *, on_cpu: bool) -> list[Collective]:
    """All collectives of a step that are of the size of parameters or activations.

    Args:
      shapes: of the network and its state.
      share: what a device does of it.
      on_cpu: whether XLA compiles for CPUs, where it gathers parameters once a step instead of
        twice for each part of a batch, and adds gradients up whole and in float32 instead of
        scattering their sums.
    """
    found = _of_parameters(shapes, share, on_cpu) + _of_activations(share)
    return [each for each in found if each.array_bytes and each.devices > 1]


def _of_parameters(shapes: Shapes, share: Share, on_cpu: bool) -> list[Collective]:
    partition = Partition(share.mesh_shape, share.fsdp)
    split = scattered = added = 0
    for name, leaf in named_leaves(shapes.state.params):
        used = partition.gathered_spec(name, leaf.shape)
        size = leaf_bytes(leaf, used, partition)
        gradient = size if on_cpu else size * _gradient_bytes(name, share) // FLOAT32
        if partition.spec(name, leaf.shape) == used:
            added += gradient
        else:
            split += size
            scattered += gradient
    rounds, devices = share.parts * share.seeds, share.mesh_shape['data']
    gathers = share.seeds if on_cpu else 2 * rounds
    scatter = 'all-reduce' if on_cpu else 'reduce-scatter'
    return [
        Collective('data', 'all-gather', 'parameters', gathers * split, devices),
        Collective('data', scatter, 'gradients', rounds * scattered, devices),
        Collective('data', 'all-reduce', 'gradients', rounds * added, devices),
    ]


def _gradient_bytes(name: str, share: Share) -> int:
    """Of a number of a gradient, while devices add it up: those of matrix products in blocks and
    stem come in the computation's dtype."""
    in_products = name.startswith(('stem', 'MixerBlock')) and 'LayerNorm' not in name
    return share.dtype_bytes if in_products else FLOAT32


def _of_activations(share: Share) -> list[Collective]:
    """Either MLP of a block adds up its output forward and its input's gradient backward; for a
    rematerialised gradient the output of token mixing is added up again."""
    times = share.num_blocks * (5 if share.remat else 4) * share.parts * share.seeds
    size = times * share.stream * share.dtype_bytes
    return [Collective('model', 'all-reduce', 'activations', size, share.mesh_shape['model'])]
