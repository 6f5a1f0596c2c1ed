"""MLP-Mixer with dilated patches: modules as long as their equations.

Module and parameter names are those of the original Mixer code, so that its checkpoints fit:
`stem`, `MixerBlock_i/{LayerNorm_0, token_mixing, LayerNorm_1, channel_mixing}`,
`pre_head_layer_norm`, `head`.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from mixer_dilated.config import patch_branches
from mixer_dilated.models.cpu import GELU, LayerNorm, call_rematerialised
from mixer_dilated.parallel.partition import batch_is_split, split_hidden_layer
from mixer_dilated.patches.extraction import antialias, extract_patches
from mixer_dilated.patches.geometry import Patches


class Stem(nn.Module):
    """Per-patch linear embedding: one token from the pixels of one patch of every branch.

    Kernels are stored in convolution layout (P_h, P_w, C_in, hidden): `kernel` for a single
    branch, `kernel_0`, `kernel_1`, … for several. With one branch the result equals
    `nn.Conv(hidden_dim, size, strides=stride, kernel_dilation=dilation)` with the same kernel.

    Attributes:
      branches: patch geometries that share one grid.
      hidden_dim: channels C of a token.
      blur: whether each branch samples images that a low-pass of its dilation has smoothed.
      dtype: of the product and of the tokens; parameters are float32.
    """

    branches: tuple[Patches, ...]
    hidden_dim: int
    blur: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, 'batch height width channels_in']
    ) -> Float[Array, 'tokens batch channels']:
        # The branches add up: each has its share of the variance of one kernel over all pixels.
        init = nn.initializers.variance_scaling(
            1 / len(self.branches), 'fan_in', 'truncated_normal'
        )
        tokens = self.param('bias', nn.initializers.zeros, (self.hidden_dim,)).astype(self.dtype)
        for i, patches in enumerate(self.branches):
            name = 'kernel' if len(self.branches) == 1 else f'kernel_{i}'
            shape = (*patches.size, images.shape[-1], self.hidden_dim)
            kernel = self.param(name, init, shape)
            # Extracted features are channel-major: (C_in, P_h, P_w).
            matrix = kernel.transpose(2, 0, 1, 3).reshape(-1, self.hidden_dim)
            sampled = antialias(images, patches.dilation) if self.blur else images
            features = jnp.swapaxes(extract_patches(sampled.astype(self.dtype), patches), 0, 1)
            tokens = tokens + features @ matrix.astype(self.dtype)
        return tokens


class TransposedDense(nn.Module):
    """`nn.Dense`, with its parameters, over the first axis of a matrix: Wᵀ · X + b.

    Attributes:
      features: rows of the result.
      dtype: of the product; parameters are float32.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'features_in columns']) -> Float[Array, 'features columns']:
        shape = (x.shape[0], self.features)
        kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        return kernel.astype(self.dtype).T @ x + bias.astype(self.dtype)[:, None]


class MlpBlock(nn.Module):
    """Two linear maps with a GELU between, over one axis: W2 · gelu(W1 · x).

    Attributes:
      mlp_dim: width of the hidden layer.
      dropout_rate: share of the hidden layer and of the output that training drops.
      gelu: 'exact' (erf, paper eq. 3) or 'tanh' (approximation of the original's weights).
      axis: that is mapped: -1, or 0 of a matrix (features, columns).
      dtype: of the computation; parameters are float32.
    """

    mlp_dim: int
    dropout_rate: float = 0.0
    gelu: str = 'exact'
    axis: int = -1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, '...'], *, train: bool) -> Float[Array, '...']:
        dense = functools.partial(TransposedDense if self.axis == 0 else nn.Dense, dtype=self.dtype)
        y = split_hidden_layer(dense(self.mlp_dim, name='Dense_0')(x), self.axis)
        y = GELU[self.gelu](y)
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        y = dense(x.shape[self.axis], name='Dense_1')(y)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(y)


class MixerBlock(nn.Module):
    """One Mixer layer: token mixing (paper eq. 1), then channel mixing (eq. 2).

        U[:, i] = X[:, i] + W2 · gelu(W1 · LayerNorm(X)[:, i])    i = 1..C
        Y[j, :] = U[j, :] + W4 · gelu(W3 · LayerNorm(U)[j, :])    j = 1..S

    Tokens are the first axis: either mixing of a whole batch is then one product of two matrices,
    with nothing to transpose, within a block or between blocks.

    Attributes:
      tokens_mlp_dim: hidden width of the token mixing MLP.
      channels_mlp_dim: hidden width of the channel mixing MLP.
      dropout_rate, gelu: as in `MlpBlock`.
      drop_path_rate: share of the examples for which training leaves out an MLP, each MLP on
        its own; the rest are scaled by 1 / (1 - drop_path_rate) (arXiv:1603.09382).
      dtype: of the computation, but for LayerNorm's statistics; parameters are float32.
    """

    tokens_mlp_dim: int
    channels_mlp_dim: int
    dropout_rate: float = 0.0
    gelu: str = 'exact'
    drop_path_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'tokens batch channels'], train: bool
    ) -> Float[Array, 'tokens batch channels']:
        mlp = functools.partial(
            MlpBlock, dropout_rate=self.dropout_rate, gelu=self.gelu, dtype=self.dtype
        )
        skip = functools.partial(
            nn.Dropout, self.drop_path_rate, broadcast_dims=(0, 2), deterministic=not train
        )
        y = LayerNorm(name='LayerNorm_0')(x)
        # A column for each channel of each example; XLA is slow at products with a single row.
        axis, shape = (0, (len(x), -1)) if len(x) > 1 else (-1, (-1, 1))
        y = mlp(self.tokens_mlp_dim, axis=axis, name='token_mixing')(y.reshape(shape), train=train)
        x = x + skip()(y.reshape(x.shape))
        y = LayerNorm(name='LayerNorm_1')(x)
        if not batch_is_split():
            # A row for each token: XLA computes a weight gradient of two batch axes slowly.
            y = y.reshape(-1, x.shape[-1])
        y = mlp(self.channels_mlp_dim, name='channel_mixing')(y, train=train)
        return x + skip()(y.reshape(x.shape))


