"""MLP-Mixer (arXiv:2105.01601) with dilated patches, after the original's `models_mixer.py`.

The original is vit_jax of google-research/vision_transformer, here and in all of the package.
Modules and parameters have its names, so that its checkpoints load: `stem`,
`MixerBlock_i/{LayerNorm_0, token_mixing, LayerNorm_1, channel_mixing}`, `pre_head_layer_norm`,
`head`. TPUs and GPUs run these modules; `models.cpu` has the forms that a CPU computes faster.
"""

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mixer_dilated.allowed_values import RATE, Allowed, integer, one_of
from mixer_dilated.config_keys import KEYS
from mixer_dilated.errors import UserError
from mixer_dilated.parallel.partition import split_hidden_layer
from mixer_dilated.patches.extraction import antialias, extract_patches
from mixer_dilated.patches.geometry import Patches, num_tokens

BRANCHES = 'a tuple of Patches, like (Patches(size=4, dilation=2, stride=7),)'
CLASSES = 'an integer, or 0 or None for no head'
# Of fields that are no key of `config.model`, or allow less.
ALLOWED = {
    'branches': Allowed(
        BRANCHES, lambda v: type(v) is tuple and v and all(isinstance(p, Patches) for p in v)
    ),
    'num_classes': Allowed(CLASSES, lambda v: v is None or integer(0).test(v)),
    'mlp_dim': integer(1),
    'gelu': one_of('exact', 'tanh'),
    'drop_path_rate': RATE,
}


class CheckedModule(nn.Module):
    """A module that raises UserError for fields which a config would refuse."""

    def __post_init__(self):
        super().__post_init__()
        for name in (field.name for field in dataclasses.fields(self)):
            key = KEYS.get(f'model.{name}')
            allowed = ALLOWED.get(name) or (key and key.allowed)
            value = getattr(self, name)
            plain = value.item() if isinstance(value, np.generic) else value
            if allowed and not allowed.test(plain):
                field = f'{type(self).__name__}: {name}'
                raise UserError(f'{field} = {value!r}: allowed is {allowed.text}')


class Stem(CheckedModule):
    """Per-patch linear embedding: one token from the pixels of one patch of every branch.

    Kernels are stored in convolution layout (P_h, P_w, C_in, hidden): `kernel` for a single
    branch, `kernel_0`, `kernel_1`, … for several. Dilation and stride do not change their shapes.
    With one branch the result equals
    `nn.Conv(hidden_dim, size, strides=stride, kernel_dilation=dilation)` with the same kernel.

    Attributes:
      branches: patch geometries that share one grid.
      hidden_dim: channels C of a token.
      blur: whether each branch samples images smoothed by a low-pass filter of its dilation.
      dtype: of the product and of the tokens; parameters are float32.
    """

    branches: tuple[Patches, ...]
    hidden_dim: int
    blur: bool = False
    dtype: jnp.dtype = jnp.float32

    # Not fields: what other forms of the stem override, as they do `embed`.
    antialias, extract_patches = staticmethod(antialias), staticmethod(extract_patches)

    @nn.compact
    def __call__(
        self, images: Float[Array, 'batch height width channels_in']
    ) -> Float[Array, 'batch tokens channels']:
        # The branches are summed: each has its share of the variance of one kernel over all pixels.
        share = 1 / len(self.branches)
        init = nn.initializers.variance_scaling(share, 'fan_in', 'truncated_normal')
        x = self.param('bias', nn.initializers.zeros, (self.hidden_dim,)).astype(self.dtype)
        for i, patches in enumerate(self.branches):
            name = 'kernel' if len(self.branches) == 1 else f'kernel_{i}'
            kernel = self.param(name, init, (*patches.size, images.shape[-1], self.hidden_dim))
            sampled = self.antialias(images, patches.dilation) if self.blur else images
            x = x + self.embed(sampled.astype(self.dtype), kernel, patches)
        return x

    @classmethod
    def embed(
        cls,
        images: Float[Array, 'batch height width channels_in'],
        kernel: Float[Array, 'patch_height patch_width channels_in channels'],
        patches: Patches,
    ) -> Float[Array, 'batch tokens channels']:
        """The tokens of one branch, without the bias."""
        features = cls.extract_patches(images, patches)  # channel-major: (C_in, P_h, P_w)
        kernel = kernel.transpose(2, 0, 1, 3).reshape(-1, kernel.shape[-1])
        return features @ kernel.astype(images.dtype)


class MlpBlock(CheckedModule):
    """Two linear maps over the last axis with a GELU between: W2 · gelu(W1 · x).

    Attributes:
      mlp_dim: width of the hidden layer.
      dropout_rate: share of the hidden layer and of the output that training drops.
      gelu: 'exact' (erf, paper eq. 3) or 'tanh' (the approximation that the original's weights were
        trained with).
      dtype: of the computation; parameters are float32.
    """

    mlp_dim: int
    dropout_rate: float = 0.0
    gelu: str = 'exact'
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, '... features'], *, train: bool
    ) -> Float[Array, '... features']:
        y = nn.Dense(self.mlp_dim, dtype=self.dtype)(x)
        y = split_hidden_layer(y, axis=-1)
        y = nn.gelu(y, approximate=self.gelu == 'tanh')
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        y = nn.Dense(x.shape[-1], dtype=self.dtype)(y)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(y)


