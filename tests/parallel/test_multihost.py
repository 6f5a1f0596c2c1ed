"""What every host asks JAX first: its settings and its devices."""

import jax
import pytest

from mixer_dilated.parallel.multihost import SETTINGS, all_devices, process_count
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import raising, refuses, run_cli, small_config

OTHERS = {
    'jax_enable_x64': True,
    'jax_default_prng_impl': 'rbg',
    'jax_threefry_partitionable': False,
    'jax_random_seed_offset': 1,
    'jax_disable_jit': True,
    'jax_no_tracing': True,
    'jax_numpy_dtype_promotion': 'strict',
    'jax_numpy_rank_promotion': 'raise',
    'jax_transfer_guard': 'disallow',
}


@pytest.mark.parametrize('name', SETTINGS)
def test_a_setting_that_changes_results_is_refused_by_name(name, tmp_path):
    jax.config.update(name, OTHERS[name])
    try:
        with refuses(f'{name.upper()}={OTHERS[name]}', f'allowed is {SETTINGS[name]}'):
            train_and_evaluate(small_config(), tmp_path / 'run')
    finally:
        jax.config.update(name, SETTINGS[name])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('error', [AssertionError(), RuntimeError('Unknown backend cuda')])
def test_a_platform_that_is_not_here_is_refused_by_its_variable(error, monkeypatch):
    monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
    monkeypatch.setattr(jax, 'devices', raising(error))
    for function in (all_devices, process_count):
        with refuses('JAX_PLATFORMS=cuda'):
            function()


@pytest.mark.slow
def test_a_run_is_not_damaged_under_another_setting(plain_run, tmp_path):
    words = ('convert', plain_run, tmp_path / 'out.npz')
    for name, value in (('JAX_ENABLE_X64', '1'), ('JAX_PLATFORMS', 'no_such')):
        done = run_cli(*words, **{name: value})
        assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
        assert name in done.stderr and 'remove' not in done.stderr
