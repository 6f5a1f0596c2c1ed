"""What one device does of a training step: `Share`."""

import dataclasses
import math

from jax.sharding import AbstractMesh

from mixer_dilated.models.costs import Layer
from mixer_dilated.parallel.mesh import AXES, check_batch, mesh_sizes
from mixer_dilated.planning.shapes import Shapes
from mixer_dilated.training.setup import Setup


@dataclasses.dataclass(frozen=True)
class Share:
    """The sizes of one device's part of a step.

    Attributes:
      mesh_shape: devices along 'seeds', 'data' and 'model'.
      fsdp: whether 'data' splits parameters and optimizer state.
      seeds: whose networks it computes.
      parts: of a batch, that are computed one after the other.
      images: of one part and one seed, on this device.
      tokens, channels: S and C.
      tokens_mlp_dim, channels_mlp_dim: the device's part of the hidden widths.
      num_blocks: Mixer layers.
      features: numbers that the patches of one image hold.
      pixels: numbers of one image, H·W·C_in.
      dtype_bytes: of a number of the computation.
      remat, dropout: whether blocks are computed anew for their gradient, and drop anything.
      layers: of the network, split over 'model', for one image.
    """

    mesh_shape: dict[str, int]
    fsdp: bool
    seeds: int
    parts: int
    images: int
    tokens: int
    channels: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    num_blocks: int
    features: int
    pixels: int
    dtype_bytes: int
    remat: bool
    dropout: bool
    layers: tuple[Layer, ...]

    @property
    def stream(self) -> int:
        """Numbers of the tokens of one part and one seed, S·C each image."""
        return self.images * self.tokens * self.channels

    @property
    def hidden(self) -> tuple[int, int]:
        """Numbers of the hidden layers of token mixing and of channel mixing, likewise."""
        return (
            self.images * self.tokens_mlp_dim * self.channels,
            self.images * self.tokens * self.channels_mlp_dim,
        )


def share_of(setup: Setup, shapes: Shapes, devices: int) -> Share:
    """The share of each of `devices` devices, which all have the same.

    Args:
      setup: what is trained.
      shapes: of its network.
      devices: of the mesh.

    Raises:
      UserError: the mesh or the batch does not fit them.
    """
    config = setup.config
    sizes = mesh_sizes(config, devices)
    mesh_shape = dict(zip(AXES, sizes, strict=True))
    model, network = mesh_shape['model'], config.model
    check_batch(config.batch, AbstractMesh(sizes, AXES), config.accum_steps)
    stem = [layer for layer in shapes.layers if layer.path[0].startswith('stem')]
    return Share(
        mesh_shape=mesh_shape,
        fsdp=config.mesh.fsdp,
        seeds=config.num_seeds // mesh_shape['seeds'],
        parts=config.accum_steps,
        images=config.batch // (mesh_shape['data'] * config.accum_steps),
        tokens=setup.num_tokens,
        channels=network.hidden_dim,
        tokens_mlp_dim=network.tokens_mlp_dim // model,
        channels_mlp_dim=network.channels_mlp_dim // model,
        num_blocks=network.num_blocks,
        features=sum(layer.flops for layer in stem) // (2 * network.hidden_dim),
        pixels=math.prod(setup.dataset.image_shape),
        dtype_bytes={'float32': 4, 'bfloat16': 2}[config.dtype],
        remat=network.remat,
        dropout=network.dropout_rate > 0,
        layers=tuple(_split_over_model(layer, model) for layer in shapes.layers),
    )


def _split_over_model(layer: Layer, devices: int) -> Layer:
    """A layer as one of the devices along 'model' computes it; its parameters are left whole."""
    *_, name = layer.path
    if devices == 1 or not {'token_mixing', 'channel_mixing'} & set(layer.path):
        return layer
    shape = list(layer.output_shape)
    if name == 'Dense_0':
        shape[-1] //= devices
    return dataclasses.replace(layer, output_shape=tuple(shape), flops=layer.flops // devices)
