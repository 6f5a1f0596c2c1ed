"""Planning: what HLO text says, links, devices, the largest batch, changes, and the command."""

import importlib.util
import json
import math

import pytest

from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.data.dataset_facts import FACTS, abstract_dataset
from mixer_dilated.errors import UserError
from mixer_dilated.parallel.mesh import mesh_sizes
from mixer_dilated.planning import compiler, this_machine
from mixer_dilated.planning.devices import HARDWARE, Devices, Hardware, parse_devices
from mixer_dilated.planning.hlo import Exchange, Program, part_of
from mixer_dilated.planning.interconnect import Switched, Torus
from mixer_dilated.planning.plan import changes_that_help, find_largest_batch, make_plan
from mixer_dilated.planning.programs import compile_programs
from mixer_dilated.reports.tables.plan_table import print_plan
from mixer_dilated.training.setup import create_setup
from tests.conftest import CONFIG_FILES, ROOT, config_of, run_cli, small_config

HERE = Hardware('slow', {'float32': 1e9, 'bfloat16': 1e9}, 2**30, 2**30, 1e9)

# A loop over steps, which stops at an argument, and in it a loop of eight rounds.
TPU = """HloModule jit_of_all, is_scheduled=true, num_partitions=4

%eight (p: (u32[], f32[8])) -> pred[] {
  %constant.1 = u32[] constant(8)
  %get.1 = u32[] get-tuple-element(%p), index=0
  ROOT %compare.1 = pred[] compare(%get.1, %constant.1), direction=LT
}

%round (p: (u32[], f32[8])) -> (u32[], f32[8]) {
  %p = (u32[], f32[8]) parameter(0)
  ROOT %fusion.1 = (u32[], f32[8]) fusion(%p), kind=kLoop, calls=%any, metadata={op_name="jit(of_all)/while/body/jvp(Mixer)/MixerBlock_1/token_mixing/dot_general"}, backend_config={"window_config":{"estimated_cycles":"10"}}
}

%gathers (p: f32[4]) -> (f32[4], f32[16]) {
  %p.2 = f32[4] parameter(0)
  ROOT %all-gather.1 = f32[16] all-gather(%p.2), replica_groups=mesh['a'=2,'b'=2] {'b'}, dimensions={0}
}

%step (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %while.1 = (u32[], f32[8]) while(%t), condition=%eight, body=%round
  %async-collective-start.1 = (f32[4], f32[16]) fusion(%x), kind=kCustom, calls=%gathers
  %fusion.2 = f32[8] fusion(%x), kind=kOutput, calls=%any, metadata={op_name="jit(of_all)/while/body/transpose(jvp(Mixer))/head/dot_general"}, backend_config={"window_config":{"estimated_cycles":"7"}}
  %async-collective-done.1 = f32[16] fusion(%y), kind=kCustom, calls=%gathers
  %all-reduce.1 = (f32[8], bf16[2,3]) all-reduce(%x, %z), replica_groups={{0,2},{1,3}}, to_apply=%add
  %collective-permute.1 = f32[8] collective-permute(%x), source_target_pairs={{0,0},{1,1},{2,2},{3,3}}
  %collective-permute.2 = f32[8] collective-permute(%x), source_target_pairs={{0,0},{1,1},{3,2},{2,3}}
  ROOT %copy.1 = f32[8] copy(%x), backend_config={"window_config":{"estimated_cycles":"9223372036854775807"}}
}

%any_number (p: (s32[], f32[8])) -> pred[] {
  ROOT %compare.2 = pred[] compare(%get.2, %get.3), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %copy.2 = f32[8] copy(%p), backend_config={"window_config":{"estimated_cycles":"1000"}}
  ROOT %while.2 = (s32[], f32[8]) while(%t), condition=%any_number, body=%step
}
"""  # noqa: E501

