"""Plans: memory, time, the largest batch, changes, and the command."""

import dataclasses
import importlib.util
import json

import pytest

from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.data.dataset_facts import abstract_dataset
from mixer_dilated.errors import UserError
from mixer_dilated.parallel.mesh import mesh_sizes
from mixer_dilated.planning import compiler
from mixer_dilated.planning import plan as planning
from mixer_dilated.planning.devices import HARDWARE, Devices, Hardware, parse_devices
from mixer_dilated.planning.plan import make_plan, plan_run
from mixer_dilated.planning.programs import OF_STEP, compile_programs
from mixer_dilated.reports.formatting import grouped_text
from mixer_dilated.reports.tables.plan_table import print_plan, print_plans
from mixer_dilated.training.setup import create_setup
from tests.conftest import CONFIG_FILES, ROOT, refused, run_cli, small_config


def small_setup(**changes):
    config = small_config(**changes)
    return create_setup(config, abstract_dataset(config.dataset))


def devices_with(usable_bytes):
    hardware = Hardware('slow', {'float32': 1e9, 'bfloat16': 1e9}, 2**40, usable_bytes, 1e9)
    return Devices('v5e:1', 'v5e', (1, 1), hardware)


@pytest.fixture
def compiled(monkeypatch):
    """(data set, kind of device, batch) of each of a compiler's answers.

    Memory is a line of the batch, which half precision and microbatches shorten.
    """
    compiled = []

    def compile_for(setup, devices, programs, report):
        config = setup.config
        compiled.append((setup.dataset.name, devices.kind, config.batch))
        temporaries = config.batch * 100 // config.accum_steps
        temporaries //= 2 if config.dtype == 'bfloat16' else 1
        sizes = {'arguments': 1000, 'temporaries': temporaries, 'total': 1000 + temporaries}
        row = {'axis': 'data', 'kind': 'all-reduce', 'count': 1, 'array_bytes': 8}
        exchanges = [{**row, 'is_async': True, 'seconds': 3.0}]
        exchanges += [{**row, 'is_async': False, 'seconds': 0.5}]
        return dict.fromkeys(OF_STEP) | {
            'mesh': {'seeds': 1, 'data': 1, 'model': 1}, 'num_params': 1000,
            'programs': dict.fromkeys(programs, sizes), 'memory_bytes': sizes,
            'out_of_memory': None, 'seconds': 1.0, 'model_flops': 5e8, 'bytes_accessed': 1e6,
            'cycles_by_part': {'stem': 10}, 'largest': {'x' * 100: 10}, 'exchanges': exchanges,
            'versions': {'jax': '1'}, 'compile_seconds': 1.0,
        }  # fmt: skip

    monkeypatch.setattr(planning, 'compile_for', compile_for)
    return compiled


@pytest.mark.parametrize(
    ('usable', 'largest'), [(4200, 32), (11_000, 96), (10**9, 300), (900, None)]
)
def test_the_largest_batch_is_found_in_few_compilations(usable, largest, compiled):
    plan = plan_run(small_setup(), devices_with(usable), print)
    assert plan['fits'] == (usable >= 4200)
    batch = plan['largest_batch']
    assert batch == pytest.approx(largest, rel=1 / 8) if largest else batch is None
    assert batch is None or 1000 + 100 * batch <= usable
    assert len({batch for *_, batch in compiled}) <= 5


def test_changes_are_compiled_until_one_fits_or_all_together(compiled, capsys):
    plans = [plan_run(small_setup(), devices_with(usable), print) for usable in (3000, 1060, 1)]
    first, values, _ = ([row['values'] for row in plan['changes']] for plan in plans)
    assert first == [{'dtype': 'bfloat16'}]
    assert values[-1] == {'dtype': 'bfloat16', 'accum_steps': values[1]['accum_steps']}
    plan = plans[-1]
    assert plan['changes'] and not any(row['fits'] for row in plan['changes'])
    print_plan('tiny', plan)
    out = capsys.readouterr().out
    assert 'Nothing that was tried fits' in out and '--config.dtype=bfloat16' in out
    assert max(map(len, out.splitlines())) <= 80


def test_of_several_plans_each_is_a_line_of_80_columns_with_nothing_cut(compiled, capsys):
    plan = make_plan(small_setup(), devices_with(2**30), print)
    plan |= {'devices': {**plan['devices'], 'asked': 'v5p:16x16'}, 'images_per_second': 123456}
    print_plans({'imagenet2012_s16_dilated': [plan] * 2, '…' + 'x' * 60: [plan]})
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and out.count('…') == 1
    assert (
        out.count('imagenet2012_s16_dilated  v5p:16x16   yes') == 2 and grouped_text(123456) in out
    )


