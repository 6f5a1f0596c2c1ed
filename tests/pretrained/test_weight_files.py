"""Weight files: read, written, renamed, converted and refused."""

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
from mixer_dilated.config import resolve
from mixer_dilated.pretrained.weight_files import (
    Weights,
    encode,
    read_weights,
    to_linen_names,
    write_orbax,
)
from tests.conftest import refuses
from tests.pretrained.test_adapt import SMALL, random_arrays


@pytest.fixture(scope='module')
def arrays():
    return random_arrays()


def before_linen(arrays, second_norm='LayerNorm_1'):
    """The names and shapes of before Linen, from the description of that format."""
    old = {}
    for name, array in arrays.items():
        name = name.replace('stem/', 'embedding/')
        name = name.replace('pre_head_layer_norm', 'Mixer/encoder_norm')
        name = name.replace('MixerBlock_', 'Mixer/encoderblock_')
        name = name.replace('LayerNorm_1', second_norm)
        if '_mixing/' in name:
            name = name.replace('_mixing/', '_mixing_phase_0/')
            name = name.replace('/Dense_0/kernel', '/kernel1').replace('/Dense_0/bias', '/bias1')
            name = name.replace('/Dense_1/kernel', '/kernel2').replace('/Dense_1/bias', '/bias2')
            array = array[None, :, None]
        old[name] = array
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
    block = 'MixerBlock_0/token_mixing'
    shapes = {
        'stem/kernel': (2, 2, 1, 3),
        f'{block}/Dense_0/kernel': (1, 4),
        f'{block}/Dense_0/bias': (4,),
        f'{block}/Dense_1/kernel': (4, 1),
        f'{block}/Dense_1/bias': (1,),
    }
    old = before_linen({name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    assert {name: array.shape for name, array in to_linen_names(old, 'x').items()} == shapes


def test_every_format_gives_back_the_bits(arrays, tmp_path):
    weights = Weights(arrays, resolve({'model': SMALL}).model.to_dict(), (16, 16))
    for suffix in ('.npz', '.safetensors'):
        (tmp_path / f'w{suffix}').write_bytes(encode(weights, suffix))
    write_orbax(weights, tmp_path / 'w')
    for name in ('w.npz', 'w.safetensors', 'w'):
        copy = read_weights(tmp_path / name)
        chex.assert_trees_all_equal(copy.arrays, arrays)
        if name == 'w.npz':
            assert copy.model is None and copy.image_size is None
        else:
            assert copy.image_size == (16, 16)
            assert resolve({'model': copy.model}) == resolve({'model': SMALL})


def test_convert_goes_through_every_format_and_back(arrays, tmp_path, capsys):
    np.savez(tmp_path / 'a.npz', **before_linen(arrays))
    names = ['a.npz', 'b.safetensors', 'c', 'd.npz']
    for one, other in itertools.pairwise(names):
        assert main(['convert', str(tmp_path / one), str(tmp_path / other)], 0.0) == 0
    chex.assert_trees_all_equal(read_weights(tmp_path / 'd.npz').arrays, arrays)
    assert main(['convert', str(tmp_path / 'a.npz'), str(tmp_path / 'd.npz')], 0.0) == 2
    assert 'd.npz: exists' in capsys.readouterr().err


class Evil:
    def __reduce__(self):
        return (print, ('executed',))


@pytest.mark.parametrize(
    'kind', ['pickle', 'cut', 'empty', 'text', 'nan', 'pipe', 'other network', 'gone']
)
@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_files_that_are_no_weights_are_refused_in_one_line(arrays, kind, suffix, tmp_path, capfd):
    path = tmp_path / f'w{suffix}'
    path.write_bytes(encode(Weights(arrays), suffix))
    if kind == 'pickle':
        with path.open('wb') as file:
            np.savez(file, **{'stem/kernel': np.array([Evil()], object)})
    elif kind == 'other network':
        path.write_bytes(encode(Weights({'conv/kernel': np.ones(3, np.float32)}), suffix))
    elif kind == 'nan':
        damaged = {**arrays, 'head/bias': np.full_like(arrays['head/bias'], np.nan)}
        path.write_bytes(encode(Weights(damaged), suffix))
    elif kind in ('gone', 'pipe'):
        path.unlink()
        if kind == 'pipe':
            os.mkfifo(path)
    else:
        content = {'cut': path.read_bytes()[:-40], 'empty': b'', 'text': b'hello'}[kind]
        path.write_bytes(content)
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