GPU = """HloModule jit_of_all, is_scheduled=true, num_partitions=8

%takes (param_0: u8[1000,4], param_1: s32[2]) -> u8[2,4] {
  %param_0 = u8[1000,4]{1,0} parameter(0)
  %param_1 = s32[2]{0} parameter(1)
  ROOT %gather.1 = u8[2,4]{1,0} gather(%param_0, %param_1), offset_dims={1}
}

ENTRY %main (images: u8[1000,4], rows: s32[2], x: f32[4]) -> f32[4] {
  %images = u8[1000,4]{1,0} parameter(0)
  %rows = s32[2]{0} parameter(1)
  %x = f32[4]{0} parameter(2)
  %fusion.1 = u8[2,4]{1,0} fusion(%images, %rows), kind=kLoop, calls=%takes, metadata={op_name="jit(of_all)/while/body/gather"}
  %all-gather-start = (f32[4]{0}, f32[32]{0}) all-gather-start(%x), replica_groups=[1,8]<=[8], dimensions={0}
  %gemm.1 = f32[4]{0} custom-call(%x), custom_call_target="gemm", metadata={op_name="jit(of_all)/while/body/jvp(Mixer)/stem/dot_general"}
  %all-gather-done = f32[32]{0} all-gather-done(%all-gather-start)
  %reduce-scatter-start = (f32[32]{0}, f32[4]{0}) reduce-scatter-start(%all-gather-done), replica_groups=[1,8]<=[8], to_apply=%add
  %reduce-scatter-done = f32[4]{0} reduce-scatter-done(%reduce-scatter-start)
  ROOT %bitcast.1 = f32[4]{0} bitcast(%reduce-scatter-done)
}
"""  # noqa: E501


def test_cycles_of_a_step_are_added_up_with_the_rounds_of_its_loops():
    program = Program(TPU)
    assert program.has_cycles
    by_part = {part_of(name): times * cycles for name, times, cycles in program.costs()}
    # What is done once a chunk, and estimates that are not known, are not of a step.
    assert by_part == {'token_mixing': 80, 'head': 7}


def test_exchanges_are_read_with_their_axes_and_what_goes_on_meanwhile():
    gather, reduce, permute = Program(TPU).exchanges()
    assert gather == Exchange('all-gather', 64, [0, 1], 1, is_async=True)
    assert reduce == Exchange('all-reduce', 32 + 12, [0, 2], 1, is_async=False)
    mesh_shape = {'seeds': 1, 'data': 2, 'model': 2}
    axes = [exchange.axis(mesh_shape) for exchange in (gather, reduce, permute)]
    # Only between devices 2 and 3, and of the others not at all.
    assert axes == ['model', 'data', 'model'] and permute.group == [2, 3]


def test_a_pair_with_a_kernel_between_its_halves_is_asynchronous():
    everyone = list(range(8))
    gather, scatter = Program(GPU).exchanges()
    assert gather == Exchange('all-gather', 128, everyone, 1, is_async=True)
    assert scatter == Exchange('reduce-scatter', 128, everyone, 1, is_async=False)


def test_kernels_read_and_write_their_arrays_and_of_images_what_they_gather():
    program = Program(GPU)
    assert not program.has_cycles
    assert [(part_of(name), times, size) for name, times, size in program.costs()] == [
        ('input', 1, 8 + 8 + 8),
        ('stem', 1, 16 + 16),
    ]


@pytest.mark.parametrize(
    ('op_name', 'part'),
    [
        ('', 'copies'),
        ('jit(of_all)/while/body/gather', 'input'),
        ('jit(of_all)/while/body/augment/jit(_uniform)/sub', 'augment'),
        ('jit(of_all)/while/body/optimizer/cond/branch_1_fun/add', 'optimizer'),
        ('jit(of_all)/while/body/jvp(jit(log_softmax))/sub', 'loss, pooling'),
        ('jvp(Mixer)/MixerBlock_3/LayerNorm_0/mul', 'LayerNorm'),
        ('jvp(Mixer)/pre_head_layer_norm/mul', 'LayerNorm'),
        ('jvp(Mixer)/MixerBlock_3/transpose', 'residuals, layout'),
    ],
)
def test_operations_belong_to_parts_of_the_network(op_name, part):
    assert part_of(op_name) == part


