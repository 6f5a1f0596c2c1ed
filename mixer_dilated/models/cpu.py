"""The Mixer in the form that a CPU computes fastest: `CpuMlpMixer`.

Modules and parameters are those of `models.mixer`. Tokens are the first axis, from the stem to the
mean over tokens: either mixing of a whole batch is then one product of two matrices, with nothing
to transpose. GELU and rematerialisation are those that XLA does not do well on a CPU.

The worth of a form is how much longer a training step takes without it, for mnist_dilated and for
mnist_baseline: medians of 13 interleaved rounds of 15 steps on two cores with jax 0.10.2. The
plain form takes 52 % and 50 % longer.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mixer_dilated.models.mixer import MixerBlock, MlpBlock, MlpMixer, Stem
from mixer_dilated.parallel.partition import batch_is_split, split_hidden_layer
from mixer_dilated.patches.extraction import extract_patches


class CpuStem(Stem):
    """`Stem` from images to (tokens, batch, channels)."""

    @staticmethod
    def extract_patches(images, patches):
        return jnp.swapaxes(extract_patches(images, patches), 0, 1)


class TransposedDense(nn.Module):
    """`nn.Dense` over the first axis of a matrix: Wᵀ · X + b."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'features_in columns']) -> Float[Array, 'features columns']:
        shape = (x.shape[0], self.features)
        kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        return kernel.astype(self.dtype).T @ x + bias.astype(self.dtype)[:, None]


class CpuMlpBlock(MlpBlock):
    """`MlpBlock` over `axis`: -1, or 0 of a matrix."""

    axis: int = -1

    @nn.compact
    def __call__(self, x: Float[Array, '...'], *, train: bool) -> Float[Array, '...']:
        dense = functools.partial(TransposedDense if self.axis == 0 else nn.Dense, dtype=self.dtype)
        y = dense(self.mlp_dim, name='Dense_0')(x)
        y = split_hidden_layer(y, self.axis)
        y = exact_gelu(y) if self.gelu == 'exact' else nn.gelu(y)
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        y = dense(x.shape[self.axis], name='Dense_1')(y)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(y)


class CpuMixerBlock(MixerBlock):
    """`MixerBlock` on (tokens, batch, channels).

    Its layout is worth 26 % and 55 %, of which the rows of channel mixing are 7 % and 13 %.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, 'tokens batch channels'], *, train: bool
    ) -> Float[Array, 'tokens batch channels']:
        settings = {'dropout_rate': self.dropout_rate, 'gelu': self.gelu, 'dtype': self.dtype}
        mlp = functools.partial(CpuMlpBlock, **settings)
        drop_path = functools.partial(
            nn.Dropout, self.drop_path_rate, broadcast_dims=(0, 2), deterministic=not train
        )
        y = LayerNorm(self.dtype, name='LayerNorm_0')(x)
        # A column for each channel of each example; XLA is slow at products with a single row.
        axis, shape = (0, (len(x), -1)) if len(x) > 1 else (-1, (-1, 1))
        y = mlp(self.tokens_mlp_dim, axis=axis, name='token_mixing')(y.reshape(shape), train=train)
        x = x + drop_path()(y.reshape(x.shape))
        y = LayerNorm(self.dtype, name='LayerNorm_1')(x)
        if not batch_is_split():
            # A row for each token: XLA computes a weight gradient of two batch axes slowly.
            y = y.reshape(-1, x.shape[-1])
        y = mlp(self.channels_mlp_dim, name='channel_mixing')(y, train=train)
        return x + drop_path()(y.reshape(x.shape))


class LayerNorm(nn.Module):
    """`nn.LayerNorm` over the last axis, with a custom VJP.

    It is as fast on `mnist_dilated` and 8 % slower on `mnist_baseline`; it stays so that published
    results keep their bits.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, '*rows channels']) -> Float[Array, '*rows channels']:
        scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
        bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
        return layer_norm(x, scale, bias).astype(self.dtype)


