"""Weights in and out, of both forms of the original, and fitted to other networks."""

import itertools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.errors import ShapeMismatchError, UserError
from mixer_dilated.patches.geometry import Patches
from mixer_dilated.pretrained.adapt import adapt_params, param_shapes
from mixer_dilated.pretrained.checkpoint_names import to_linen_names
from mixer_dilated.pretrained.stem_kernel import adapt_stem_kernels
from mixer_dilated.pretrained.token_grid import block_diagonal, interpolate, resampling
from mixer_dilated.pretrained.weight_files import Weights, encode, read_weights, write_orbax
from mixer_dilated.training.state import create_model

SMALL = {
    'patches': {'size': 4, 'stride': 4},
    'num_blocks': 2,
    'hidden_dim': 6,
    'tokens_mlp_dim': 5,
    'channels_mlp_dim': 7,
    'gelu': 'tanh',
}
SHAPE = (16, 16, 3)
GREY = (28, 28, 1)
TRANSFER = resolve({}).transfer


def network_of(classes=3, **changes):
    return create_model(resolve({'model': {**SMALL, **changes}}), classes)


@pytest.fixture(scope='module')
def arrays():
    """Random parameters by Linen name."""
    draw = np.random.default_rng(0)
    return {
        name: draw.normal(size=shape).astype(np.float32)
        for name, shape in param_shapes(network_of(), SHAPE).items()
    }


def before_linen(arrays, second_norm):
    """The names and shapes of before Linen, written from the description of that form."""
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
@pytest.mark.parametrize('around', ['', 'opt/target/', 'params/'])
def test_both_forms_of_the_original_are_read(arrays, second_norm, around, tmp_path):
    old = {f'{around}{name}': array for name, array in before_linen(arrays, second_norm).items()}
    np.savez(tmp_path / 'old.npz', **old)
    chex.assert_trees_all_equal(read_weights(tmp_path / 'old.npz').arrays, arrays)
    np.savez(tmp_path / 'new.npz', **{f'{around}{name}': a for name, a in arrays.items()})
    chex.assert_trees_all_equal(read_weights(tmp_path / 'new.npz').arrays, arrays)


def test_axes_of_one_that_belong_stay():
    """One token: the kernels of token mixing are matrices all the same."""
    old = {
        'embedding/kernel': np.ones((2, 2, 1, 3), np.float32),
        'Mixer/encoderblock_0/token_mixing_phase_0/kernel1': np.ones((1, 1, 1, 4), np.float32),
        'Mixer/encoderblock_0/token_mixing_phase_0/bias1': np.ones((1, 4, 1), np.float32),
        'Mixer/encoderblock_0/token_mixing_phase_0/kernel2': np.ones((1, 4, 1, 1), np.float32),
        'Mixer/encoderblock_0/token_mixing_phase_0/bias2': np.ones((1, 1, 1), np.float32),
    }
    found = {name: array.shape for name, array in to_linen_names(old, 'x').items()}
    block = 'MixerBlock_0/token_mixing'
    assert found == {
        'stem/kernel': (2, 2, 1, 3),
        f'{block}/Dense_0/kernel': (1, 4),
        f'{block}/Dense_0/bias': (4,),
        f'{block}/Dense_1/kernel': (4, 1),
        f'{block}/Dense_1/bias': (1,),
    }


def test_every_form_gives_back_the_bits(arrays, tmp_path):
    weights = Weights(arrays, resolve({'model': SMALL}).model.to_dict(), (16, 16))
    for suffix in ('.npz', '.safetensors'):
        (tmp_path / f'w{suffix}').write_bytes(encode(weights, suffix))
    write_orbax(weights, tmp_path / 'w')
    for name in ('w.npz', 'w.safetensors', 'w'):
        found = read_weights(tmp_path / name)
        chex.assert_trees_all_equal(found.arrays, arrays)
        said = None if name == 'w.npz' else (16, 16)
        assert found.image_size == said
        if said:
            assert resolve({'model': found.model}) == resolve({'model': SMALL})


def test_convert_goes_round_through_every_form(arrays, tmp_path, capsys):
    np.savez(tmp_path / 'a.npz', **before_linen(arrays, 'LayerNorm_1'))
    names = ['a.npz', 'b.safetensors', 'c', 'd.npz']
    for one, other in itertools.pairwise(names):
        assert main(['convert', str(tmp_path / one), str(tmp_path / other)], 0.0) == 0
    chex.assert_trees_all_equal(read_weights(tmp_path / 'd.npz').arrays, arrays)
    assert main(['convert', str(tmp_path / 'a.npz'), str(tmp_path / 'd.npz')], 0.0) == 2
    assert 'd.npz: is there already' in capsys.readouterr().err


class Evil:
    def __reduce__(self):
        return (print, ('executed',))