def test_links_carry_what_their_shape_lets_them():
    torus = Torus(link_bandwidth=100.0, ring=16)
    square = [(i, j) for i in range(4) for j in range(4)]
    ring = [(i, 0) for i in range(16)]
    # A grid of 4×4: one way along each line; a line of 16 on an axis of rings: both ways around.
    assert torus.gather_seconds(16_000, square) == pytest.approx(15_000 / 200)
    assert torus.gather_seconds(16_000, ring) == pytest.approx(15_000 / 200)
    # Every other chip of a line: two groups share its links.
    assert torus.gather_seconds(16_000, [(0, 0), (2, 0)]) == pytest.approx(8_000 / (100 * 2 / 3))
    # Within nodes of 8, then what is left of the sum between the two nodes.
    nodes = Switched(node_bandwidth=1000.0, bandwidth=100.0)
    expected = 7 / 8 * 16_000 / 1000 + 1 / 2 * 2_000 / 100
    assert nodes.gather_seconds(16_000, [divmod(i, 8) for i in range(16)]) == pytest.approx(
        expected
    )


def test_the_table_has_a_source_for_every_device():
    for kind, hardware in HARDWARE.items():
        assert hardware.peak_flops.keys() == {'float32', 'bfloat16'}
        assert hardware.source.startswith('https://') and hardware.remark
        assert hardware.usable_bytes < hardware.memory_bytes
        assert bool(hardware.clock) == kind.startswith('v') == (not hardware.target)


@pytest.mark.parametrize(
    ('word', 'shape'),
    [('v5e:4x4', (4, 4)), ('v6e:256', (16, 16)), ('h100:8', (1, 8)), ('H200:32', (4, 8)),
     ('this', (1,)), ('v5e:1', (1, 1)), ('v5p:2x2x2', (2, 2, 2)), ('t4:1', (1, 1))],
)  # fmt: skip
def test_words_for_devices_are_read(word, shape):
    assert parse_devices(word).shape == shape
    assert parse_devices(word).count == math.prod(shape)


@pytest.mark.parametrize(
    ('word', 'allowed'),
    [
        ('v9:3', 'v4, v5e, v5p, v6e, t4, l4, a100, h100, h200 and this'),
        ('v5e', 'v5e:N with N 1x1, 2x2, 2x4'),
        ('v5e:3x3', 'v5e:N with N 1x1'),
        ('v4:4x4', 'v4:N with N 2x2x1'),
        ('h100:12', 'h100:N with N up to 8, or a multiple of 8'),
        ('h100:٣', 'up to 8'),
        ('cpu:8', 'and this'),
        ('this:2', 'and this'),
    ],
)
def test_other_words_are_refused_with_what_is_allowed(word, allowed):
    with pytest.raises(UserError, match=f'--devices={word}: ') as refusal:
        parse_devices(word)
    assert allowed in str(refusal.value) and 'for example v5e:4x4' in str(refusal.value)


def test_what_is_known_of_mnist_is_true(mnist):
    known = abstract_dataset(small_config(**{'dataset.name': 'mnist'}).dataset)
    dataset = small_config(**{'dataset.name': 'mnist', 'dataset.data_dir': mnist}).dataset
    from mixer_dilated.data.datasets import open_dataset

    prepared = open_dataset(dataset)
    for fact in ('image_shape', 'stored_shape', 'num_classes', 'split_sizes'):
        assert getattr(known, fact) == getattr(prepared, fact)