@jax.custom_vjp
def layer_norm(
    x: Float[Array, '*rows channels'],
    scale: Float[Array, ' channels'],
    bias: Float[Array, ' channels'],
) -> Float[Array, '*rows channels']:
    """n · scale + bias with n = (x - mean(x)) / sqrt(variance(x) + 1e-6) over the channels.

    The result is float32, and so are the statistics. The gradient is computed from x, with
    g = dy · scale: dx = (g - mean(g) - n · mean(g · n)) / sqrt(variance(x) + 1e-6).
    """
    return _layer_norm_forward(x, scale, bias)[0]


def _layer_norm_forward(x, scale, bias):
    wide = x.astype(jnp.float32)
    mean = _row_means(wide)
    variance = jnp.maximum(_row_means(wide * wide) - mean * mean, 0)
    inverse_deviation = jax.lax.rsqrt(variance + 1e-6)
    y = (x - mean) * inverse_deviation * scale + bias
    return y, (x, mean, inverse_deviation, scale)


def _layer_norm_backward(residuals, dy):
    x, mean, inverse_deviation, scale = residuals
    normed = (x - mean) * inverse_deviation
    dy_normed = dy * normed
    g = dy * scale
    dx = (g - _row_means(g) - normed * _row_means(dy_normed * scale)) * inverse_deviation
    rows = tuple(range(dy.ndim - 1))
    return dx.astype(x.dtype), jnp.sum(dy_normed, axis=rows), jnp.sum(dy, axis=rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def _row_means(x: Float[Array, '*rows channels']) -> Float[Array, '*rows 1']:
    # As a product: XLA's reductions over the last axis are slow.
    return x @ jnp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)


@jax.custom_vjp
def exact_gelu(x: Float[Array, '...']) -> Float[Array, '...']:
    """x · Φ(x), Φ the normal distribution's cumulative function (paper eq. 3), in float32.

    It is `nn.gelu(x, approximate=False)` but for 2e-7 · |x|: erf costs less than erfc. The
    gradient, Φ(x) + x · φ(x), is computed from x alone, so one array is kept for it. Worth 25 %
    and 18 %.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _gelu_backward(x, dy):
    wide = x.astype(jnp.float32)
    density = jnp.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
    derivative = _normal_cdf(wide) + wide * density
    return ((dy.astype(jnp.float32) * derivative).astype(x.dtype),)


exact_gelu.defvjp(lambda x: (exact_gelu(x), x), _gelu_backward)


def _normal_cdf(x):
    return (1 + jax.lax.erf(x * math.sqrt(0.5))) / 2


def remat_block(apply_block: Callable) -> Callable:
    """`nn.remat` of a function of a block and its input, which XLA does not undo.

    On a CPU XLA drops the barrier of `nn.remat`, recomputes everything as early as it can, and so
    keeps all of it after all. Dropout draws other numbers than without rematerialisation. Worth
    memory, not time.
    """

    def apply_rematerialised(block, x):
        if block.is_initializing():
            return apply_block(block, x)
        module, variables = block.unbind()
        rngs = {'dropout': block.make_rng('dropout')} if block.has_rng('dropout') else {}

        def apply(variables, x, rngs):
            return nn.apply(apply_block, module)(variables, x, rngs=rngs)

        def backward(arguments, dy):
            variables, x, rngs = arguments
            # Nothing can be recomputed from this x before dy is there.
            x = x + 0 * dy[(0,) * dy.ndim]
            _, vjp = jax.vjp(lambda variables, x: apply(variables, x, rngs), variables, x)
            return (*vjp(dy), None)

        rematerialised = jax.custom_vjp(apply)
        rematerialised.defvjp(lambda *arguments: (apply(*arguments), arguments), backward)
        return rematerialised(variables, x, rngs)

    return apply_rematerialised


class CpuMlpMixer(MlpMixer):
    """`MlpMixer` of these modules."""

    stem_class, block_class, norm_class = CpuStem, CpuMixerBlock, LayerNorm
    remat_block = staticmethod(remat_block)
    tokens_axis = 0
