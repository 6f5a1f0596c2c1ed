"""The benchmark: counts by hand, forms that do the same work, memory as predicted, its command."""

import contextlib
import dataclasses
import io
import json
import sys

import chex
import jax
import numpy as np
import pytest

from mixer_dilated.benchmark import measure
from mixer_dilated.benchmark.forms import TimedForward, TimedPlainFlax
from mixer_dilated.benchmark.processes import peak_bytes
from mixer_dilated.benchmark.products import (
    Product,
    TimedProduct,
    flops,
    forward_products,
    training_products,
)
from mixer_dilated.benchmark.torch_mixer import TimedTorch, mixer
from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.errors import InputError
from mixer_dilated.models.costs import flops_per_image, layers
from mixer_dilated.models.mixer import mixer_from_config
from mixer_dilated.training.task import open_task
from mixer_dilated.training.timing import TimedEpoch, on_noise, seconds_in_turns
from tests.conftest import ROOT, config_of, small_config


def test_products_of_a_step_are_counted_by_hand():
    config = resolve(config_of(ROOT / 'configs' / 'mnist_dilated.py'))
    found = layers(mixer_from_config(config.model, 10), (28, 28, 1))
    forward, training = forward_products(found, 128), training_products(found, 128)
    token, channel, rows = 16, 64, 128 * 16
    stem, head = Product(rows, 16, 64), Product(128, 64, 10)
    blocks = {
        Product(128 * channel, token, 64): 4,
        Product(128 * channel, 64, token): 4,
        Product(rows, channel, 128): 4,
        Product(rows, 128, channel): 4,
    }
    assert forward == {stem: 1, head: 1, **blocks}
    assert flops(forward) == 128 * flops_per_image(found)
    assert flops(training) == 3 * flops(forward) - stem.flops
    assert training[Product(channel, rows, 128)] == 4  # a kernel's gradient


def test_a_product_alone_is_computed_as_often_as_it_is_counted():
    product = Product(3, 4, 5)
    timed = TimedProduct(product, 'float32', milliseconds=1)
    left, right = timed._factors
    np.testing.assert_allclose(timed._repeat(left, right, 1), left @ right, rtol=1e-6)
    program = timed._repeat.lower(left, right, 7).compile().as_text()
    assert 'while' in program and timed.seconds() > 0
    assert product.flops == 120


@pytest.fixture(scope='module')
def task():
    return on_noise(open_task(small_config()), (8, 8), steps=2)


def test_noise_of_another_size_keeps_the_network_and_gives_whole_batches(task):
    assert task.steps_per_epoch == 2 and task.source.image_shape == (8, 8, 1)
    images, labels = task.source.read('train')
    chex.assert_shape(images, (64, 8, 8, 1))
    assert images.dtype == np.uint8 and set(labels) <= set(range(10))
    with pytest.raises(InputError, match=r'does not fit|nothing but padding'):
        on_noise(open_task(small_config(**{'model.patches.padding': 'VALID'})), (2, 2), 1)


def test_all_forms_train_the_same_batches(task):
    """What is timed side by side does the same work: as many steps of the same network."""
    sgd = small_config(**{'optimizer.name': 'sgd', 'optimizer.base_lr': 0.01})
    task = on_noise(open_task(sgd), (8, 8), steps=2)
    examples = task.source.read('train')
    plain, fast = TimedPlainFlax(task, examples), TimedEpoch(task, examples)
    forward = TimedForward(task, examples)
    for timed in (plain, fast, forward):
        assert timed.seconds() > 0 and timed.compile_seconds > 0
    # Two epochs each; the fast one in the order of its permutations.
    assert int(plain._state.step) == int(fast._state.step[0]) == 4
    chex.assert_trees_all_equal_shapes(
        plain._state.params, jax.tree.map(lambda leaf: leaf[0], fast._state.params)
    )


@pytest.mark.parametrize(
    'changes',
    [
        {'model.phases': 2},
        {'model.blur': True},
        {'model.dropout_rate': 0.1},
        {'model.stoch_depth': 0.1},
        {'augment.random_phase': True},
        {'model.branches': ({'dilation': 1}, {'dilation': 2})},
    ],
    ids=str,
)
def test_what_the_plain_network_lacks_is_refused_by_name(changes):
    task = open_task(small_config(**changes))
    (key,) = changes
    with pytest.raises(InputError, match=f'config.{key}: .* leave --against out'):
        TimedPlainFlax(task, None)


def test_turns_are_taken_round_by_round():
    order = []

    @dataclasses.dataclass
    class Noted:
        name: str

        def seconds(self):
            order.append(self.name)
            return float(len(order))

    found = seconds_in_turns({name: Noted(name) for name in 'ab'}, rounds=3)
    assert order == list('ababab') and found == {'a': [1, 3, 5], 'b': [2, 4, 6]}