class MlpMixer(nn.Module):
    """The whole network: stem, Mixer blocks, layer norm, mean over tokens, linear head.

    Attributes:
      branches: one patch geometry, or several.
      num_classes: outputs of the head.
      num_blocks: Mixer layers.
      hidden_dim: channels C of a token.
      tokens_mlp_dim, channels_mlp_dim, dropout_rate, gelu: as in `MixerBlock`.
      join: how several branches meet: 'channels' (the patches at one grid position are embedded
        into one token; module `stem`) or 'tokens' (each branch has its tokens and its own
        embedding; modules `stem_0`, `stem_1`, …).
      blur: as in `Stem`.
      stoch_depth: `drop_path_rate` of the last of several blocks; it grows evenly from 0 at the
        first.
      remat: whether the gradient computes each block anew instead of keeping what is inside it.
      dtype: of stem and blocks (see `MixerBlock`); the mean over tokens and the head are float32.
    """

    branches: tuple[Patches, ...]
    num_classes: int
    num_blocks: int
    hidden_dim: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    dropout_rate: float = 0.0
    gelu: str = 'exact'
    join: str = 'channels'
    blur: bool = False
    stoch_depth: float = 0.0
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, 'batch height width channels_in'],
        *,
        train: bool,
        return_intermediates: bool = False,
    ) -> Float[Array, 'batch classes'] | tuple[Float[Array, 'batch classes'], dict]:
        """Logits of images; on request also what the network computes on the way to them.

        Args:
          images: floats (B, H, W, C_in), -1 … 1.
          train: whether dropout and stochastic depth drop anything.
          return_intermediates: whether to return the pair of the logits and a dict of 'stem',
            'block_0', 'block_1', … (B, S, C), each as it leaves its module and in its dtype, and
            'pre_logits' float32 (B, C), the mean over tokens that the head maps.

        Returns:
          Logits, float32 (B, classes), or that pair.
        """
        found = {}
        stem = functools.partial(Stem, hidden_dim=self.hidden_dim, blur=self.blur, dtype=self.dtype)
        if self.join == 'tokens' and len(self.branches) > 1:
            stems = [
                stem((patches,), name=f'stem_{i}')(images)
                for i, patches in enumerate(self.branches)
            ]
            x = jnp.concatenate(stems, axis=0)
        else:
            x = stem(self.branches, name='stem')(images)
        found['stem'] = x
        for i in range(self.num_blocks):
            block = MixerBlock(
                self.tokens_mlp_dim,
                self.channels_mlp_dim,
                self.dropout_rate,
                self.gelu,
                drop_path_rate=self.stoch_depth * i / max(self.num_blocks - 1, 1),
                dtype=self.dtype,
            )
            anew = self.remat and not self.is_initializing()
            x = call_rematerialised(block, x, train) if anew else block(x, train)
            found[f'block_{i}'] = x
        x = LayerNorm(name='pre_head_layer_norm')(x)
        x = jnp.mean(x.astype(jnp.float32), axis=0)
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name='head')(x)
        if not return_intermediates:
            return logits
        batch_first = {name: jnp.swapaxes(tokens, 0, 1) for name, tokens in found.items()}
        return logits, {**batch_first, 'pre_logits': x}


def mixer_from_config(
    model: ml_collections.ConfigDict, num_classes: int, dtype: str = 'float32'
) -> MlpMixer:
    """The network that `config.model` describes (see `mixer_dilated.config` for its keys).

    Args:
      model: `config.model`.
      num_classes: outputs of the head.
      dtype: `config.dtype`.
    """
    return MlpMixer(
        branches=patch_branches(model),
        num_classes=num_classes,
        num_blocks=model.num_blocks,
        hidden_dim=model.hidden_dim,
        tokens_mlp_dim=model.tokens_mlp_dim,
        channels_mlp_dim=model.channels_mlp_dim,
        dropout_rate=model.dropout_rate,
        gelu=model.gelu,
        join=model.join,
        blur=model.blur,
        stoch_depth=model.stoch_depth,
        remat=model.remat,
        dtype=jnp.dtype(dtype),
    )
