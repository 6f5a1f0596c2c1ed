"""The network with the stem of the original code, a convolution: `ConvStemMixer`."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from mixer_dilated.models.mixer import MlpMixer, Stem
from mixer_dilated.patches.extraction import antialias, crop


class ConvStem(Stem):
    """`Stem`, with its parameters, as the sum of a dilated convolution for each branch."""

    antialias = staticmethod(antialias)

    @nn.compact
    def __call__(
        self, images: Float[Array, 'batch height width channels_in']
    ) -> Float[Array, 'batch tokens channels']:
        init, channels = nn.initializers.lecun_normal(), images.shape[-1]
        x = self.param('bias', nn.initializers.zeros, (self.hidden_dim,)).astype(self.dtype)
        for i, patches in enumerate(self.branches):
            name = 'kernel' if len(self.branches) == 1 else f'kernel_{i}'
            kernel = self.param(name, init, (*patches.size, channels, self.hidden_dim))
            sampled = self.antialias(images, patches.dilation) if self.blur else images
            cropped, padding = crop(sampled, patches)
            tokens = jax.lax.conv_general_dilated(
                cropped.astype(self.dtype),
                kernel.astype(self.dtype),
                window_strides=patches.stride,
                padding=padding,
                rhs_dilation=patches.dilation,
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            )
            x = x + tokens.reshape(-1, tokens.shape[1] * tokens.shape[2], self.hidden_dim)
        return x


class ConvStemMixer(MlpMixer):
    """`MlpMixer` with a `ConvStem`."""

    stem_class = ConvStem

    @classmethod
    def like(cls, model: MlpMixer) -> 'ConvStemMixer':
        """The network of another module's fields."""
        return cls(**{name: getattr(model, name) for name in MlpMixer.__annotations__})
