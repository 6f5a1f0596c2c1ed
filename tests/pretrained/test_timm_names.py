"""Weights of timm: names, files, and the same logits where timm is installed."""

import pathlib
import shutil

import chex
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from mixer_dilated import files
from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.pretrained.timm_names import from_timm, is_timm, to_timm
from mixer_dilated.pretrained.weight_files import Weights, encode, read_weights
from mixer_dilated.training.state import create_model
from tests.conftest import refused, refuses
from tests.pretrained.test_adapt import adapt, random_arrays, random_weights

TIMM_FILE = pathlib.Path(__file__).with_name('timm_names.safetensors')  # of 16 tokens
SIZES = {'num_blocks': 2, 'hidden_dim': 16, 'tokens_mlp_dim': 16, 'channels_mlp_dim': 32}
SIZES |= {'patches': {'size': 4, 'stride': 4}}


@pytest.fixture(scope='module')
def torch():
    return pytest.importorskip('torch', reason='files of PyTorch need it')


@pytest.fixture(scope='module')
def mlp_mixer():
    """timm's module, or a skip: it needs torchvision, which is not of the extra test."""
    return pytest.importorskip('timm.models.mlp_mixer', reason='timm is not installed')


def test_every_name_has_its_place_and_its_axes():
    """out × in to in × out, and out × in × height × width to height × width × in × out."""
    arrays = load_file(TIMM_FILE)
    ours = from_timm(arrays)
    assert is_timm(arrays) and not is_timm(ours)
    for timm, linen in {
        'blocks.1.mlp_tokens.fc2.weight': 'MixerBlock_1/token_mixing/Dense_1/kernel',
        'blocks.0.mlp_channels.fc1.weight': 'MixerBlock_0/channel_mixing/Dense_0/kernel',
        'blocks.0.norm1.weight': 'MixerBlock_0/LayerNorm_0/scale',
        'blocks.1.norm2.bias': 'MixerBlock_1/LayerNorm_1/bias',
        'norm.weight': 'pre_head_layer_norm/scale',
        'head.weight': 'head/kernel',
        'head.bias': 'head/bias',
    }.items():
        np.testing.assert_array_equal(ours[linen], arrays[timm].T)
    expected = np.einsum('oihw->hwio', arrays['stem.proj.weight'])
    np.testing.assert_array_equal(ours['stem/kernel'], expected)
    chex.assert_trees_all_equal(to_timm(ours), arrays)


def test_a_file_of_timm_fits_the_network_and_has_the_exact_gelu():
    weights = read_weights(TIMM_FILE)
    assert weights.gelu == 'exact' and weights.model is None
    arrays, notes = adapt(weights, create_model(resolve({'model': SIZES}), 10))
    assert notes == []
    chex.assert_trees_all_equal(arrays, weights.arrays)


@pytest.mark.parametrize('key', ['', 'state_dict', 'model'])
def test_files_of_pytorch_are_read(torch, key, tmp_path):
    state = {f'module.{k}': torch.tensor(a) for k, a in load_file(TIMM_FILE).items()}
    torch.save({key: state, 'epoch': 3} if key else state, tmp_path / 'w.pth')
    weights = read_weights(tmp_path / 'w.pth')
    chex.assert_trees_all_equal(weights.arrays, read_weights(TIMM_FILE).arrays)
    assert weights.gelu == 'exact'


def test_a_number_that_a_file_of_pytorch_repeats_is_bounded(torch, tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'SMALL_ARRAY_BYTES', 1000)
    torch.save({'stem.proj.weight': torch.ones(1).expand(10**5)}, tmp_path / 'w.pth')
    with refuses(tmp_path / 'w.pth', '400000 bytes'):
        read_weights(tmp_path / 'w.pth')


class Evil:
    def __reduce__(self):
        return print, ('executed',)


