"""A trained network as an ONNX model, converted by jax2onnx and checked by ONNX Runtime."""

import functools
import itertools
import logging

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float, UInt8

from mixer_dilated.config import changed, num_phases
from mixer_dilated.errors import UserError
from mixer_dilated.models.conv_stem import ConvStem, ConvStemMixer
from mixer_dilated.patches.extraction import smooth
from mixer_dilated.training.state import create_model
from mixer_dilated.training.step import normalise

OPSET = 21
MAX_BYTES = 2**31  # of a model in one file
MAX_DIFFERENCE = 1e-4  # of probabilities
CHECKED_BATCHES = (1, 3)


def _antialias(images, dilation):
    """`extraction.antialias`; jax2onnx fixes the batch where `jnp.pad` repeats edges."""
    rows, columns = (
        np.clip(np.arange(1 - d, side + d - 1), 0, side - 1)
        for d, side in zip(dilation, images.shape[1:3], strict=True)
    )
    return smooth(images[:, rows][:, :, columns], dilation)


class OnnxStem(ConvStem):
    antialias = staticmethod(_antialias)


class OnnxMlpMixer(ConvStemMixer):
    """The network of what jax2onnx converts."""

    stem_class = OnnxStem


def onnx_model(
    config: ml_collections.ConfigDict,
    weights: dict[str, Float[np.ndarray, 'seeds ...']],
    temperatures: Float[np.ndarray, ' seeds'],
    image_shape: tuple[int, int, int],
) -> bytes:
    """Converts what `export.make_classifier` computes of the weights, in float32, for batches of
    every size; `image_shape` is (height, width, channels).

    Returns:
      A serialised ModelProto: from 'images', uint8 (batch, height, width, channels), to
      'probabilities', float32 (batch, classes), means over the seeds.

    Raises:
      UserError: jax2onnx is not installed, the weights are too large for one file, or ONNX Runtime
        computes other probabilities.
    """
    total = sum(array.nbytes for array in weights.values())
    if total >= MAX_BYTES:
        raise UserError(
            f'--format=onnx: the weights of {len(temperatures)} seeds take {total / 2**30:.1f} '
            f'GiB; an ONNX file holds less than 2; leave --format out'
        )
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(f'--format=onnx: {error}; run pip install jax2onnx') from None
    classify = functools.partial(_classify, config, weights, temperatures)
    logging.getLogger('onnx_ir').setLevel(logging.ERROR)
    proto = jax2onnx.to_onnx(
        classify,
        inputs=[jax.ShapeDtypeStruct(('batch', *image_shape), jnp.uint8)],
        model_name='mlp_mixer',
        opset=OPSET,
        input_names=['images'],
        output_names=['probabilities'],
    )
    content = proto.SerializeToString()
    session, draw = onnxruntime.InferenceSession(content), np.random.default_rng(0)
    for batch in CHECKED_BATCHES:
        images = draw.integers(0, 256, (batch, *image_shape), dtype=np.uint8)
        (probabilities,) = session.run(None, {'images': images})
        difference = np.abs(probabilities - np.asarray(jax.jit(classify)(images))).max()
        if not difference <= MAX_DIFFERENCE:
            raise UserError(
                f'--format=onnx: ONNX Runtime {onnxruntime.__version__} gives probabilities that '
                f'differ by {difference:.1e}; try another version of it or of jax2onnx'
            )
    return content


def _classify(
    config: ml_collections.ConfigDict,
    weights: dict[str, Float[np.ndarray, 'seeds ...']],
    temperatures: Float[np.ndarray, ' seeds'],
    images: UInt8[Array, 'batch height width channels'],
) -> Float[Array, 'batch classes']:
    """The mean over the seeds of softmax(log p / T), p the mean over the phases; no loops."""
    num_classes = weights['head/bias'].shape[-1]
    plain = create_model(changed(config, {'dtype': 'float32'}), num_classes)
    model = OnnxMlpMixer.like(plain)
    images, probabilities = images.astype(jnp.float32), 0.0
    for k, temperature in enumerate(temperatures):
        params = {name: jnp.asarray(array[k]) for name, array in weights.items()}
        variables, log_probs = {'params': unflatten_dict(params, sep='/')}, []
        for up, left in itertools.product(*map(range, num_phases(config))):
            # Moved up and left, as `augmentation.shift_phase` does.
            moved = jnp.pad(images[:, up:, left:], ((0, 0), (0, up), (0, left), (0, 0)))
            logits = model.apply(variables, normalise(moved), train=False)
            log_probs.append(jax.nn.log_softmax(logits))
        mean = jax.nn.logsumexp(jnp.stack(log_probs), axis=0) - np.log(len(log_probs))
        probabilities += jax.nn.softmax(mean / float(temperature)) / len(temperatures)
    return probabilities
