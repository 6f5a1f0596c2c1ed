"""Weight files: read, written, renamed, converted and refused."""

import io
import itertools
import json
import os
import zipfile
import zlib

import chex
import numpy as np
import pytest
from safetensors.numpy import save

from mixer_dilated.cli.main import main
from mixer_dilated.pretrained.adapt import TOKEN_MIXING
from mixer_dilated.pretrained.weight_files import (
    Weights,
    encode,
    read_weights,
    to_linen_names,
    write_orbax,
)
from tests.conftest import refuses
from tests.pretrained.test_adapt import random_arrays, random_weights
from tests.pretrained.test_timm_names import Evil


@pytest.fixture(scope='module')
def arrays():
    return random_arrays()


BEFORE_LINEN = {
    'stem/': 'embedding/',
    'pre_head_layer_norm': 'Mixer/encoder_norm',
    'MixerBlock_': 'Mixer/encoderblock_',
    '_mixing/': '_mixing_phase_0/',
    'Dense_0/kernel': 'kernel1',
    'Dense_0/bias': 'bias1',
    'Dense_1/kernel': 'kernel2',
    'Dense_1/bias': 'bias2',
}


def before_linen(arrays, second_norm='LayerNorm_1'):
    """The names and shapes of before Linen, from the description of that format."""
    old = {}
    for name, array in arrays.items():
        for new_part, old_part in {**BEFORE_LINEN, 'LayerNorm_1': second_norm}.items():
            name = name.replace(new_part, old_part)
        old[name] = array[None, :, None] if '_mixing' in name else array
    return old


@pytest.mark.parametrize('rename', [
    before_linen, lambda arrays: before_linen(arrays, 'LayerNorm_2'), lambda arrays: arrays,
], ids=['before Linen', 'its second norm', 'Linen'])  # fmt: skip
@pytest.mark.parametrize('prefix', ['', 'opt/target/', 'params/'])
def test_checkpoints_of_the_original_are_read(arrays, rename, prefix, tmp_path):
    np.savez(tmp_path / 'w.npz', **{f'{prefix}{k}': a for k, a in rename(arrays).items()})
    chex.assert_trees_all_equal(read_weights(tmp_path / 'w.npz').arrays, arrays)


def test_axes_of_length_one_that_belong_to_a_kernel_stay():
    """One token: the kernels of token mixing are matrices all the same."""
    block, shapes = 'MixerBlock_0/token_mixing', [(1, 4), (4,), (4, 1), (1,)]
    shapes = {f'{block}/{name}': shape for name, shape in zip(TOKEN_MIXING, shapes, strict=True)}
    old = before_linen({name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    assert {name: array.shape for name, array in to_linen_names(old, 'x').items()} == shapes


def test_convert_goes_through_every_format_and_back(arrays, tmp_path, capsys):
    """Every format gives back the bits, and records the network but for the original's."""
    weights = random_weights()
    (tmp_path / 'a.safetensors').write_bytes(encode(weights, '.safetensors'))
    names = ['a.safetensors', 'b', 'c.safetensors', 'd.npz', 'e', 'f.npz']
    for one, other in itertools.pairwise(names):
        assert main(['convert', str(tmp_path / one), str(tmp_path / other)], 0.0) == 0
        copy = read_weights(tmp_path / other)
        chex.assert_trees_all_equal(copy.arrays, weights.arrays)
        records = other in ('b', 'c.safetensors')
        assert copy.image_size == (weights.image_size if records else None)
        assert copy.model == (weights.model if records else None)
    assert main(['convert', str(tmp_path / 'a.safetensors'), str(tmp_path / 'd.npz')], 0.0) == 2
    assert 'd.npz: exists' in capsys.readouterr().err


@pytest.mark.parametrize(
    'kind', ['pickle', 'cut', 'empty', 'text', 'nan', 'pipe', 'other network', 'gone']
)
@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_files_that_are_no_weights_are_refused_in_one_line(arrays, kind, suffix, tmp_path, capfd):
    path = tmp_path / f'w{suffix}'
    content = encode(Weights(arrays), suffix)
    evil = io.BytesIO()
    np.savez(evil, **{'stem/kernel': np.array([Evil()], object)})
    contents = {
        'pickle': evil.getvalue(),
        'other network': encode(Weights({'conv/kernel': np.ones(3, np.float32)}), suffix),
        'nan': encode(Weights({**arrays, 'head/bias': np.full(3, np.nan, np.float32)}), suffix),
        'cut': content[:-40],
        'empty': b'',
        'text': b'hello',
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == 'pipe':
        os.mkfifo(path)
    with refuses(f'w{suffix}'):
        read_weights(path)
    assert 'executed' not in capfd.readouterr().out


IMPOSSIBLE = [
    [1],
    {'model': [1]},
    {'model': {'patches': {'padding': [[2000000000, 2000000000]] * 2}}, 'image_size': [16, 16]},
    {'model': {'gelu': ['tanh']}},
    {'model': {'a\nb': 1}},
    {'image_size': ['a', 'b']},
    {'image_size': [16]},
    {'image_size': [2e8, 16]},
    {'image_size': [16, 0]},
    {'model': {'num_blocks': 2}, 'image_size': [1000000000, 1000000000]},
]


@pytest.mark.parametrize('metadata', IMPOSSIBLE, ids=str)
def test_metadata_that_no_run_has_is_refused(metadata, tmp_path):
    content = save({'stem/bias': np.ones(3, np.float32)}, {'mixer_dilated': json.dumps(metadata)})
    (tmp_path / 'w.safetensors').write_bytes(content)
    with refuses('w.safetensors: cannot be read'):
        read_weights(tmp_path / 'w.safetensors')


@pytest.mark.parametrize(
    ('image_size', 'change', 'words'),
    [([16, 16], 1, ['stem/bias']), ([16], 0, ['image_size = [16]'])],
    ids=['bits', 'size'],
)
def test_a_folder_of_orbax_with_other_content_is_refused(image_size, change, words, tmp_path):
    array = np.ones(3, np.float32)
    write_orbax(Weights({'stem/bias': array}), tmp_path / 'w')
    checksums = {'stem/bias': zlib.crc32(array) + change}
    metadata = {'image_size': image_size, 'checksums': checksums}
    (tmp_path / 'w' / 'model.json').write_text(json.dumps(metadata))
    with refuses(*words):
        read_weights(tmp_path / 'w')


def test_an_array_or_two_of_one_name_in_an_archive_are_refused(arrays, tmp_path):
    path = tmp_path / 'w.npz'
    with path.open('wb') as file:
        np.save(file, arrays['head/bias'])
    with refuses(f'{path}: cannot be read') as refusal:
        read_weights(path)
    assert 'allow_pickle' not in str(refusal.value)
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, 'a') as archive, pytest.warns(UserWarning):
        archive.writestr('head/bias.npy', b'')
    with refuses(f'{path}: cannot be read'):
        read_weights(path)