def test_nothing_in_a_file_of_pytorch_is_executed(torch, tmp_path, capfd):
    torch.save({'stem.proj.weight': Evil()}, tmp_path / 'w.pth')
    with refuses('w.pth: cannot be read'):
        read_weights(tmp_path / 'w.pth')
    assert 'executed' not in capfd.readouterr().out


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_the_folder_of_a_hugging_face_model_is_read(name, tmp_path, request):
    (tmp_path / 'config.json').write_text('{"architecture": "mixer_s16_224"}')
    if name.endswith('.bin'):
        request.getfixturevalue('torch')
        (tmp_path / name).write_bytes(encode(read_weights(TIMM_FILE), '.bin'))
    else:
        shutil.copy(TIMM_FILE, tmp_path / name)
    chex.assert_trees_all_equal(read_weights(tmp_path).arrays, read_weights(TIMM_FILE).arrays)
    assert resolve({'init_from': str(tmp_path)}).model.gelu == 'exact'


def test_convert_writes_the_names_of_timm_and_records_the_network(tmp_path, capsys):
    weights, copied = random_weights(), tmp_path / 'b.safetensors'
    (tmp_path / 'a.safetensors').write_bytes(encode(weights, '.safetensors'))
    words = ['convert', str(tmp_path / 'a.safetensors'), str(copied), '--names=timm']
    assert main(words, 0.0) == 0
    assert 'tanh' in capsys.readouterr().out
    assert is_timm(load_file(copied))
    chex.assert_trees_all_equal(read_weights(copied).arrays, weights.arrays)
    assert read_weights(copied).metadata == weights.metadata
    words[2] = str(tmp_path / 'c.npz')
    line = refused(capsys, *words)
    assert 'c.npz' in line and '.safetensors' in line


@pytest.mark.parametrize('merge', ['channels', 'tokens'])
def test_a_stem_of_several_branches_is_no_network_of_timm(merge):
    arrays = random_arrays(branches=({}, {'size': 2}), branch_merge=merge)
    with refuses('stem', '.npz'):
        encode(Weights(arrays), '.safetensors', timm=True)


def test_without_pytorch_its_files_name_the_way_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('importlib.util.find_spec', lambda _: None)
    (tmp_path / 'w.pth').write_bytes(b'PK')
    with refuses('w.pth', 'pip install torch', '.safetensors'):
        read_weights(tmp_path / 'w.pth')
    line = refused(capsys, 'convert', str(TIMM_FILE), str(tmp_path / 'v.pth'))
    assert 'v.pth' in line and 'pip install torch' in line


def randomize(torch, model):
    """All parameters of a model at random, heads and biases too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn / np.sqrt(parameter[0].numel() if parameter.ndim > 1 else 10))
    return model.eval()


def compare_logits(torch, model, config, image_shape, num_classes, weights):
    """Logits of timm's model and of ours, with the same weights."""
    network = create_model(config, num_classes)
    arrays, _ = adapt(weights, network, image_shape)
    images = np.random.default_rng(1).uniform(-1, 1, (2, *image_shape)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    logits = network.apply({'params': unflatten_dict(arrays, sep='/')}, images, train=False)
    np.testing.assert_allclose(logits, expected, atol=2e-6 * np.abs(expected).max())


def test_logits_are_those_of_timm(torch, mlp_mixer, tmp_path):
    """A small network, by a file that PyTorch writes; there, and back bit for bit."""
    model = mlp_mixer.MlpMixer(
        num_classes=7, img_size=16, patch_size=4, num_blocks=2, embed_dim=16, mlp_ratio=(0.5, 2)
    )
    torch.save(randomize(torch, model).state_dict(), tmp_path / 'w.pth')
    weights = read_weights(tmp_path / 'w.pth')
    config = resolve({'model': {**SIZES, 'tokens_mlp_dim': 8}})
    compare_logits(torch, model, config, (16, 16, 3), 7, weights)
    (tmp_path / 'v.pth').write_bytes(encode(weights, '.pth'))
    again = torch.load(tmp_path / 'v.pth', weights_only=True)
    assert {*again} == {*model.state_dict()}
    for name, tensor in model.state_dict().items():
        assert torch.equal(again[name], tensor), name


@pytest.mark.slow
def test_logits_of_mixer_s16_are_those_of_timm(torch, mlp_mixer):
    """At 224 pixels."""
    model = randomize(torch, mlp_mixer.mixer_s16_224())
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    config = resolve({'model': {**resolve({'model': 'S/16'}).model.to_dict(), 'gelu': 'exact'}})
    weights = Weights(from_timm(state), gelu='exact')
    compare_logits(torch, model, config, (224, 224, 3), 1000, weights)