def test_data_that_is_not_here_is_planned_for_or_refused_but_not_downloaded():
    larger = {'dataset.name': 'cifar10', 'dataset.image_size': 224}
    dataset = abstract_dataset(small_config(**larger).dataset)
    assert (dataset.image_shape, dataset.stored_shape) == ((224, 224, 3), (32, 32, 3))
    with pytest.raises(UserError, match=r'dataset.image_size = 0.*of several sizes'):
        abstract_dataset(small_config(**{'dataset.name': 'imagenet2012'}).dataset)
    with pytest.raises(UserError, match=f'downloads nothing; known .* {", ".join(FACTS)}'):
        abstract_dataset(small_config(**{'dataset.name': 'svhn_cropped'}).dataset)
    with pytest.raises(UserError, match='no such data set'):
        abstract_dataset(small_config(**{'dataset.name': 'no_such_set'}).dataset)


def small_setup(**changes):
    config = small_config(**changes)
    return create_setup(config, abstract_dataset(config.dataset))


class FakeCompiler:
    """Memory as a line of the batch, which half precision and microbatches shorten."""

    def __init__(self, fixed=1000, of_image=100):
        self.batches, self._fixed, self._of_image = [], fixed, of_image

    def compile(self, setup, programs):
        config = setup.config
        self.batches.append(config.batch)
        temporaries = config.batch * self._of_image // config.accum_steps
        temporaries //= 2 if config.dtype == 'bfloat16' else 1
        sizes = {'arguments': self._fixed, 'temporaries': temporaries}
        sizes['total'] = self._fixed + temporaries
        return {
            'mesh': {'seeds': 1, 'data': 1, 'model': 1},
            'programs': dict.fromkeys(programs, sizes),
            'memory_bytes': sizes,
            'out_of_memory': None,
            'seconds': 1.0,
            'model_flops': 5e8,
            'bytes_accessed': 1e6,
            'num_params': 1000,
            'cycles_by_part': {'stem': 10},
            'kernels_by_part': None,
            'largest': {'x' * 100: 10},
            'exchanges': [],
            'versions': {'jax': '1'},
            'compile_seconds': 1.0,
        }


def plan_with(usable, setup, compiler):
    hardware = Hardware('tight', HERE.peak_flops, 2 * usable, usable, 1e9)
    answer = compiler.compile(setup, ('train',))
    return make_plan(setup, Devices('v5e:1', 'v5e', (1, 1)), hardware, answer)


@pytest.mark.parametrize(
    ('usable', 'largest'), [(4200, 32), (11_000, 96), (10**9, 300), (900, None)]
)
def test_the_largest_batch_is_found_in_few_compilations(usable, largest):
    setup, compiler = small_setup(), FakeCompiler()
    plan = plan_with(usable, setup, compiler)
    assert plan['fits'] == (usable >= 4200)
    batch = find_largest_batch(setup, plan, compiler.compile)
    assert batch == pytest.approx(largest, rel=1 / 8) if largest else batch is None
    assert batch is None or 1000 + 100 * batch <= usable
    assert len(compiler.batches) <= 5


def test_changes_are_compiled_until_one_fits_or_all_together(capsys):
    setup = small_setup()
    devices = Devices('v5e:1', 'v5e', (1, 1))

    def changes(usable):
        compiler = FakeCompiler()
        plan = plan_with(usable, setup, compiler)
        hardware = Hardware('tight', HERE.peak_flops, usable, usable, 1e9)
        plan['changes'] = changes_that_help(setup, plan, devices, hardware, compiler.compile)
        return plan

    plan = changes(3000)
    assert [row['values'] for row in plan['changes']] == [{'dtype': 'bfloat16'}]
    assert plan['changes'][0]['fits']
    values = [row['values'] for row in changes(1060)['changes']]
    assert values[-1] == {'dtype': 'bfloat16', 'accum_steps': values[1]['accum_steps']}
    plan = changes(1)
    assert not any(row['fits'] for row in plan['changes'])
    plan['largest_batch'] = None
    print_plan('tiny', plan)
    out = capsys.readouterr().out
    assert 'Nothing that was tried fits' in out and '--config.dtype=bfloat16' in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_step_waits_for_exchanges_that_nothing_goes_on_beside():
    setup, answer = small_setup(), FakeCompiler().compile(small_setup(), ('train',))
    row = {'axis': 'data', 'kind': 'all-reduce', 'count': 1, 'array_bytes': 8}
    answer['exchanges'] = [
        {**row, 'is_async': True, 'seconds': 3.0},
        {**row, 'is_async': False, 'seconds': 0.5},
    ]
    plan = make_plan(setup, parse_devices('v5e:1'), HERE, answer)
    assert plan['step_seconds'] == 3.0 + 0.5
    assert plan['images_per_second'] == setup.config.batch / 3.5
    assert plan['run_seconds'] == 3.5 * setup.total_steps
    assert plan['peak_share'] == 5e8 / 3.5 / 1e9


