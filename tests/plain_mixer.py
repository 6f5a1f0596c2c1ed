"""The Mixer in plain Flax, as the original code has it, to compare ours with."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mixer_dilated.patches.geometry import Patches


class PlainMlp(nn.Module):
    """Dense, GELU, dense over the last axis."""

    mlp_dim: int
    gelu: str

    @nn.compact
    def __call__(self, x: Float[Array, '... features']) -> Float[Array, '... features']:
        y = nn.gelu(nn.Dense(self.mlp_dim)(x), approximate=self.gelu == 'tanh')
        return nn.Dense(x.shape[-1])(y)


class PlainBlock(nn.Module):
    """Paper eq. 1 and 2 with the batch first: token mixing transposes tokens and channels."""

    tokens_mlp_dim: int
    channels_mlp_dim: int
    gelu: str

    @nn.compact
    def __call__(
        self, x: Float[Array, 'batch tokens channels']
    ) -> Float[Array, 'batch tokens channels']:
        mlp = functools.partial(PlainMlp, gelu=self.gelu)
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        y = mlp(self.tokens_mlp_dim, name='token_mixing')(y)
        x = x + jnp.swapaxes(y, 1, 2)
        return x + mlp(self.channels_mlp_dim, name='channel_mixing')(nn.LayerNorm()(x))


class PlainMixer(nn.Module):
    """A dilated convolution, blocks, LayerNorm, mean over tokens, head.

    Attributes:
      patches: the one kind of patches; the others are named as in `MlpMixer`.
    """

    patches: Patches
    num_classes: int
    num_blocks: int
    hidden_dim: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    gelu: str = 'exact'

    @nn.compact
    def __call__(
        self, images: Float[Array, 'batch height width channels_in'], *, train: bool
    ) -> Float[Array, 'batch classes']:
        pads = [(low, high, 0) for low, high in self.patches.pads(images.shape[1:3])]
        padded = jax.lax.pad(images, images.dtype.type(0), [(0, 0, 0), *pads, (0, 0, 0)])
        x = nn.Conv(
            self.hidden_dim,
            self.patches.size,
            strides=self.patches.stride,
            kernel_dilation=self.patches.dilation,
            padding='VALID',
            name='stem',
        )(padded)
        x = x.reshape(len(x), -1, self.hidden_dim)
        for i in range(self.num_blocks):
            x = PlainBlock(
                self.tokens_mlp_dim, self.channels_mlp_dim, self.gelu, name=f'MixerBlock_{i}'
            )(x)
        x = nn.LayerNorm(name='pre_head_layer_norm')(x).mean(axis=1)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name='head')(x)