def test_predicted_memory_is_within_20_percent_of_the_measured():
    config = small_config(
        batch=512, **{'model.hidden_dim': 128, 'model.channels_mlp_dim': 256,
                      'dataset.train_split': 'train[:512]'}
    )  # fmt: skip
    found = peak_bytes(open_task(config), steps=2)
    if found['measured'] is None:
        pytest.skip('the system does not tell a process its peak memory')
    assert found['predicted'] > 10 * 2**20
    assert abs(found['predicted'] / found['measured'] - 1) < 0.2


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """A whole benchmark from the command line, its rounds shortened: what it printed and wrote."""
    folder = tmp_path_factory.mktemp('benchmark')
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(measure, 'ROUNDS', 2)
        patch.setattr(measure, 'TURN_SECONDS', 0.005)
        status = main(
            [
                'benchmark',
                '--config=configs/digits_dilated.py',
                '--config.model.num_blocks=1',
                '--config.model.hidden_dim=8',
                '--against=reference',
                f'--json={folder / "speed.json"}',
            ],
            0.0,
        )
    assert status == 0
    return printed.getvalue(), json.loads((folder / 'speed.json').read_text())


def test_the_benchmark_measures_every_form_in_every_round(measured):
    _, found = measured
    of_config = found['configs']['digits_dilated']
    forms = ['training, float32', 'forward, float32', 'training, bfloat16', 'forward, bfloat16']
    assert list(of_config['compile_seconds']) == [*forms, '8 seeds', 'plain Flax']
    assert {len(rounds) for rounds in of_config['rounds'].values()} == {2}
    assert all(each > 0 for rounds in of_config['rounds'].values() for each in rounds)
    assert set(of_config['large_product']) == {'float32', 'bfloat16'}
    assert {'cold', 'warm'} == set(of_config['start_up'])
    assert [row['image_size'] for row in of_config['resolutions']][-2:] == [[8, 8], [16, 16]]
    assert of_config['memory']['predicted'] > 0 and of_config['notes'] == []


def test_the_benchmark_prints_what_it_wrote_in_80_columns(measured):
    text, found = measured
    lines = [line for line in text.splitlines() if not line.startswith('json:')]
    assert max(map(len, lines)) <= 80
    of_config = found['configs']['digits_dilated']
    for form in ('training  ', 'forward  ', 'training bf16', '8 seeds  ', 'plain Flax'):
        assert sum(line.startswith(form) for line in lines) == 1, form
    median = np.median(of_config['rounds']['plain Flax']) * 1e3
    (row,) = (line for line in lines if line.startswith('plain Flax'))
    assert f' {median:.3g} ' in row
    ratios = np.divide(of_config['rounds']['plain Flax'], of_config['rounds']['training, float32'])
    assert f'takes {np.median(ratios):.2f} times' in ' '.join(text.split())
    assert f'{of_config["start_up"]["cold"]:.1f} s with empty caches' in ' '.join(text.split())


def test_torch_is_asked_for_by_name_where_it_is_missing(task, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(InputError, match='pip install torch'):
        TimedTorch(task, task.source.read('train'), compiled=False)


def test_the_network_of_torch_is_the_same():
    torch = pytest.importorskip('torch', reason='an optional extra: pip install torch==2.13.0')
    task = on_noise(open_task(small_config(**{'model.num_blocks': 2})), (8, 8), steps=1)
    network = mixer(torch, task)
    model = mixer_from_config(task.config.model, 10)
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    params = model.init(jax.random.key(0), images, train=False)['params']
    params['head']['kernel'] = jax.random.normal(jax.random.key(1), params['head']['kernel'].shape)
    with torch.no_grad():
        copy_parameters(torch, network, params)
        found = network(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    expected = model.apply({'params': params}, images, train=False)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def copy_parameters(torch, network, params):
    def set_to(parameter, value):
        parameter.copy_(torch.from_numpy(np.array(value)))

    def linear(module, dense):
        set_to(module.weight, dense['kernel'].T)
        set_to(module.bias, dense['bias'])

    def norm(module, values):
        set_to(module.weight, values['scale'])
        set_to(module.bias, values['bias'])

    set_to(network.stem.weight, params['stem']['kernel'].transpose(3, 2, 0, 1))
    set_to(network.stem.bias, params['stem']['bias'])
    for i, block in enumerate(network.blocks):
        of_block = params[f'MixerBlock_{i}']
        norm(block.norm_0, of_block['LayerNorm_0'])
        norm(block.norm_1, of_block['LayerNorm_1'])
        for name in ('token_mixing', 'channel_mixing'):
            first, _, second = getattr(block, name)
            linear(first, of_block[name]['Dense_0'])
            linear(second, of_block[name]['Dense_1'])
    norm(network.norm, params['pre_head_layer_norm'])
    linear(network.head, params['head'])