def test_a_run_is_compiled_as_a_whole():
    setup = small_setup()
    answer = compile_programs(setup, parse_devices('this'), HERE)
    assert answer['mesh'] == {'seeds': 1, 'data': 1, 'model': 1}
    assert set(answer['programs']) == {'initialise', 'train', 'evaluate'}
    images = 400 * (64 + 4)  # of both splits
    for program in ('train', 'evaluate'):
        assert answer['programs'][program]['arguments'] >= images + 4 * answer['num_params']
    assert answer['memory_bytes']['total'] == max(
        sizes['total'] for sizes in answer['programs'].values()
    )
    assert answer['cycles'] is None and answer['kernels'] and answer['exchanges'] == []
    assert sum(answer['bytes_by_part'].values()) > 0 and answer['seconds'] > 0
    with pytest.raises(UserError, match=r'config.mesh.model = 3: does not divide'):
        compile_programs(small_setup(**{'mesh.model': 3}), parse_devices('this'), HERE)


def test_results_are_kept_by_config(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(compiler, 'compiler_versions', dict)
    answer = {'seconds': 1.0}
    monkeypatch.setattr(compiler, '_compile_in_process', lambda *_: answer)
    compiled = []
    for batch in (32, 32, 64):
        setup = small_setup(batch=batch)
        devices = parse_devices('v5e:1')
        assert compiler.compile_absent(setup, devices, ('train',), compiled.append) == answer
    assert compiled == ['v5e:1, batch 32: train', 'v5e:1, batch 64: train']


@pytest.mark.parametrize('file', CONFIG_FILES, ids=lambda file: file.stem)
def test_every_config_names_devices_that_its_batch_fits(file):
    config = resolve(config_of(file))
    assert config.devices
    for devices in map(parse_devices, config.devices.split(',')):
        _, data, _ = mesh_sizes(config, devices.count)
        assert devices.kind in HARDWARE and config.batch % data == 0


def test_all_configs_are_planned_for_the_devices_that_they_name(monkeypatch, tmp_path, capsys):
    compiled = []

    def compile_absent(setup, devices, programs, report):
        compiled.append((setup.dataset.name, devices.kind))
        return FakeCompiler().compile(setup, programs)

    monkeypatch.setattr(compiler, 'check_compiler', lambda devices: None)
    monkeypatch.setattr(compiler, 'compile_absent', compile_absent)
    file = tmp_path / 'plans.json'
    assert main(['plan', f'--json={file}'], 0.0) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if str(file) not in line]
    assert max(map(len, lines)) <= 80
    contents = json.loads(file.read_text())
    assert [content['name'] for content in contents] == [path.stem for path in CONFIG_FILES]
    plans = [plan for content in contents for plan in content['plans']]
    assert len(compiled) == len(plans) and ('imagenet2012', 'v5e') in compiled
    for content in contents:
        asked = content['config']['devices'].split(', ')
        assert [plan['devices']['asked'] for plan in content['plans']] == asked
        assert sum(line.startswith(content['name'][:8]) for line in lines) >= len(asked)


