"""Weight files: read, written, renamed, converted and refused."""

import itertools
import json
import zlib

import chex
import numpy as np
import pytest
from safetensors.numpy import save

from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.errors import UserError
from mixer_dilated.pretrained.weight_files import (
    Weights,
    encode,
    read_weights,
    to_linen_names,
    write_orbax,
)
from tests.pretrained.test_adapt import SMALL, make_network, random_arrays


@pytest.fixture(scope='module')
def arrays():
    """Random parameters by Linen name."""
    return random_arrays(make_network())


def before_linen(arrays, second_norm):
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


@pytest.mark.parametrize('second_norm', ['LayerNorm_1', 'LayerNorm_2'])
@pytest.mark.parametrize('prefix', ['', 'opt/target/', 'params/'])
def test_checkpoints_of_the_original_from_before_linen_and_since_are_read(
    arrays, second_norm, prefix, tmp_path
):
    old = {f'{prefix}{name}': array for name, array in before_linen(arrays, second_norm).items()}
    np.savez(tmp_path / 'old.npz', **old)
    chex.assert_trees_all_equal(read_weights(tmp_path / 'old.npz').arrays, arrays)
    np.savez(tmp_path / 'new.npz', **{f'{prefix}{name}': a for name, a in arrays.items()})
    chex.assert_trees_all_equal(read_weights(tmp_path / 'new.npz').arrays, arrays)


def test_axes_of_length_one_that_belong_to_a_kernel_stay():
    """One token: the kernels of token mixing are matrices all the same."""
    old = {
        'embedding/kernel': np.ones((2, 2, 1, 3), np.float32),
        'Mixer/encoderblock_0/token_mixing_phase_0/kernel1': np.ones((1, 1, 1, 4), np.float32),
        'Mixer/encoderblock_0/token_mixing_phase_0/bias1': np.ones((1, 4, 1), np.float32),
        'Mixer/encoderblock_0/token_mixing_phase_0/kernel2': np.ones((1, 4, 1, 1), np.float32),
        'Mixer/encoderblock_0/token_mixing_phase_0/bias2': np.ones((1, 1, 1), np.float32),
    }
    shapes = {name: array.shape for name, array in to_linen_names(old, 'x').items()}
    block = 'MixerBlock_0/token_mixing'
    assert shapes == {
        'stem/kernel': (2, 2, 1, 3),
        f'{block}/Dense_0/kernel': (1, 4),
        f'{block}/Dense_0/bias': (4,),
        f'{block}/Dense_1/kernel': (4, 1),
        f'{block}/Dense_1/bias': (1,),
    }


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
    np.savez(tmp_path / 'a.npz', **before_linen(arrays, 'LayerNorm_1'))
    names = ['a.npz', 'b.safetensors', 'c', 'd.npz']
    for one, other in itertools.pairwise(names):
        assert main(['convert', str(tmp_path / one), str(tmp_path / other)], 0.0) == 0
    chex.assert_trees_all_equal(read_weights(tmp_path / 'd.npz').arrays, arrays)
    assert main(['convert', str(tmp_path / 'a.npz'), str(tmp_path / 'd.npz')], 0.0) == 2
    assert 'd.npz: exists' in capsys.readouterr().err


class Evil:
    def __reduce__(self):
        return (print, ('executed',))


@pytest.mark.parametrize('way', ['pickle', 'cut', 'empty', 'text', 'other network', 'gone'])
@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_files_that_are_no_weights_are_refused_in_one_line(arrays, way, suffix, tmp_path, capfd):
    path = tmp_path / f'w{suffix}'
    path.write_bytes(encode(Weights(arrays), suffix))
    if way == 'pickle':
        np.savez(tmp_path / 'evil.npz', **{'stem/kernel': np.array([Evil()], object)})
        (tmp_path / 'evil.npz').rename(path)
    elif way == 'other network':
        path.write_bytes(encode(Weights({'conv/kernel': np.ones(3, np.float32)}), suffix))
    elif way == 'gone':
        path.unlink()
    else:
        content = {'cut': path.read_bytes()[:-40], 'empty': b'', 'text': b'hello'}[way]
        path.write_bytes(content)
    assert main(['convert', str(path), str(tmp_path / 'out.npz')], 0.0) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert line.startswith('error: ') and f'w{suffix}' in line and 'executed' not in out
    assert not (tmp_path / 'out.npz').exists()


def test_a_folder_of_orbax_with_other_bits_is_refused(arrays, tmp_path):
    write_orbax(Weights(arrays), tmp_path / 'w')
    about = json.loads((tmp_path / 'w' / 'model.json').read_text())
    about['checksums']['stem/bias'] += 1
    (tmp_path / 'w' / 'model.json').write_text(json.dumps(about))
    with pytest.raises(UserError, match='the checksum of stem/bias is not the one recorded'):
        read_weights(tmp_path / 'w')


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
def test_metadata_that_no_run_has_is_refused_in_one_line(metadata, tmp_path, capsys):
    content = save({'stem/bias': np.ones(3, np.float32)}, {'mixer_dilated': json.dumps(metadata)})
    (tmp_path / 'w.safetensors').write_bytes(content)
    assert main(['convert', str(tmp_path / 'w.safetensors'), str(tmp_path / 'o.npz')], 0.0) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and 'w.safetensors: cannot be read: ' in line
    assert 'defect' not in line


def test_metadata_of_a_folder_that_no_run_has_is_refused(tmp_path):
    array = np.ones(3, np.float32)
    write_orbax(Weights({'stem/bias': array}), tmp_path / 'w')
    metadata = {'image_size': [16], 'checksums': {'stem/bias': zlib.crc32(array)}}
    (tmp_path / 'w' / 'model.json').write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r'image_size = \[16\]: allowed is an integer'):
        read_weights(tmp_path / 'w')