@pytest.mark.parametrize('way', ['pickle', 'cut', 'empty', 'text', 'other network', 'gone'])
@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_files_that_are_no_weights_are_told_in_one_line(arrays, way, suffix, tmp_path, capfd):
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


def test_what_does_not_fit_is_a_table(arrays):
    with pytest.raises(ShapeMismatchError, match='does not fit') as error:
        adapt_params(
            Weights(arrays), network_of(hidden_dim=8, num_blocks=3), SHAPE, TRANSFER, 'f.npz'
        )
    rows = error.value.rows
    assert rows == [
        ('MixerBlock_…/LayerNorm_0/bias and 10 more', '6', '8', 'model.hidden_dim=6'),
        ('MixerBlock_…/LayerNorm_0/bias and 11 more', 'not there', '8', 'model.num_blocks=2'),
    ]  # fmt: skip
    kept = resolve({'transfer': {'head': 'keep'}}).transfer
    with pytest.raises(ShapeMismatchError) as error:
        adapt_params(Weights(arrays), network_of(classes=9), SHAPE, kept, 'f.npz')
    assert {row[3] for row in error.value.rows} == {'transfer.head=new'}


def test_a_head_is_new_unless_it_is_kept(arrays):
    found, adapted = adapt_params(Weights(arrays), network_of(classes=9), SHAPE, TRANSFER, 'f')
    assert not any(name.startswith('head/') for name in found)
    assert adapted == ['head new: zeros, for 9 classes']
    kept = resolve({'transfer': {'head': 'keep'}}).transfer
    found, adapted = adapt_params(Weights(arrays), network_of(), SHAPE, kept, 'f')
    chex.assert_trees_all_equal(found, arrays)
    assert adapted == []


# Token mixing on another grid


def mixing_of(draw, tokens, width=5):
    shapes = {
        'Dense_0/kernel': (tokens, width),
        'Dense_0/bias': (width,),
        'Dense_1/kernel': (width, tokens),
        'Dense_1/bias': (tokens,),
    }
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def mix(mixing, x):
    """The token mixing MLP, x (tokens, channels), in float64 NumPy."""
    mixing = {name: array.astype(np.float64) for name, array in mixing.items()}
    hidden = mixing['Dense_0/kernel'].T @ x + mixing['Dense_0/bias'][:, None]
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    return mixing['Dense_1/kernel'].T @ hidden + mixing['Dense_1/bias'][:, None]


