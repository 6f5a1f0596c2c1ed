"""Meshes: on every one the numbers of one device, with the collectives that it should have."""

import functools
import json
import math
import os
import re
import subprocess
import sys

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from mixer_dilated.cli.main import main
from mixer_dilated.config import differences
from mixer_dilated.data.augmentation import Augmentation, MixupCutmix
from mixer_dilated.data.datasets import Digits
from mixer_dilated.errors import UserError
from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.parallel.mesh import check_batch, fit_mesh, mesh_sizes
from mixer_dilated.parallel.partition import Partition, named_leaves
from mixer_dilated.planning.hlo import groups_of
from mixer_dilated.training.optimizer import make_optimizer
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.state import create_model, create_train_state
from mixer_dilated.training.step import train_step
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import QUICK_COMPILER, ROOT, small_config
from tests.parallel.mesh_runs import SEEDS, config_on

pytestmark = pytest.mark.slow

BATCH, TESTED, TOKENS, CHANNELS = 32, 50, 9, 8  # of small_config and mesh_runs
KERNELS = {2 * 2 * 8, 9 * 8, 8 * 8, 8 * 10}  # elements of kernels: stem, token, channel, head
EIGHT = '--xla_force_host_platform_device_count=8'


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    """Where `mesh_runs` has left what it found on eight devices."""
    of_all_processes = os.environ.get('PYTEST_XDIST_TESTRUNUID')
    base = tmp_path_factory.getbasetemp()
    folder = base.parent / f'meshes-{of_all_processes}' if of_all_processes else base / 'meshes'
    with filelock.FileLock(f'{folder}.lock'):
        if not (folder / 'found.json').exists():
            folder.mkdir()
            subprocess.run(
                [sys.executable, '-m', 'tests.parallel.mesh_runs', str(folder)],
                cwd=ROOT, check=True, timeout=600,
                env={**os.environ, 'XLA_FLAGS': f'{QUICK_COMPILER} {EIGHT}'},
            )  # fmt: skip
    return folder


@pytest.fixture(scope='session')
def found(folder):
    return json.loads((folder / 'found.json').read_text())


def test_every_mesh_has_the_numbers_of_one_device(found):
    # With `fsdp` where there is anything to split.
    assert len(found['meshes']) == (10 + 6 if os.environ.get('MIXER_LONG') else 4 + 2)
    for mesh, of_mesh in found['meshes'].items():
        assert of_mesh['difference'] < 1e-5, mesh


def test_accumulation_on_a_mesh_has_the_numbers_of_one_device(found):
    assert found['parts']['difference'] < 1e-5


@pytest.mark.parametrize('program', ['training', 'evaluation'])
def test_no_collective_connects_seeds(found, program):
    for mesh, of_mesh in found['meshes'].items():
        for collective in of_mesh[program]:
            assert 'seed' not in connected(collective, json.loads(mesh)), (mesh, collective)


@pytest.mark.parametrize('program', ['training', 'evaluation'])
def test_only_what_a_mesh_needs_is_exchanged(found, program):
    for mesh, of_mesh in found['meshes'].items():
        shape = json.loads(mesh)
        at_once = SEEDS // shape['seed'] if shape['data'] in (2, 4) else 1
        kinds = {each['kind'] for each in of_mesh[program]}
        if shape['fsdp']:
            # XLA chooses between gathers of parameters and products of one shard at a time.
            assert kinds & {'all-gather', 'collective-permute'}, mesh
            for each in of_mesh[program]:  # parameters and gradients, and no part of the batch
                if 'data' in connected(each, shape):
                    assert max(each['sizes'], default=0) <= at_once * max(KERNELS), (mesh, each)
            continue
        assert kinds == ({'all-reduce'} if shape['data'] * shape['model'] > 1 else set()), mesh
        for each in of_mesh[program]:
            check_sizes(each, shape, at_once, program)


