"""Meshes and partitions: which sizes fit, and what lies where."""

import functools
import math
import re
import types

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from mixer_dilated.errors import UserError
from mixer_dilated.parallel.mesh import check_batch, fit_mesh, mesh_sizes, process_local_indices
from mixer_dilated.parallel.partition import Partition, compiler_options, named_leaves
from mixer_dilated.planning.hlo import groups_of
from mixer_dilated.training.optimizer import make_optimizer
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.state import create_model, create_train_state
from tests.conftest import refuses, small_config

AXES = ('seed', 'data', 'model')


@given(
    devices=st.integers(1, 64),
    seeds=st.integers(1, 12),
    sizes=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 4)),
    widths=st.tuples(st.integers(1, 16), st.integers(1, 16)),
)
def test_a_mesh_uses_all_devices_or_is_refused_with_sizes_that_fit(devices, seeds, sizes, widths):
    sizes = dict(zip(AXES, sizes, strict=True))
    config = config_with(seeds, sizes, widths)
    try:
        seed, data, model = mesh_sizes(config, devices)
    except UserError as error:
        key, allowed = re.fullmatch(
            r'config\.mesh\.(\w+) = \d+: .*; allowed are ([\d, ]*\d)(?:, or 0 .*)?', str(error)
        ).groups()
        # What is named as allowed is not refused again, though another key may be.
        for value in map(int, allowed.split(', ')):
            try:
                mesh_sizes(config_with(seeds, {**sizes, key: value}, widths), devices)
            except UserError as other:
                assert not str(other).startswith(f'config.mesh.{key}')
        assert math.prod(mesh_sizes(fit_mesh(config, devices), devices)) == devices
        return
    assert seed * data * model == devices
    assert seeds % seed == 0 and widths[0] % model == 0 and widths[1] % model == 0
    for actual, size in zip((seed, data, model), sizes.values(), strict=True):
        assert size in (0, actual)
    assert fit_mesh(config, devices) == config


resolved = functools.cache(small_config)


def config_with(seeds, sizes, widths):
    """Without the checks of `resolve`, which take their time."""
    config = resolved().copy_and_resolve_references()
    config.num_seeds = seeds
    config.model.tokens_mlp_dim, config.model.channels_mlp_dim = widths
    for axis, size in sizes.items():
        config.mesh[axis] = size
    return config


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'mesh.model': 3}, ['config.mesh.model = 3', '8 devices', '1, 2, 4, 8']),
        (
            {'mesh.model': 8, 'model.tokens_mlp_dim': 12},
            ['config.mesh.model = 8', 'config.model.tokens_mlp_dim = 12', '1, 2, 4'],
        ),
        ({'mesh.seed': 2}, ['config.mesh.seed = 2', 'config.num_seeds = 1', '1, or 0']),
        ({'mesh.data': 4}, ['config.mesh.data = 4', '8 devices', '8, or 0']),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_by_key_with_what_fits(changes, words):
    with refuses(*words):
        mesh_sizes(small_config(**changes), 8)


def test_a_batch_that_devices_or_parts_do_not_divide_is_refused_with_the_numbers():
    mesh = types.SimpleNamespace(shape={'data': 8})
    check_batch(32, mesh)
    with refuses('config.batch = 30', '8 devices', '24 or 32'):
        check_batch(30, mesh)
    with refuses('config.accum_steps = 3', 'config.batch = 32', '1, 2, 4, 8'):
        create_setup(small_config(accum_steps=3))
    with refuses('config.batch = 32', '8 devices', '128'):
        check_batch(32, mesh, accum_steps=16)


def test_a_host_reads_what_its_devices_hold_and_no_more():
    """Chips of which a host has neighbours in a column; no process of this machine has such."""
    slices = {'left': (slice(0, 2), slice(2, 4)), 'right': (slice(0, 2), slice(6, 8))}
    sharding = types.SimpleNamespace(addressable_devices_indices_map=lambda shape: slices)
    own = process_local_indices(sharding, (2, 8))
    assert [index.tolist() for index in own] == [[0, 1], [2, 3, 6, 7]]


def test_only_fsdp_on_a_tpu_is_compiled_with_options():
    options = compiler_options('tpu', fsdp=True)
    assert 'xla_jf_spmd_threshold_for_windowed_einsum_mib' in options
    assert {*options.values()} == {'1000000', 'true'}
    for platform, fsdp in (('tpu', False), ('cpu', True), ('gpu', True)):
        assert compiler_options(platform, fsdp) == {}


@pytest.mark.parametrize('optimizer', ['adamw', 'sgd', 'lamb'])
def test_optimizer_state_lies_as_its_parameters(optimizer):
    config = small_config(**{'optimizer.name': optimizer, 'optimizer.grad_norm_clip': 1.0})
    model, rule = create_model(config, 10), make_optimizer(config.optimizer, 10)
    create = functools.partial(create_train_state, model, rule, (8, 8, 1))
    state = jax.eval_shape(create, jax.random.key(0))
    partition = Partition({'seeds': 1, 'data': 2, 'model': 2}, fsdp=True)
    params = dict(named_leaves(state.params))
    moments = [
        (name, leaf, param)
        for name, leaf in named_leaves(state.opt_state)
        for param in params
        if name.endswith(f'/{param}')
    ]
    assert len(moments) == len(params) * (1 if optimizer == 'sgd' else 2)
    for name, leaf, param in moments:
        assert partition.spec(name, leaf.shape) == partition.spec(param, leaf.shape)


def test_a_parameter_that_does_not_divide_stays_whole_and_is_named():
    mlp, mesh = 'MixerBlock_3/token_mixing', {'seeds': 1, 'data': 4, 'model': 2}
    shapes = {
        f'{mlp}/Dense_0/kernel': (9, 12), f'{mlp}/Dense_0/bias': (12,),
        f'{mlp}/Dense_1/kernel': (12, 9), f'{mlp}/Dense_1/bias': (9,),
        'stem_1/kernel_0': (2, 2, 3, 8), 'head/kernel': (6, 10),
    }  # fmt: skip
    params = {name: jnp.zeros((1, *shape)) for name, shape in shapes.items()}
    fully = Partition(mesh, fsdp=True)
    kernels = {f'{mlp}/Dense_0/kernel', f'{mlp}/Dense_1/kernel'}
    assert set(fully.unsharded_params(params)) == {*kernels, 'head/kernel'}
    assert Partition(mesh).unsharded_params(params) == []
    for name, shape, spec in (
        (f'{mlp}/Dense_0/kernel', (9, 12), (None, 'model')),
        (f'{mlp}/Dense_0/kernel', (9, 16), (None, ('model', 'data'))),
        (f'{mlp}/Dense_1/kernel', (16, 9), (('model', 'data'),)),
        ('stem_1/kernel_0', (2, 2, 3, 8), (None, None, None, 'data')),
        ('head/kernel', (6, 10), ()),
    ):
        assert fully.spec(name, shape) == PartitionSpec(*spec)


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
    assert groups_of(written, devices=4) == groups
    with refuses('somehow', error=ValueError):  # a spelling that is not known
        groups_of('somehow', devices=4)
