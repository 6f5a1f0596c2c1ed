"""ONNX: the probabilities of the network, by ONNX Runtime, for any batch."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mixer_dilated.inference.export import make_classifier
from mixer_dilated.inference.onnx_model import onnx_model
from mixer_dilated.training.state import create_model
from tests.conftest import random_bytes, small_config
from tests.models.test_mixer import random_variables

NETWORKS = {
    'plain': {},
    'mnist_dilated': {
        'model.patches.size': 4, 'model.patches.dilation': 2, 'model.patches.stride': 7,
    },
    'branches': {
        'model.branches': ({'dilation': 1}, {'dilation': 3}), 'model.branch_merge': 'tokens',
    },
    'blur and phases': {'model.phases': 2, 'model.blur': True, 'model.patches.dilation': 2},
    'offset and padding': {'model.patches.offset': -1, 'model.patches.padding': 'SAME'},
    'random phase': {'augment.random_phase': True, 'model.patches.dilation': 2},
    'bfloat16': {'dtype': 'bfloat16', 'model.gelu': 'tanh'},
    'large': {'model': 'B/16'},
}  # fmt: skip
SHAPES = {'mnist_dilated': (28, 28, 1), 'large': (224, 224, 3)}


@pytest.mark.slow
@pytest.mark.parametrize('name', NETWORKS)
def test_every_kind_of_network_has_its_own_probabilities(name):
    """ONNX Runtime computes what the exported program does in float32."""
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('jax2onnx')
    changes, image_shape = NETWORKS[name], SHAPES.get(name, (8, 8, 1))
    temperatures = np.ones(1) if name == 'large' else np.array([0.5, 2.0])
    config = small_config(**changes)
    model = create_model(config, 10)
    images = np.zeros((1, *image_shape), np.float32)
    seeds = [
        flatten_dict(random_variables(model, images, seed=k, train=False)['params'], sep='/')
        for k in range(len(temperatures))
    ]
    weights = {name: np.stack([of_seed[name] for of_seed in seeds]) for name in seeds[0]}
    content = onnx_model(config, weights, temperatures, image_shape)
    session = onnxruntime.InferenceSession(content)
    config = small_config(**{**changes, 'dtype': 'float32'})
    classify = jax.jit(make_classifier(config, 10, temperatures))
    for batch in (1, 4):
        images = random_bytes((batch, *image_shape))
        expected = np.asarray(classify(weights, images))
        (probabilities,) = session.run(['probabilities'], {'images': images})
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        assert batch == 1 or np.ptp(expected, axis=0).max() > 1e-4  # the images do differ