def test_a_step_waits_for_exchanges_that_nothing_goes_on_beside(compiled):
    setup = small_setup()
    plan = make_plan(setup, devices_with(2**30), print)
    assert plan['step_seconds'] == 3.0 + 0.5
    assert plan['images_per_second'] == setup.config.batch / 3.5
    assert plan['run_seconds'] == 3.5 * setup.total_steps
    assert plan['peak_share'] == 5e8 / 3.5 / 1e9


def test_a_run_is_compiled_as_a_whole():
    devices = dataclasses.replace(devices_with(2**30), kind='this', shape=(1,))
    answer = compile_programs(small_setup(), devices)
    assert answer['mesh'] == {'seeds': 1, 'data': 1, 'model': 1}
    assert set(answer['programs']) == {'initialise', 'train', 'evaluate'}
    images = small_setup().num_examples['train'] * (64 + 4)
    for program in ('train', 'evaluate'):
        assert answer['programs'][program]['arguments'] >= images + 4 * answer['num_params']
    totals = [sizes['total'] for sizes in answer['programs'].values()]
    assert answer['memory_bytes']['total'] == max(totals)
    assert answer['cycles'] is None and answer['kernels'] and answer['exchanges'] == []
    assert sum(answer['bytes_by_part'].values()) > 0 and answer['seconds'] > 0
    with pytest.raises(UserError, match=r'config.mesh.model = 3: does not divide'):
        compile_programs(small_setup(**{'mesh.model': 3}), devices)


def test_results_are_kept_by_config(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(compiler, 'compiler_versions', dict)
    monkeypatch.setattr(compiler, '_compile_in_process', lambda *_: {'seconds': 1.0})
    reports = []
    for batch in (32, 32, 64):
        setup, devices = small_setup(batch=batch), parse_devices('v5e:1')
        compiled = compiler.compile_for(setup, devices, ('train',), reports.append)
        assert compiled == {'seconds': 1.0}
    assert reports == ['v5e:1, batch 32: train', 'v5e:1, batch 64: train']


def test_all_configs_are_planned_for_the_devices_that_they_name_and_their_batch_fits(
    compiled, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(planning, 'check_compiler', lambda devices: None)
    file = tmp_path / 'plans.json'
    assert main(['plan', f'--json={file}'], 0.0) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if str(file) not in line]
    assert max(map(len, lines)) <= 80
    contents = json.loads(file.read_text())
    assert [content['name'] for content in contents] == [path.stem for path in CONFIG_FILES]
    for content in contents:
        config = resolve(content['config'])
        asked = config.devices.split(', ')
        assert [plan['devices']['asked'] for plan in content['plans']] == asked
        for plan in content['plans']:
            _, data, _ = mesh_sizes(config, plan['devices']['count'])
            assert plan['batch'] % data == 0
        assert sum(line.startswith(content['name'][:8]) for line in lines) >= len(asked)
    assert len(compiled) == sum(len(content['plans']) for content in contents)
    assert ('imagenet2012', 'v5e') in {answer[:2] for answer in compiled}
    assert {kind for _, kind, _ in compiled} <= {*HARDWARE}


@pytest.mark.slow
def test_this_machine_is_measured_and_so_is_a_step(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(planning, 'large_side', lambda: 64)
    monkeypatch.setattr(planning, 'STEPS_SECONDS', 0.0)
    file = tmp_path / 'plan.json'
    words = ['plan', '--config=configs/digits_dilated.py', '--config.model.num_blocks=1']
    words += ['--devices=this', '--against=measured', '--batch_per_device=64', f'--json={file}']
    assert main(words, 0.0) == 0
    out = capsys.readouterr().out
    words = ' '.join(out.split())
    assert 'this machine, measured' in words and 'Measured on random images' in words
    assert max(len(line) for line in out.splitlines() if str(file) not in line) <= 80
    (plan,) = json.loads(file.read_text())['plans']
    assert plan['batch'] == 64
    assert {*plan['compiled']['memory_bytes']} == {'arguments', 'temporaries', 'total'}
    assert {*OF_STEP, 'compile_seconds', 'versions'} <= {*plan['compiled']}


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
    assert message in refused(capsys, 'plan', '--config=configs/digits_dilated.py', *words)


@pytest.mark.parametrize(
    ('devices', 'package'), [('v5e:4x4', 'jax[tpu]'), ('h100:8', 'jax[cuda13-local]')]
)
def test_without_the_compiler_a_line_says_what_to_install(devices, package, monkeypatch, capsys):
    monkeypatch.setattr('importlib.util.find_spec', lambda _: None)
    monkeypatch.setenv('TFDS_DATA_DIR', '/nowhere')
    config = ROOT / 'configs' / 'imagenet2012_s16.py'
    line = refused(capsys, 'plan', f'--config={config}', f'--devices={devices}')
    assert f"pip install '{package}'" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ('devices', 'plugin'), [('v5e:2x2', 'libtpu'), ('h100:2', 'jax_cuda13_plugin')]
)
def test_the_compiler_of_a_device_that_is_not_here_plans(devices, plugin, tmp_path):
    if not importlib.util.find_spec(plugin):
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