def check_sizes(collective: dict, shape: dict, at_once: int, program: str) -> None:
    """Sums over 'model' are of the MLPs' outputs, and of their gradients; sums over 'data' are of
    gradients."""
    axes, model = connected(collective, shape), shape['model']
    sizes = {size // at_once for size in collective['sizes']} - {0, 1}
    if axes == {'model'}:
        devices = shape['data']
        batch = BATCH if program == 'training' else -(-TESTED // devices) * devices
        assert sizes <= {TOKENS * batch // devices * CHANNELS}
    elif axes == {'data'}:
        vectors = {CHANNELS, 10, TOKENS}
        whole = KERNELS | vectors
        assert sizes <= {size // part for size in whole for part in (1, model)}
    else:  # the norm of the gradient
        assert not sizes


def test_an_mlp_split_over_model_is_summed_twice_forward_and_twice_backward(found):
    for mesh, of_mesh in found['meshes'].items():
        shape = json.loads(mesh)
        if shape['model'] == 1:
            continue
        at_once = SEEDS // shape['seed'] if shape['data'] in (2, 4) else 1
        activations = TOKENS * BATCH // shape['data'] * CHANNELS * at_once
        sizes = [size for each in of_mesh['training'] for size in each['sizes']]
        assert sizes.count(activations) == 4, mesh


def connected(collective: dict, shape: dict) -> set[str]:
    """The axes of the mesh along which a collective connects devices."""
    sizes = [shape[axis] for axis in ('seed', 'data', 'model')]
    places = np.stack(np.unravel_index(np.arange(8), sizes), axis=-1)
    return {
        axis
        for group in collective['groups']
        for axis, varies in zip(
            ('seed', 'data', 'model'), np.ptp(places[group], axis=0) > 0, strict=True
        )
        if varies
    }


@pytest.mark.parametrize(
    ('written', 'groups'),
    [
        ('replica_groups={}, x', [[0, 1, 2, 3]]),
        ('replica_groups={{0,2},{1,3}}, x', [[0, 2], [1, 3]]),
        ('replica_groups=[2,2]<=[4], x', [[0, 1], [2, 3]]),
        ('replica_groups=[2,2]<=[2,2]T(1,0), x', [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}, x", [[0, 1], [2, 3]]),
    ],
)
def test_groups_of_devices_are_read_in_every_spelling(written, groups):
    assert groups_of(written, devices=4) == [list(group) for group in groups]


def test_a_spelling_that_is_not_known_is_not_passed_over():
    with pytest.raises(ValueError, match='cannot be read: somehow'):
        groups_of('somehow', devices=4)


def test_each_device_holds_its_share_of_parameters_and_optimizer_state(found):
    for mesh, of_mesh in found['meshes'].items():
        shape = json.loads(mesh)
        model, data = shape['model'], shape['data'] if shape['fsdp'] else 1
        shapes = of_mesh['shapes_on_a_device']
        seeds = SEEDS // shape['seed']
        for start in ('params', 'opt_state/1/0/trace'):
            block = f'{start}/MixerBlock_0/channel_mixing'
            assert shapes[f'{block}/Dense_0/kernel'] == [seeds, 8, 8 // model // data]
            assert shapes[f'{block}/Dense_0/bias'] == [seeds, 8 // model]
            assert shapes[f'{block}/Dense_1/kernel'] == [seeds, 8 // model // data, 8]
            assert shapes[f'{start}/stem/kernel'] == [seeds, 2, 2, 1, 8 // data]
            assert shapes[f'{start}/head/kernel'] == [seeds, 8 // data, 10]
            assert shapes[f'{start}/head/bias'] == [seeds, 10]


def test_a_checkpoint_is_read_on_one_four_and_other_devices_to_the_bit_and_goes_on(found):
    assert found['same_bits'] == [True, True, True]
    assert found['second_epoch'] < 1e-5


def test_a_run_of_eight_devices_is_evaluated_and_gone_on_with_on_one(found, folder):
    summary = found['summary']
    of_run = [each['test_accuracy'] for each in summary['results']]
    results = evaluate_checkpoint(folder / 'run')['results']
    assert [each['accuracy'] for each in results] == of_run
    # The very same run: there is nothing left to train.
    here = config_on({}, num_epochs=1)
    assert train_and_evaluate(here, folder / 'run')['checksum'] == summary['checksum']


@given(
    devices=st.integers(1, 64),
    seeds=st.integers(1, 12),
    sizes=st.fixed_dictionaries(
        {
            'mesh.seed': st.integers(0, 4),
            'mesh.data': st.integers(0, 4),
            'mesh.model': st.integers(1, 4),
        }
    ),
    widths=st.tuples(st.integers(1, 16), st.integers(1, 16)),
)
def test_a_mesh_uses_all_devices_or_is_refused_with_sizes_that_fit(devices, seeds, sizes, widths):
    config = config_with(seeds, sizes, widths)
    try:
        seed, data, model = mesh_sizes(config, devices)
    except UserError as error:
        key, allowed = re.fullmatch(
            r'config\.(mesh\.\w+) = \d+: .*; allowed are ([\d, ]*\d)(?:, or 0 .*)?', str(error)
        ).groups()
        # What is named as allowed is not refused again, though another key may be.
        for value in map(int, allowed.split(', ')):
            try:
                mesh_sizes(config_with(seeds, {**sizes, key: value}, widths), devices)
            except UserError as other:
                assert not str(other).startswith(f'config.{key}')
        assert math.prod(mesh_sizes(fit_mesh(config, devices), devices)) == devices
        return
    assert seed * data * model == devices
    assert seeds % seed == 0 and widths[0] % model == 0 and widths[1] % model == 0
    asked = [sizes[f'mesh.{name}'] for name in ('seed', 'data', 'model')]
    for found, size in zip((seed, data, model), asked, strict=True):
        assert size in (0, found)
    assert fit_mesh(config, devices) == config


@functools.cache
def resolved():
    return small_config()


def config_with(seeds, sizes, widths):
    """Without the checks of `resolve`, which take their time."""
    config = resolved().copy_and_resolve_references()
    config.num_seeds = seeds
    config.model.tokens_mlp_dim, config.model.channels_mlp_dim = widths
    for key, size in sizes.items():
        config.mesh[key.split('.')[1]] = size
    return config


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'mesh.model': 3}, r'config.mesh.model = 3: .* 8 devices; allowed are 1, 2, 4, 8'),
        (
            {'mesh.model': 8, 'model.tokens_mlp_dim': 12},
            r'config.mesh.model = 8: .* config.model.tokens_mlp_dim = 12; allowed are 1, 2, 4',
        ),
        ({'mesh.seed': 2}, r'config.mesh.seed = 2: .* config.num_seeds = 1; allowed are 1, or 0'),
        ({'mesh.data': 4}, r'config.mesh.data = 4: does not fit 8 devices .* allowed are 8, or 0'),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_by_key_with_what_fits(changes, message):
    with pytest.raises(UserError, match=message):
        mesh_sizes(small_config(**changes), 8)


def test_the_mesh_is_no_part_of_the_result_and_parts_of_a_batch_are():
    mesh = {'mesh.data': 4, 'mesh.model': 2, 'mesh.seed': 1, 'mesh.fsdp': True}
    assert differences(small_config(), small_config(**mesh)) == []
    assert differences(small_config(), small_config(accum_steps=2)) == ['accum_steps: 1, 2']


@pytest.mark.parametrize('optimizer', ['adamw', 'sgd', 'lamb'])
def test_optimizer_state_lies_as_its_parameters(optimizer):
    config = small_config(**{'optimizer.name': optimizer, 'optimizer.grad_norm_clip': 1.0})
    state = jax.eval_shape(
        functools.partial(
            create_train_state,
            create_model(config, 10),
            make_optimizer(config.optimizer, 10),
            (8, 8, 1),
        ),
        jax.random.key(0),
    )
    partition = Partition({'seeds': 1, 'data': 2, 'model': 2}, fsdp=True)
    params = dict(named_leaves(state.params))
    of_params = [
        (name, leaf)
        for name, leaf in named_leaves(state.opt_state)
        if any(name.endswith(f'/{known}') for known in params)
    ]
    assert len(of_params) == len(params) * (1 if optimizer == 'sgd' else 2)
    for name, leaf in of_params:
        parameter = next(known for known in params if name.endswith(f'/{known}'))
        assert partition.spec(name, leaf.shape) == partition.spec(parameter, leaf.shape)


def test_a_parameter_that_does_not_divide_stays_whole_and_is_named():
    params = {
        'MixerBlock_3': {
            'token_mixing': {
                'Dense_0': {'kernel': jnp.zeros((1, 9, 12)), 'bias': jnp.zeros((1, 12))},
                'Dense_1': {'kernel': jnp.zeros((1, 12, 9)), 'bias': jnp.zeros((1, 9))},
            }
        },
        'stem_1': {'kernel_0': jnp.zeros((1, 2, 2, 3, 8))},
        'head': {'kernel': jnp.zeros((1, 6, 10))},
    }
    mesh = {'seeds': 1, 'data': 4, 'model': 2}
    mlp = 'MixerBlock_3/token_mixing'
    fully = Partition(mesh, fsdp=True)
    kernels = {f'{mlp}/Dense_0/kernel', f'{mlp}/Dense_1/kernel'}
    assert set(fully.unsharded_params(params)) == {*kernels, 'head/kernel'}
    assert fully.spec(f'{mlp}/Dense_0/kernel', (9, 12)) == PartitionSpec(None, 'model')
    assert fully.spec(f'{mlp}/Dense_0/kernel', (9, 16)) == PartitionSpec(None, ('model', 'data'))
    assert fully.spec(f'{mlp}/Dense_1/kernel', (16, 9)) == PartitionSpec(('model', 'data'))
    assert fully.spec('stem_1/kernel_0', (2, 2, 3, 8)) == PartitionSpec(None, None, None, 'data')
    assert fully.spec('head/kernel', (6, 10)) == PartitionSpec()
    assert Partition(mesh).unsharded_params(params) == []


class HalfMixed(Augmentation):
    """Mixes in three tenths of each image's neighbour: nothing to draw, so quick to compile."""

    def draw_mixing(self, *_):
        return MixupCutmix(jnp.float32(0.7), jnp.float32(0.7))


def test_a_batch_in_parts_makes_the_step_of_the_whole_in_the_memory_of_a_part():
    """Mixed examples find their neighbours in other parts."""
    widths = {'model.hidden_dim': 32, 'model.channels_mlp_dim': 256}
    config = small_config(**widths, **{'optimizer.name': 'sgd', 'optimizer.base_lr': 0.1})
    key = jax.random.key(0)
    state = jax.jit(
        functools.partial(
            create_train_state,
            create_model(config, 10),
            make_optimizer(config.optimizer, 10),
            (8, 8, 1),
        )
    )(key)
    examples = Digits().read('train[:256]')
    found, memory = [], []
    for parts in (1, 8):
        step = functools.partial(
            train_step, augmentation=HalfMixed(label_smoothing=0.1), accum_steps=parts
        )
        program = jax.jit(step).lower(state, *examples, key).compile()
        next_state, metrics = program(state, *examples, key)
        found.append(jax.tree.leaves((next_state.params, metrics)))
        memory.append(program.memory_analysis().temp_size_in_bytes)
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)
    assert memory[1] < 0.35 * memory[0]


def test_parts_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(
        UserError, match=r'accum_steps = 3: .*config.batch = 32; .* like 1, 2, 4, 8'
    ):
        create_setup(small_config(accum_steps=3))
    config = small_config(accum_steps=16)
    with pytest.raises(UserError, match=r'batch = 32: 8 devices, times .* multiples of 128'):
        check_batch(config.batch, EightDevices, config.accum_steps)


class EightDevices:
    shape = {'data': 8}


def test_summary_says_the_mesh_and_what_it_leaves_whole(found):
    printed = found['printed']
    assert 'mesh: seed 1 × data 4 × model 2; data splits parameters and' in printed
    whole = printed.split('since the devices do not divide them:\n')[1].splitlines()
    assert whole[0] == '  2 × MixerBlock/token_mixing/Dense_0/kernel'
    assert max(map(len, printed.splitlines())) <= 80


def test_the_command_line_refuses_a_mesh_in_one_line(capsys):
    words = [f'--config={ROOT}/configs/digits_dilated.py', '--config.mesh.model=3']
    assert main(['summary', *words], 0.0) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'config.mesh.model = 3: does not divide the 1 device; allowed are 1' in line
