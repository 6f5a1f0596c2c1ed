"""The configs whose data is not here: a few steps of each, on random data of the right form."""

import os

import numpy as np
import pytest

from mixer_dilated.config import changed, flat
from mixer_dilated.files import read_json
from mixer_dilated.pretrained.adapt import param_shapes
from mixer_dilated.training.state import create_model
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import ROOT, config_of
from tests.imagenet_images import write_imagenet
from tests.tfds_files import encoded, write_set
from tests.training.runs import rows_of

pytestmark = pytest.mark.slow

SMALL = {'model.num_blocks': 2, 'model.hidden_dim': 32}
SMALL |= {'model.tokens_mlp_dim': 16, 'model.channels_mlp_dim': 32}
# MIXER_LONG=1 trains the networks of the configs themselves.
NETWORK = {} if os.environ.get('MIXER_LONG') else SMALL
STEPS = 3


def few_steps(name, data_dir, **changes):
    """A config file's config, for a few steps on the data in a folder."""
    dataset = {'data_dir': str(data_dir), 'train_split': f'train[:{2 * STEPS}]'}
    few = {'dataset': {**dataset, 'test_split': 'test'}, 'batch': 2, 'batch_eval': 2}
    few |= {'num_epochs': 1, 'optimizer': {'warmup_steps': 1}}
    return changed(config_of(ROOT / 'configs' / f'{name}.py'), {**flat(few), **changes})


def random_records(size):
    draw = np.random.default_rng(0)
    return [(encoded(draw.integers(0, 256, size, np.uint8)), k * 3 % 10) for k in range(8)]


def check_learned(config, folder):
    summary = train_and_evaluate(config, folder)
    (result,) = summary['results']
    assert np.isfinite([result['train_loss'], result['test_loss']]).all()
    assert [row['step'] for row in rows_of(folder)] == [STEPS]
    return summary


def test_fashion_mnist(tmp_path):
    write_set(tmp_path, random_records((28, 28)), (28, 28, 1), 'fashion_mnist', '3.0.1')
    summary = check_learned(few_steps('fashion_mnist_dilated', tmp_path), tmp_path / 'run')
    assert summary['num_tokens'] == 16 and summary['image_shape'] == [28, 28, 1]


def test_cifar10_begins_with_weights_of_the_original_and_sees_224_pixels(tmp_path):
    records = random_records((32, 32, 3))
    write_set(tmp_path, records, (32, 32, 3), 'cifar10', '3.0.2', text_feature='id')
    weights = tmp_path / 'Mixer-B_16.npz'
    config = few_steps('cifar10_finetune_b16', tmp_path, init_from=str(weights), **NETWORK)
    # Pretrained on ImageNet-21k, as the original's.
    shapes = param_shapes(create_model(config, 21843), (224, 224, 3))
    draw = np.random.default_rng(1)
    np.savez(weights, **{k: draw.normal(0, 0.02, n).astype('f4') for k, n in shapes.items()})
    summary = check_learned(config, tmp_path / 'run')
    assert summary['num_tokens'] == 196 and summary['image_shape'] == [224, 224, 3]
    assert read_json(tmp_path / 'run' / 'initial.json')['adapted'] == [
        'head new: zeros, for 10 classes'
    ]


def test_imagenet2012_has_images_of_several_sizes(tmp_path):
    write_imagenet(tmp_path, 8)
    changes = {'input.mode': 'stream', 'dataset.test_split': 'validation', 'dataset.val_split': ''}
    config = few_steps('imagenet2012_s16', tmp_path, **NETWORK, **changes)
    summary = check_learned(config, tmp_path / 'run')
    assert summary['num_tokens'] == 196 and summary['image_shape'] == [224, 224, 3]
    assert len(read_json(tmp_path / 'run' / 'preprocessing.json')['class_names']) == 1000