class MixerBlock(CheckedModule):
    """One Mixer layer: token mixing (paper eq. 1), then channel mixing (eq. 2).

        U[:, i] = X[:, i] + W2 · gelu(W1 · LayerNorm(X)[:, i])    i = 1..C
        Y[j, :] = U[j, :] + W4 · gelu(W3 · LayerNorm(U)[j, :])    j = 1..S

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
        self, x: Float[Array, 'batch tokens channels'], *, train: bool
    ) -> Float[Array, 'batch tokens channels']:
        mlp = functools.partial(
            MlpBlock, dropout_rate=self.dropout_rate, gelu=self.gelu, dtype=self.dtype
        )
        drop_path = functools.partial(
            nn.Dropout, self.drop_path_rate, broadcast_dims=(1, 2), deterministic=not train
        )
        y = nn.LayerNorm(dtype=self.dtype)(x)
        y = jnp.swapaxes(y, 1, 2)
        y = mlp(self.tokens_mlp_dim, name='token_mixing')(y, train=train)
        y = jnp.swapaxes(y, 1, 2)
        x = x + drop_path()(y)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        y = mlp(self.channels_mlp_dim, name='channel_mixing')(y, train=train)
        return x + drop_path()(y)


class MlpMixer(CheckedModule):
    """The whole network: stem, Mixer blocks, layer norm, mean over tokens, linear head.

    Attributes:
      branches: one patch geometry, or several.
      num_classes: outputs of the head; with 0 or None there is no head, and the result is its
        input.
      num_blocks: Mixer layers.
      hidden_dim: channels C of a token.
      tokens_mlp_dim, channels_mlp_dim, dropout_rate, gelu: as in `MixerBlock`.
      branch_merge: how several branches meet: 'channels' (the patches at one grid position are
        embedded into one token; module `stem`) or 'tokens' (each branch has its tokens and its own
        embedding; modules `stem_0`, `stem_1`, …).
      blur: as in `Stem`.
      stoch_depth: `drop_path_rate` of the last of several blocks; it grows evenly from 0 at the
        first.
      head_bias_init: of the head's bias; its kernel starts at zero.
      remat: whether the gradient recomputes each block instead of keeping its activations.
      dtype: of stem and blocks (see `MixerBlock`); the mean over tokens and the head are float32.
    """

    branches: tuple[Patches, ...]
    num_classes: int | None
    num_blocks: int
    hidden_dim: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    dropout_rate: float = 0.0
    gelu: str = 'exact'
    branch_merge: str = 'channels'
    blur: bool = False
    stoch_depth: float = 0.0
    head_bias_init: float = 0.0
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    # Not fields: class attributes that `models.cpu.CpuMlpMixer` overrides.
    stem_class, block_class, norm_class = Stem, MixerBlock, nn.LayerNorm
    remat_block = staticmethod(nn.remat)
    tokens_axis = 1

    @nn.compact
    def __call__(
        self,
        images: Float[Array, 'batch height width channels_in'],
        *,
        train: bool,
        return_intermediates: bool = False,
    ) -> Float[Array, 'batch classes'] | tuple[Float[Array, 'batch classes'], dict]:
        """Logits of images; on request also the activations on the way to them.

        Args:
          images: floats (B, H, W, C_in), -1 … 1.
          train: whether dropout and stochastic depth drop anything.
          return_intermediates: whether to return the pair of the logits and a dict of 'stem',
            'block_0', 'block_1', … (B, S, C), each the output of its module in its dtype, and
            'pre_logits' float32 (B, C), the mean over tokens that the head maps.

        Returns:
          Logits, float32 (B, classes), or 'pre_logits' without a head; or that pair.

        Raises:
          UserError: patches do not fit the images, or branches that are merged by channels have
            different grids.
        """
        if images.ndim != 4:
            raise UserError(
                f'images of shape {images.shape}: allowed is (batch, height, width, channels)'
            )
        num_tokens(self.branches, self.branch_merge, images.shape[1:3])
        stem = functools.partial(
            self.stem_class, hidden_dim=self.hidden_dim, blur=self.blur, dtype=self.dtype
        )
        if self.branch_merge == 'tokens' and len(self.branches) > 1:
            stems = [stem((patches,), name=f'stem_{i}') for i, patches in enumerate(self.branches)]
            x = jnp.concatenate([stem(images) for stem in stems], axis=self.tokens_axis)
        else:
            x = stem(self.branches, name='stem')(images)
        intermediates = {'stem': jnp.moveaxis(x, self.tokens_axis, 1)}

        def apply_block(block, x):
            return block(x, train=train)

        if self.remat:
            apply_block = self.remat_block(apply_block)
        for i in range(self.num_blocks):
            block = self.block_class(
                self.tokens_mlp_dim,
                self.channels_mlp_dim,
                self.dropout_rate,
                self.gelu,
                drop_path_rate=self.stoch_depth * i / max(self.num_blocks - 1, 1),
                dtype=self.dtype,
                name=f'MixerBlock_{i}',
            )
            x = apply_block(block, x)
            intermediates[f'block_{i}'] = jnp.moveaxis(x, self.tokens_axis, 1)
        x = self.norm_class(dtype=self.dtype, name='pre_head_layer_norm')(x)
        x = jnp.mean(x, axis=self.tokens_axis, dtype=jnp.float32)
        intermediates['pre_logits'] = x
        if self.num_classes:
            x = nn.Dense(
                self.num_classes,
                kernel_init=nn.initializers.zeros,
                bias_init=nn.initializers.constant(self.head_bias_init),
                name='head',
            )(x)
        return (x, intermediates) if return_intermediates else x
