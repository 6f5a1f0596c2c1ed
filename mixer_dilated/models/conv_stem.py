"""The network with the stem of the original code, a convolution: `ConvStemMixer`."""

import jax
from jaxtyping import Array

from mixer_dilated.models.mixer import MlpMixer, Stem
from mixer_dilated.patches.extraction import crop
from mixer_dilated.patches.geometry import Patches


class ConvStem(Stem):
    """`Stem` as the sum of a dilated convolution for each branch."""

    @classmethod
    def embed(cls, images: Array, kernel: Array, patches: Patches) -> Array:
        cropped, padding = crop(images, patches)
        tokens = jax.lax.conv_general_dilated(
            cropped,
            kernel.astype(images.dtype),
            window_strides=patches.stride,
            padding=padding,
            rhs_dilation=patches.dilation,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
        return tokens.reshape(-1, tokens.shape[1] * tokens.shape[2], tokens.shape[3])


class ConvStemMixer(MlpMixer):
    """`MlpMixer` with a `ConvStem`."""

    stem_class = ConvStem

    @classmethod
    def like(cls, model: MlpMixer) -> 'ConvStemMixer':
        """The network of another module's fields."""
        return cls(**{name: getattr(model, name) for name in MlpMixer.__annotations__})
