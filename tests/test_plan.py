"""Planning: counts by hand, the table of devices, what a compiled program says, the command."""

import json
import math

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer_dilated.benchmark.products import Product
from mixer_dilated.cli.main import main
from mixer_dilated.errors import UserError
from mixer_dilated.planning import measured, this_machine
from mixer_dilated.planning import plan as plan_module
from mixer_dilated.planning.advice import changes_that_help
from mixer_dilated.planning.collectives import Collective
from mixer_dilated.planning.content import plan_content
from mixer_dilated.planning.devices import parse_devices
from mixer_dilated.planning.facts import FACTS, planned_source
from mixer_dilated.planning.hardware import HARDWARE, SLICES, Hardware
from mixer_dilated.planning.links import SharedMemory, Switched, Torus, axis_dimensions
from mixer_dilated.planning.memory import memory_bytes
from mixer_dilated.planning.plan import plan_of
from mixer_dilated.planning.program_text import Exchange, axis_of, exchanges
from mixer_dilated.planning.shapes import shapes_of
from mixer_dilated.planning.share import share_of
from mixer_dilated.reports.plan_table import print_plan
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import create_setup
from tests.conftest import ROOT, run_cli, small_config

# 8×8 digits in 2×2 pixels, 2 apart at stride 4: 4 tokens of 16 channels; every width divides by 8.
TINY = {
    'batch': 64,
    'model.patches.stride': 4,
    'model.num_blocks': 2,
    'model.hidden_dim': 16,
    'model.tokens_mlp_dim': 8,
    'model.channels_mlp_dim': 32,
}
TOKENS, CHANNELS, TOKENS_MLP, CHANNELS_MLP, CLASSES = 4, 16, 8, 32, 10
STEM = 2 * 2 * CHANNELS + CHANNELS
NORM = 2 * CHANNELS
BLOCK = (
    2 * NORM
    + 2 * TOKENS * TOKENS_MLP + TOKENS_MLP + TOKENS
    + 2 * CHANNELS * CHANNELS_MLP + CHANNELS_MLP + CHANNELS
)  # fmt: skip
HEAD = NORM + CHANNELS * CLASSES + CLASSES
PARAMS = STEM + 2 * BLOCK + HEAD

SLOW = Hardware('slow', {'float32': 1e9, 'bfloat16': 1e9}, 2**30, 1.0, 1e9, SharedMemory(1e9),
                elementwise_bandwidth=1e8, seeds_at_once=False)  # fmt: skip


def tiny_plan(devices='v5e:2x4', **changes):
    setup = create_setup(small_config(**{**TINY, **changes}))
    asked = parse_devices(devices)
    return plan_of(setup, shapes_of(setup), asked, HARDWARE.get(asked.kind, SLOW))


def exchanged(plan):
    return {(each.axis, each.kind): each for each, _ in plan.exchanges}


def test_parameters_optimizer_and_images_are_counted_by_hand():
    plan = tiny_plan()
    assert plan.shapes.num_params == PARAMS
    assert plan.memory['parameters'] == 4 * PARAMS
    # Adam's two moments, and two counts of steps.
    assert plan.memory['optimizer'] == 2 * 4 * PARAMS + 2 * 4
    assert plan.memory['data'] == 300 * (64 + 4)
    momentum = tiny_plan(**{'optimizer.name': 'sgd'})
    assert momentum.memory['optimizer'] == 4 * PARAMS + 4


def test_activations_that_the_gradient_keeps_are_counted_by_hand():
    images = 64 // 8
    plan = tiny_plan()
    assert plan.share.images == images
    hidden = TOKENS_MLP * CHANNELS + TOKENS * CHANNELS_MLP
    block = 4 * images * (4 * TOKENS * CHANNELS + 3 * hidden) + 4 * 4 * images * TOKENS
    patches = 4 * images * TOKENS * 4
    assert plan.memory['activations'] == 2 * block + patches
    anew = tiny_plan(**{'model.remat': True})
    one_input = 4 * images * TOKENS * CHANNELS
    assert anew.memory['activations'] == one_input + block + patches
    half = tiny_plan(dtype='bfloat16')
    statistics = 2 * 4 * 4 * images * TOKENS
    assert 2 * (half.memory['activations'] - statistics) == (
        plan.memory['activations'] - statistics
    )