@given(st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_resampling_is_that_of_jax_and_keeps_what_is_even(old, new):
    found = resampling(old, new)
    expected = jax.image.resize(jnp.eye(old), (new, old), 'linear', antialias=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    if old == new:
        np.testing.assert_array_equal(found, np.eye(old))


def test_the_same_grid_is_the_same_mixing():
    mixing = mixing_of(np.random.default_rng(0), 12)
    assert interpolate(mixing, ((3, 4),), ((3, 4),)) is mixing
    chex.assert_trees_all_equal(block_diagonal(mixing, ((3, 4),), ((3, 4),)), mixing)


def test_mixing_on_another_grid_is_resize_mix_resize():
    """By JAX's own resizing of the features, with the mixing in between."""
    draw = np.random.default_rng(1)
    mixing, x = mixing_of(draw, 12), draw.normal(size=(6 * 5, 2))
    found = mix(interpolate(mixing, ((3, 4),), ((6, 5),)), x)
    small = jax.image.resize(x.reshape(6, 5, 2), (3, 4, 2), 'linear', antialias=True)
    mixed = mix(mixing, np.asarray(small, np.float64).reshape(12, 2))
    expected = jax.image.resize(mixed.reshape(3, 4, 2), (6, 5, 2), 'linear', antialias=True)
    np.testing.assert_allclose(found, np.asarray(expected).reshape(30, 2), atol=1e-4)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_even_features_leave_every_hidden_unit_as_it_was(rows, columns, seed):
    draw = np.random.default_rng(seed)
    mixing, x = mixing_of(draw, 16), draw.normal(size=2)
    found = interpolate(mixing, ((4, 4),), ((rows, columns),))
    before = mixing['Dense_0/kernel'].T.astype(np.float64) @ np.tile(x, (16, 1))
    after = found['Dense_0/kernel'].T.astype(np.float64) @ np.tile(x, (rows * columns, 1))
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_block_diagonal_mixes_every_part_as_before():
    draw = np.random.default_rng(2)
    mixing, x = mixing_of(draw, 6), draw.normal(size=(4, 9, 3))
    found = mix(block_diagonal(mixing, ((2, 3),), ((4, 9),)), x.reshape(36, 3)).reshape(4, 9, 3)
    for row in (0, 2):
        for column in (0, 3, 6):
            part = np.s_[row : row + 2, column : column + 3]
            np.testing.assert_allclose(
                found[part].reshape(6, 3), mix(mixing, x[part].reshape(6, 3)), atol=1e-5
            )
    with pytest.raises(UserError, match='a grid of 3×3 tokens is no multiple of 2×3'):
        block_diagonal(mixing, ((2, 3),), ((3, 3),))


# Stem kernels of other patches


def features(images, kernels, branches):
    """Σ of kernel · samples at the pixels of the geometry, NumPy."""
    found = 0
    for kernel, patches in zip(kernels, branches, strict=True):
        index = patches.pixel_indices(images.shape[:2])
        seen = ((index >= 0) & (index < images.shape[0])).all(axis=-1, keepdims=True)
        rows, columns = np.moveaxis(index.clip(0, images.shape[0] - 1), -1, 0)
        found = found + np.einsum(
            'tpc,pcd->td',
            np.where(seen, images[rows, columns], 0),
            kernel.reshape(-1, *kernel.shape[2:]),
        )
    return found


@pytest.mark.parametrize('method', ['sample', 'resize'])
@pytest.mark.parametrize('dilation', [1, 2, 3])
def test_a_kernel_of_as_many_pixels_stays_as_it_is(method, dilation):
    kernel = np.random.default_rng(0).normal(size=(4, 5, 3, 2)).astype(np.float32)
    branches = (Patches(size=(4, 5), dilation=dilation, stride=9),)
    (found,) = adapt_stem_kernels(kernel, branches, (28, 28, 3), method, add_up=True)
    np.testing.assert_array_equal(found, kernel)


def test_sampling_takes_the_values_at_the_dilated_pixels():
    """7×7 to 4×4 pixels 2 apart: every second value, for the part of 7 that is nearest to it."""
    kernel = np.random.default_rng(0).normal(size=(7, 7, 1, 2)).astype(np.float32)
    (found,) = adapt_stem_kernels(kernel, (Patches(4, 2, 7),), GREY, 'sample', add_up=True)
    parts = np.array([1.5, 2, 2, 1.5])
    expected = kernel[::2, ::2] * np.outer(parts, parts)[..., None, None]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_all_phases_together_have_the_kernel_they_came_from():
    """Side by side they see every pixel of the window once."""
    kernel = np.random.default_rng(0).normal(size=(8, 8, 1, 2)).astype(np.float32)
    branches = Patches(4, 2, 8).phases(2)
    found = adapt_stem_kernels(kernel, branches, (16, 16, 1), 'sample', add_up=True)
    images = np.random.default_rng(1).normal(size=(16, 16, 1))
    np.testing.assert_allclose(
        features(images, found, branches),
        features(images, [kernel], [Patches(8, stride=8)]),
        atol=1e-5,
    )


def test_resizing_is_the_pseudo_inverse_of_the_resized_patch():
    kernel = np.random.default_rng(0).normal(size=(7, 7, 1, 1)).astype(np.float32)
    (found,) = adapt_stem_kernels(kernel, (Patches(4, 2, 7),), GREY, 'resize', add_up=True)
    at, wide = np.linspace(0, 1, 4), np.linspace(0, 1, 7)
    matrix = np.maximum(0, 1 - np.abs(at[:, None] - wide) * 3)
    matrix /= matrix.sum(axis=1, keepdims=True)
    both = np.kron(matrix, matrix)
    expected = np.linalg.lstsq(both.T, kernel.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-5)


WAYS = {
    'dilated': ((Patches(4, 2, 7),), Patches(7, stride=7)),
    'all phases': (Patches(4, 2, 8).phases(2), Patches(8, stride=8)),
    'three dilations, SAME': (
        tuple(Patches(4, dilation, 4, 'SAME') for dilation in (1, 2, 3)),
        Patches(10, stride=4, padding=((3, 3), (3, 3))),
    ),
    'two from one corner': ((Patches(3, 1, 7), Patches(3, 3, 7)), Patches(7, stride=7)),
    'two of one middle': (
        (Patches(3, 1, 7, ((-2, -2), (-2, -2))), Patches(3, 3, 7)),
        Patches(7, stride=7),
    ),
}


@pytest.mark.parametrize(('method', 'sampling'), [('sample', 0.2), ('resize', 0.005)])
@pytest.mark.parametrize('way', WAYS)
def test_constant_and_smooth_images_give_nearly_the_same_features(way, method, sampling):
    """Branches of other windows see other pixels; together they give what the old patch gave.

    Sampling is as far off as a sum over few samples is of a kernel with a peak; at a kernel that
    is straight, next to nothing.
    """
    branches, plain = WAYS[way]
    axis = np.linspace(-1, 1, plain.size[0])
    peak = np.exp(-2 * (axis[:, None] ** 2 + axis**2))
    straight = 1.5 + axis[:, None] + 0 * axis
    kernel = np.stack([peak, straight], axis=-1)[:, :, None].astype(np.float32)
    found = adapt_stem_kernels(kernel, branches, GREY, method, add_up=True)
    rows, columns = np.mgrid[:28, :28] / 28
    for image in (np.ones((28, 28)), np.sin(2 * rows) + np.cos(3 * columns) + 1.5):
        after = features(image[..., None], found, branches)
        before = features(image[..., None], [kernel], [plain])
        inner = inside((*branches, plain), 28)
        error = np.abs(after - before)[inner].max(axis=0) / np.abs(before)[inner].max(axis=0)
        assert inner.sum() >= 9 and error[0] < sampling and error[1] < 0.01


def inside(branches, side):
    """Tokens of which no branch sees padding."""
    index = np.concatenate([patches.pixel_indices((side, side)) for patches in branches], axis=1)
    return ((index >= 0) & (index < side)).all(axis=(1, 2))


def test_a_pixel_that_several_branches_sample_counts_once():
    """The same patches twice: each has half of the kernel."""
    kernel = np.random.default_rng(0).normal(size=(4, 4, 1, 2)).astype(np.float32)
    for method in ('sample', 'resize'):
        for found in adapt_stem_kernels(kernel, (Patches(4, 2, 7),) * 2, GREY, method, add_up=True):
            np.testing.assert_allclose(found, kernel / 2, atol=1e-6)


def test_branches_of_other_strides_that_add_up_have_no_kernel():
    branches = (Patches(4, 1, 4), Patches(4, 2, 3, ((0, 2), (0, 2))))
    assert branches[0].grid((28, 28)) == (7, 7)
    kernel = np.ones((4, 4, 1, 1), np.float32)
    with pytest.raises(UserError, match='of strides 3, 4, so that tokens'):
        adapt_stem_kernels(kernel, branches, GREY, 'sample', add_up=True)
    assert len(adapt_stem_kernels(kernel, branches, GREY, 'sample', add_up=False)) == 2


def test_grey_images_take_the_sum_of_a_kernel_for_colours():
    kernel = np.random.default_rng(0).normal(size=(4, 4, 3, 2)).astype(np.float32)
    (found,) = adapt_stem_kernels(kernel, (Patches(4, stride=4),), GREY, 'sample', add_up=True)
    np.testing.assert_allclose(found, kernel.sum(axis=2, keepdims=True), rtol=1e-6)


# The whole network


def mixer_in_numpy(arrays, images, size, blocks):
    """Mixer of square plain patches and tanh GELU, in float64, from the equations."""
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}

    def dense(name, x):
        return x @ arrays[f'{name}/kernel'] + arrays[f'{name}/bias']

    def mlp(name, x):
        x = dense(f'{name}/Dense_0', x)
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return dense(f'{name}/Dense_1', x)

    def norm(name, x):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        x = (x - mean) / np.sqrt(variance + 1e-6)
        return x * arrays[f'{name}/scale'] + arrays[f'{name}/bias']

    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // size, size, width // size, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)
    kernel = arrays['stem/kernel']
    x = x @ kernel.reshape(-1, kernel.shape[-1]) + arrays['stem/bias']
    for i in range(blocks):
        block = f'MixerBlock_{i}'
        y = norm(f'{block}/LayerNorm_0', x).swapaxes(1, 2)
        x = x + mlp(f'{block}/token_mixing', y).swapaxes(1, 2)
        x = x + mlp(f'{block}/channel_mixing', norm(f'{block}/LayerNorm_1', x))
    return dense('head', norm('pre_head_layer_norm', x).mean(axis=1))


def test_weights_of_the_original_give_the_logits_of_the_equations(arrays):
    images = np.random.default_rng(3).normal(size=(2, *SHAPE))
    kept = resolve({'transfer': {'head': 'keep'}}).transfer
    network = network_of()
    found, _ = adapt_params(Weights(arrays), network, SHAPE, kept, 'f')
    params = unflatten_dict(found, sep='/')
    logits = network.apply({'params': params}, images.astype(np.float32), train=False)
    expected = mixer_in_numpy(arrays, images, 4, 2)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_every_part_of_a_network_of_several_stems_is_fitted(arrays):
    """Branches that add tokens: a stem each, and token mixing over both grids."""
    network = network_of(
        branches=({'dilation': 1}, {'size': 2, 'dilation': 2, 'stride': 8}), branch_merge='tokens'
    )
    found, adapted = adapt_params(Weights(arrays), network, SHAPE, TRANSFER, 'f')
    expected = param_shapes(network, SHAPE)
    head = ('head/kernel', 'head/bias')
    shapes = {name: array.shape for name, array in found.items()}
    assert shapes == {name: shape for name, shape in expected.items() if name not in head}
    np.testing.assert_array_equal(found['stem_0/kernel'], arrays['stem/kernel'])
    assert len(adapted) == 3
