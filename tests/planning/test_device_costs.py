"""What a step costs devices that are not here, by their own compilers, beside plain Flax's."""

import importlib.util
import json

import pytest

from mixer_dilated.planning.compiler import ENVIRONMENT, NO_AUTOTUNING
from tests.conftest import GIVEN_FLAGS, run_python

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ('devices', 'plugin', 'limits'),
    [
        ('v5e:1', 'libtpu', {'cost': 0.9}),
        ('h100:1', 'jax_cuda13_plugin', {'cost': 1.05, 'kernels': 1.1}),
    ],
)
def test_a_training_step_costs_no_more_than_in_plain_flax(devices, plugin, limits):
    if not importlib.util.find_spec(plugin):
        pytest.skip(f'{plugin}, the compiler for {devices}, is not installed')
    environment = ENVIRONMENT | {'XLA_FLAGS': f'{GIVEN_FLAGS} {NO_AUTOTUNING}'}
    words = '-m', 'tests.planning.device_costs', devices
    done = run_python(*words, env=environment, timeout=None)
    assert done.returncode == 0, done.stderr
    costs = json.loads(done.stdout.splitlines()[-1])
    for name, limit in limits.items():
        assert costs['ours'][name] <= limit * costs['plain Flax'][name], costs