@pytest.mark.parametrize(('devices', 'count'), [('v5e:2x2', 4), ('h100:8', 8), ('v6e:4x4', 16)])
def test_data_parallel_devices_add_up_every_gradient(devices, count):
    found = exchanged(tiny_plan(devices))
    assert list(found) == [('data', 'all-reduce')]
    assert found['data', 'all-reduce'].sent_bytes == 2 * (count - 1) * 4 * PARAMS // count


def test_fully_sharded_devices_gather_twice_and_scatter_once():
    plan = tiny_plan(**{'mesh.fsdp': True})
    # Kernels of the stem, of the MLPs and of the head; biases and LayerNorm stay whole.
    split = (
        2 * 2 * CHANNELS
        + 2 * (2 * TOKENS * TOKENS_MLP + 2 * CHANNELS * CHANNELS_MLP)
        + CHANNELS * CLASSES
    )
    found = exchanged(plan)
    assert found['data', 'all-gather'].sent_bytes == 2 * 7 * 4 * split // 8
    assert found['data', 'reduce-scatter'].sent_bytes == 7 * 4 * split // 8
    assert found['data', 'all-reduce'].sent_bytes == 2 * 7 * 4 * (PARAMS - split) // 8
    assert plan.memory['parameters'] == 4 * (PARAMS - split + split // 8)
    split_microbatches = exchanged(tiny_plan(**{'mesh.fsdp': True, 'accum_steps': 4}))
    for key, each in found.items():
        assert split_microbatches[key].array_bytes == 4 * each.array_bytes


def test_devices_that_split_the_mlps_add_up_their_outputs():
    plan = tiny_plan(**{'mesh.model': 2})
    images = 64 // 4
    tokens = 4 * images * TOKENS * CHANNELS
    found = exchanged(plan)
    assert found['model', 'all-reduce'].array_bytes == 2 * 4 * tokens
    anew = exchanged(tiny_plan(**{'mesh.model': 2, 'model.remat': True}))
    assert anew['model', 'all-reduce'].array_bytes == 2 * 5 * tokens
    whole = tiny_plan('v5e:2x2')
    assert whole.share.images == images
    # The MLPs' products and nothing else are halved.
    others = 3 * 2 * images * (TOKENS * 4 * CHANNELS + CHANNELS * CLASSES)
    others -= 2 * images * TOKENS * 4 * CHANNELS  # no gradient of the images
    assert 2 * (plan.work.flops - others) == whole.work.flops - others


def test_products_are_nearly_all_that_the_compiler_counts():
    """A network with few numbers between its products; the plan counts these alone."""
    wide = {'model.hidden_dim': 32, 'model.tokens_mlp_dim': 64, 'model.channels_mlp_dim': 128}
    planned, compiled = [], []
    for remat in (False, True):
        changes = {**wide, 'model.remat': remat, 'optimizer.name': 'sgd'}
        setup = tiny_plan('cpu:1', **changes).setup
        planned.append(tiny_plan('cpu:1', **changes).work.flops)
        program = CompiledFunctions.for_devices(setup, jax.devices()[:1]).train_function()
        compiled.append(program.cost_analysis()['flops'])
    assert 1 <= compiled[0] / planned[0] < 1.25
    # What is computed anew, by itself: all of a block but its last product.
    assert 1 <= (compiled[1] - compiled[0]) / (planned[1] - planned[0]) < 1.35


def test_gradients_of_products_are_added_up_in_the_dtype_of_the_computation():
    found, half = (exchanged(tiny_plan(dtype=dtype)) for dtype in ('float32', 'bfloat16'))
    in_float32 = 2 * 2 * NORM + HEAD
    assert found['data', 'all-reduce'].array_bytes == 4 * PARAMS
    assert half['data', 'all-reduce'].array_bytes == 4 * in_float32 + 2 * (PARAMS - in_float32)


def test_seeds_share_devices_and_exchange_nothing():
    plan = tiny_plan(num_seeds=8)
    assert plan.share.mesh_shape == {'seeds': 8, 'data': 1, 'model': 1}
    assert plan.exchanges == ()
    two = tiny_plan('v5e:2x2', num_seeds=8)
    assert two.memory['parameters'] == 2 * plan.memory['parameters']
    assert two.memory['activations'] == 2 * plan.memory['activations']
    assert two.work.flops == 2 * plan.work.flops
    in_turns = tiny_plan('cpu:4', num_seeds=8)
    assert in_turns.memory['activations'] == plan.memory['activations']


def test_streamed_images_are_some_batches_of_the_device():
    setup = create_setup(small_config(**TINY))
    shapes = shapes_of(setup)
    share = share_of(setup, shapes, 8)
    found = memory_bytes(setup, shapes, share, 3, on_cpu=False)
    assert found['data'] == 3 * (64 // 8) * (64 + 4)


def test_a_step_takes_what_the_roofline_says():
    plan = tiny_plan('cpu:8', **{'mesh.model': 2})
    work = plan.work
    arrays = sum(
        4 * count * (each.rows * each.inner + each.inner * each.columns + each.rows * each.columns)
        for each, count in work.products.items()
    )
    assert work.memory_bytes == arrays + work.elementwise_bytes + work.update_bytes
    products = sum(
        count
        * max(
            2 * each.rows * each.inner * each.columns / 1e9,
            4 * (each.rows * each.inner + each.inner * each.columns + each.rows * each.columns)
            / 1e9,
        )
        for each, count in work.products.items()
    )  # fmt: skip
    assert plan.seconds['products'] == pytest.approx(products)
    assert plan.seconds['elementwise'] == pytest.approx(work.elementwise_bytes / 1e8)
    state = plan.memory['parameters'], plan.memory['optimizer']
    assert plan.seconds['update'] == pytest.approx((4 * state[0] + 2 * state[1]) / 1e9)
    data, model = plan.exchanging('data'), plan.exchanging('model')
    assert data > 0 and model > 0
    assert plan.step == max(plan.computing, data) + model
    assert plan.step_in_turn == pytest.approx(plan.computing + data + model)
    assert plan.images_per_second == pytest.approx(64 / plan.step)
    assert plan.run == plan.setup.total_steps * plan.step


def test_links_carry_what_their_shape_lets_them():
    reduce = Collective('data', 'all-reduce', 'gradients', 16_000, 16)
    torus = Torus(SLICES, link_bandwidth=100.0, ring=16)
    # A line of 16 on an axis of rings: both ways around; a grid of 4×4: one way along each line.
    assert reduce.seconds(torus, ((16, 200.0),)) == pytest.approx(2 * 15_000 / 200)
    assert torus.dimensions((4, 4)) == ((4, 100.0), (4, 100.0))
    assert reduce.seconds(torus, torus.dimensions((4, 4))) == pytest.approx(2 * 15_000 / 200)
    assert torus.dimensions((16, 16))[0] == (16, 200.0)
    # Within nodes of 8, then what is left of the sum between the two nodes.
    nodes = Switched(node=8, node_bandwidth=1000.0, bandwidth=100.0)
    fastest_first = nodes.dimensions((2, 8))[::-1]
    within, between = 2 * 7 / 8 * 16_000 / 1000, 2 * 1 / 2 * 2_000 / 100
    assert reduce.seconds(nodes, fastest_first) == pytest.approx(within + between)


@pytest.mark.parametrize(
    ('slice_', 'mesh', 'lies'),
    [
        # A dimension of its size for 'model', the other whole for 'data'.
        ((2, 4), {'data': 4, 'model': 2}, {'data': ((4, 50.0),), 'model': ((2, 50.0),)}),
        # Half of a line; the two halves of 'data' along it share its links.
        ((4, 4), {'data': 8, 'model': 2}, {'data': ((2, 25.0), (4, 50.0)), 'model': ((2, 50.0),)}),
        ((16, 16), {'data': 64, 'model': 4},
         {'data': ((4, 25.0), (16, 100.0)), 'model': ((4, 50.0),)}),
        # 'data' is cut out of what 'model' leaves, whose links are shared.
        ((8, 8), {'seeds': 16, 'data': 2, 'model': 2},
         {'seeds': ((2, 12.5), (8, 50.0)), 'data': ((2, 25.0),), 'model': ((2, 50.0),)}),
        ((4, 4), {'data': 16, 'model': 1}, {'data': ((4, 50.0), (4, 50.0)), 'model': ()}),
    ],
)  # fmt: skip
def test_axes_of_a_mesh_share_the_links_of_a_torus(slice_, mesh, lies):
    assert axis_dimensions(Torus(SLICES, 50.0, ring=16), slice_, mesh) == lies


def test_an_axis_stays_within_a_node_where_it_can():
    nodes = Switched(node=8, node_bandwidth=450.0, bandwidth=50.0)
    found = axis_dimensions(nodes, (2, 8), {'data': 8, 'model': 2})
    assert found == {'model': ((2, 450.0),), 'data': ((4, 450.0), (2, 50.0))}


@given(
    slice_=st.sampled_from(SLICES), exponents=st.lists(st.integers(0, 8), min_size=2, max_size=2)
)
def test_every_mesh_lies_on_its_network(slice_, exponents):
    count = math.prod(slice_)
    model = min(2 ** exponents[0], count)
    data = min(2 ** exponents[1], count // model)
    mesh = {'seeds': count // model // data, 'data': data, 'model': model}
    found = axis_dimensions(HARDWARE['v5e'].links, slice_, mesh)
    for name, size in mesh.items():
        assert math.prod(devices for devices, _ in found[name]) == size


def test_the_table_has_a_source_for_every_device():
    for hardware in HARDWARE.values():
        assert hardware.peak_flops.keys() == {'float32', 'bfloat16'}
        assert hardware.sources and all(url.startswith('https://') for _, url in hardware.sources)
        assert 0 < hardware.usable <= 1


@pytest.mark.parametrize(
    ('word', 'shape'),
    [('v5e:4x4', (4, 4)), ('v6e:256', (16, 16)), ('h100:8', (1, 8)), ('H200:32', (4, 8)),
     ('cpu:8', (8,)), ('this', (1,)), ('v5e:1', (1, 1))],
)  # fmt: skip
def test_words_for_devices_are_read(word, shape):
    assert parse_devices(word).shape == shape
    assert parse_devices(word).count == math.prod(shape)


@pytest.mark.parametrize(
    ('word', 'said'),
    [
        ('v9:3', 'no such device; known are v5e, v6e, h100, h200, cpu and this'),
        ('v5e', 'no such number of v5e; allowed: 1x1, 2x2, 2x4'),
        ('v5e:3x3', 'allowed: 1x1'),
        ('h100:12', 'a number up to 8, or a multiple of 8'),
        ('cpu:0', 'a number up to 1024'),
        ('cpu:-1', 'a number up to 1024'),
        ('cpu:٣', 'a number up to 1024'),
        ('this:2', 'no such device'),
    ],
)
def test_other_words_are_refused_with_what_is_known(word, said):
    with pytest.raises(UserError, match=f'--devices={word}: ') as refusal:
        parse_devices(word)
    assert said in str(refusal.value) and 'for example v5e:4x4' in str(refusal.value)


def test_a_mesh_that_does_not_fit_is_refused_as_in_training():
    with pytest.raises(UserError, match=r'config.mesh.model = 3: does not divide the 8 devices'):
        tiny_plan(**{'mesh.model': 3})
    with pytest.raises(UserError, match=r'config.batch = 60: 8 devices do not divide it'):
        tiny_plan(batch=60)


def test_what_is_known_of_mnist_is_true(mnist):
    known = planned_source(small_config(**{'dataset.name': 'mnist'}).dataset)
    dataset = small_config(**{'dataset.name': 'mnist', 'dataset.data_dir': mnist}).dataset
    from mixer_dilated.data.datasets import open_dataset

    prepared = open_dataset(dataset)
    for fact in ('image_shape', 'stored_shape', 'num_classes', 'split_sizes'):
        assert getattr(known, fact) == getattr(prepared, fact)


def test_data_that_is_not_here_is_planned_for_or_refused_but_not_downloaded():
    larger = {'dataset.name': 'cifar10', 'dataset.image_size': 224}
    source = planned_source(small_config(**larger).dataset)
    assert (source.image_shape, source.stored_shape) == ((224, 224, 3), (32, 32, 3))
    with pytest.raises(UserError, match=r'dataset.image_size = 0.*of several sizes'):
        planned_source(small_config(**{'dataset.name': 'imagenet2012'}).dataset)
    with pytest.raises(UserError, match=f'downloads nothing; known .* {", ".join(FACTS)}'):
        planned_source(small_config(**{'dataset.name': 'svhn_cropped'}).dataset)
    with pytest.raises(UserError, match='no such data set'):
        planned_source(small_config(**{'dataset.name': 'no_such_set'}).dataset)


def test_changes_are_planned_until_the_network_fits(capsys):
    plan = tiny_plan(**{'model.dropout_rate': 0.1})
    assert plan.fits

    def with_memory(size):
        less = Hardware(**{**vars(HARDWARE['v5e']), 'memory_bytes': size, 'usable': 1.0})
        return plan_of(plan.setup, plan.shapes, plan.devices, less)

    tight = with_memory(plan.total_bytes - 1)
    assert not tight.fits
    changes = changes_that_help(tight)
    assert any(change.plan.fits for change in changes)
    assert {'model.remat': True} in [change.values for change in changes]
    everything = changes_that_help(with_memory(1))
    assert not any(change.plan.fits for change in everything)
    print_plan('tiny', plan_content(with_memory(1), everything))
    assert 'Nothing that was tried fits' in capsys.readouterr().out
    least = min(change.plan.total_bytes for change in everything)
    together = changes_that_help(with_memory(least - 1))
    assert len(together[-1].values) > 1 and together[-1].plan.fits


HLO = """
HloModule of_all
%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %all-reduce.1 = (f32[8]{0}, bf16[2,3]{1,0}) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}
  ROOT %tuple = (s32[], f32[8]) tuple(%a, %b)
}
%steps (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %while.2 = (s32[], f32[8]) while(%t), body=%body.1, backend_config={"known_trip_count":{"n":"3"}}
  %all-gather.4 = f32[64]{0} all-gather(%x), replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}
  %all-gather.5 = f32[64]{0} all-gather(%x), replica_groups=mesh['a'=2,'b'=2] {'a'}
  %reduce-scatter.6 = f32[4]{0} reduce-scatter(%y), replica_groups=mesh['a'=4] {'a':(2)2}
  %all-reduce.7 = f32[] all-reduce(%z), replica_groups={{0},{1},{2},{3}}, to_apply=%add
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %while.9 = (s32[], f32[8]) while(%t), condition=%c2, body=%steps
}
"""


def test_collectives_are_read_from_a_program_with_their_rounds_and_axes():
    mesh_shape = {'seeds': 1, 'data': 2, 'model': 2}
    found = exchanges(HLO)
    assert found == [
        Exchange('all-reduce', 4 * 8 + 2 * 6, ((0, 1), (2, 3)), 3),
        Exchange('all-gather', 256, ((0, 2), (1, 3)), 1),
        Exchange('all-gather', 256, ((0, 2), (1, 3)), 1),
        Exchange('reduce-scatter', 2 * 16, ((0, 1), (2, 3)), 1),
    ]
    assert [axis_of(each, mesh_shape) for each in found] == ['model', 'data', 'data', 'model']


def test_the_compiled_program_takes_the_memory_and_exchanges_that_are_planned(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(plan_module, 'this_machine', lambda dtype, array_bytes: SLOW)
    file = tmp_path / 'plan.json'
    status = main(
        ['plan', '--config=configs/digits_dilated.py', '--devices=cpu:8', '--against=compiled',
         '--config.batch=256', '--config.mesh.model=2', '--config.model.num_blocks=2',
         f'--json={file}'], 0.0,
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert status == 0, err
    assert (
        max(len(line) for line in out.splitlines() if str(file) not in line) <= 80
        and 'planned / compiled' in out
    )
    (plan,) = json.loads(file.read_text())['plans']
    compiled, memory = plan['compiled'], plan['memory']
    state = memory['parameters'] + memory['optimizer'] + memory['data']
    assert compiled['arguments'] == pytest.approx(state, rel=0.01)
    assert compiled['temporary'] == pytest.approx(plan['total_bytes'] - state, rel=0.25)
    for each in plan['exchanges']:
        found = compiled['exchanged'][each['axis']][each['kind']]
        assert found == pytest.approx(each['array_bytes'], rel=0.05)
    assert set(compiled['exchanged']) <= {'data', 'model'}


@pytest.mark.parametrize('devices', ['v5e:4x4', 'v5e:2x4,h100:256'])
def test_the_command_prints_80_columns_and_says_what_does_not_fit(devices, tmp_path, capsys):
    file = tmp_path / 'plan.json'
    words = ['--config=configs/imagenet2012_s16.py', f'--devices={devices}', f'--json={file}']
    assert main(['plan', *words], 0.0) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if str(file) not in line) <= 80
    assert 'An estimate' in out
    found = json.loads(file.read_text())
    assert found['config']['batch'] == 4096 and found['name'] == 'imagenet2012_s16'
    plans = found['plans']
    assert [plan['devices']['asked'] for plan in plans] == devices.split(',')
    for plan in plans:
        assert plan['num_params'] == 18_528_264 and plan['num_tokens'] == 196
        assert plan['total_bytes'] == sum(plan['memory'].values())
        assert plan['fits'] == (plan['total_bytes'] <= plan['devices']['usable_bytes'])
        assert plan['seconds']['step'] <= plan['seconds']['step_in_turn']
        assert plan['devices']['sources'] and plan['assumptions']
    if len(plans) == 1:
        assert not plans[0]['fits'] and plans[0]['changes']
        assert 'It does not fit' in out and 'config.model.remat=True' in out
        assert 'docs.cloud.google.com/tpu/docs/v5e' in out


def test_images_a_device_make_the_batch(tmp_path, capsys):
    file = tmp_path / 'plan.json'
    words = ['--config=configs/imagenet2012_s16.py', '--devices=v5e:4x4,v5e:16x16']
    assert main(['plan', *words, '--batch_per_device=32', f'--json={file}'], 0.0) == 0
    assert [plan['batch'] for plan in json.loads(file.read_text())['plans']] == [512, 8192]


def test_this_machine_is_measured_and_so_is_a_step(monkeypatch, capsys):
    monkeypatch.setattr(this_machine, 'large_product', lambda: Product(64, 64, 64))
    monkeypatch.setattr(measured, 'TURN_SECONDS', 0.0)
    words = ['plan', '--config=configs/digits_dilated.py', '--config.model.num_blocks=1']
    assert main([*words, '--devices=this', '--against=measured'], 0.0) == 0
    out = capsys.readouterr().out
    assert 'this machine, measured' in out and 'Measured on random images' in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--devices=v9:3'], 'known are v5e'),
        ([], '--devices is missing'),
        (['--devices=v5e:4x4', '--against=timed'], 'allowed are compiled, measured'),
        (['--devices=v5e:4x4', '--against=measured'], 'add --devices=this'),
        (['--devices=v5e:4x4', '--batch_per_device=0'], 'allowed is an integer from 1'),
        (['--devices=v5e:4x4', '--json=no/such/folder.json'], 'no such folder'),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_line(words, said, capsys):
    assert main(['plan', '--config=configs/digits_dilated.py', *words], 0.0) == 2
    assert said in capsys.readouterr().err


def test_a_plan_needs_no_device_and_no_data():
    done = run_cli(
        'plan', f'--config={ROOT / "configs" / "imagenet2012_s16.py"}', '--devices=h100:8',
        JAX_PLATFORMS='none_such', TFDS_DATA_DIR='/nowhere',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'NVIDIA H100' in done.stdout and done.stderr == ''