@pytest.mark.slow
def test_this_machine_is_measured_and_so_is_a_step(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(this_machine, 'large_side', lambda: 64)
    monkeypatch.setattr(this_machine, 'STEPS_SECONDS', 0.0)
    file = tmp_path / 'plan.json'
    words = ['plan', '--config=configs/digits_dilated.py', '--config.model.num_blocks=1']
    words += ['--devices=this', '--against=measured', '--batch_per_device=64', f'--json={file}']
    assert main(words, 0.0) == 0
    out = capsys.readouterr().out
    words = ' '.join(out.split())
    assert 'this machine, measured' in words and 'Measured on random images' in words
    assert max(len(line) for line in out.splitlines() if str(file) not in line) <= 80
    (plan,) = json.loads(file.read_text())['plans']
    compiled = plan['compiled']
    assert plan['batch'] == 64 and set(compiled['memory_bytes']) == {
        'arguments', 'temporaries', 'total',
    }  # fmt: skip
    expected = {'bytes_accessed', 'flops', 'cycles', 'cycles_by_part', 'kernels', 'exchanges'}
    assert expected | {'compile_seconds', 'versions'} <= set(compiled)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--devices=v9:3'], 'allowed: v4, v5e'),
        (['--config.devices='], '--devices is missing'),
        (['--devices=this', '--against=timed'], 'allowed is measured'),
        (['--devices=v5e:4x4', '--against=measured'], 'add --devices=this'),
        (['--devices=v5e:4x4', '--batch_per_device=0'], 'allowed is an integer from 1'),
        (['--devices=v5e:4x4', '--json=no/such/folder.json'], 'no such folder'),
        (['--devices=v5e:4x4', '--config.mesh.model=3'], 'config.mesh.model = 3: does not divide'),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_line(words, message, capsys):
    assert main(['plan', '--config=configs/digits_dilated.py', *words], 0.0) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1


def has(plugin: str) -> bool:
    return importlib.util.find_spec(plugin) is not None


@pytest.mark.parametrize(
    ('devices', 'plugin', 'package'),
    [('v5e:4x4', 'libtpu', 'jax[tpu]'), ('h100:8', 'jax_cuda13_plugin', 'jax[cuda13-local]')],
)
def test_without_the_compiler_a_line_says_what_to_install(devices, plugin, package):
    if has(plugin):
        pytest.skip(f'{plugin} is installed')
    config = ROOT / 'configs' / 'imagenet2012_s16.py'
    done = run_cli('plan', f'--config={config}', f'--devices={devices}', TFDS_DATA_DIR='/nowhere')
    assert done.returncode == 2 and done.stdout == ''
    assert f"pip install '{package}'" in done.stderr and done.stderr.count('\n') == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ('devices', 'plugin'), [('v5e:2x2', 'libtpu'), ('h100:2', 'jax_cuda13_plugin')]
)
def test_the_compiler_of_a_device_that_is_not_here_plans(devices, plugin, tmp_path):
    if not has(plugin):
        pytest.skip(f'{plugin} is not installed')
    file = tmp_path / 'plan.json'
    done = run_cli(
        'plan', '--config=configs/digits_dilated.py', f'--devices={devices}',
        '--config.batch=64', '--config.mesh.model=2', '--config.model.num_blocks=1',
        f'--json={file}',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == '' and max(map(len, done.stdout.splitlines()[:-1])) <= 80
    (plan,) = json.loads(file.read_text())['plans']
    compiled = plan['compiled']
    assert plan['fits'] and plan['mesh']['model'] == 2 and plan['largest_batch'] >= 64
    axes = {axis for row in compiled['exchanges'] for axis in row['axis'].split('+')}
    assert {'model'} <= axes <= {'data', 'model'}
    counted = compiled['cycles_by_part'] or compiled['bytes_by_part']
    assert {'token_mixing', 'channel_mixing'} <= set(counted)
    assert (compiled['cycles'] is None) == (compiled['kernels'] is not None)
