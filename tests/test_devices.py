"""Devices: one and eight compute the same, a batch is split over all."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from mixer_dilated.errors import UserError
from mixer_dilated.parallel.mesh import check_batch, process_local_indices
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import create_setup
from tests.conftest import QUICK_COMPILER, ROOT, small_config

ON_DEVICES = """
import json, sys, numpy as np, jax
from mixer_dilated.data.datasets import Digits
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import create_setup
from tests.conftest import small_config
config = small_config(**json.loads(sys.argv[2]))
programs = CompiledFunctions(create_setup(config))
train = programs.in_memory(Digits().read('train[:300]'))
test = programs.in_memory(Digits().read('test[:100]'))
state = programs.init_state()
one = CompiledFunctions.for_devices(create_setup(config), jax.devices()[:1]).abstract_state()
assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(one))
compiled = programs.train_function().as_text()
state, metrics = programs.train_epoch(state, train)
result = programs.evaluate(state, test)
leaves = jax.tree.leaves((state.params, metrics, result))
np.savez(sys.argv[1], *map(np.asarray, leaves), devices=jax.device_count(),
    all_reduces=compiled.count(' all-reduce('), all_gathers=compiled.count(' all-gather('),
    temporary=programs.training_bytes()['temporary'])
"""


RUN = {'model.dropout_rate': 0.1, 'augment.translate': 1}


@pytest.mark.slow
def test_one_and_eight_devices_agree_after_an_epoch(tmp_path):
    """Of SGD see `parallel/test_mesh_runs.py`.

    Plain AdamW is left out: the output bias of token mixing has a
    gradient of zero, since the next LayerNorm removes it, and AdamW makes steps of the learning
    rate out of its rounding."""
    saved = []
    for devices in (1, 8):
        path = tmp_path / f'{devices}.npz'
        flags = f'{QUICK_COMPILER} --xla_force_host_platform_device_count={devices}'
        subprocess.run(
            [sys.executable, '-c', ON_DEVICES, str(path), json.dumps(RUN)],
            cwd=ROOT, env={**os.environ, 'XLA_FLAGS': flags}, check=True, timeout=300,
        )  # fmt: skip
        saved.append(dict(np.load(path)))
        assert saved[-1].pop('devices') == devices
        # Gradients of a batch that is split have to be added up; those of a whole one do not.
        assert (saved[-1].pop('all_reduces') > 0) == (devices > 1)
        # No device computes the whole batch.
        assert saved[-1].pop('all_gathers') == 0
    whole, share = (each.pop('temporary') for each in saved)
    assert share < 0.6 * whole
    assert set(saved[0]) == set(saved[1])
    for name, array in saved[0].items():
        np.testing.assert_allclose(saved[1][name], array, atol=1e-5, err_msg=name)


class EightDevices:
    shape = {'data': 8}


def test_a_batch_that_the_devices_do_not_divide_is_refused_with_the_numbers():
    check_batch(32, EightDevices())
    with pytest.raises(UserError, match=r'config.batch = 30: 8 devices .* like 24 or 32'):
        check_batch(30, EightDevices())


def test_state_and_batches_are_laid_over_the_mesh():
    programs = CompiledFunctions(create_setup(small_config()))
    for leaf in jax.tree.leaves((programs.init_state(), programs.abstract_state())):
        assert leaf.sharding.mesh.axis_names == ('seeds', 'data', 'model')
    assert all(size > 0 for size in programs.training_bytes().values())


class HostOfATorus:
    """Stands for the sharding of an array over chips of which a host has neighbours in a column.

    A process of this machine cannot have such devices.
    """

    def addressable_devices_indices_map(self, shape):
        return {'left': (slice(0, 2), slice(2, 4)), 'right': (slice(0, 2), slice(6, 8))}


def test_a_host_reads_what_its_devices_hold_and_no_more():
    own = process_local_indices(HostOfATorus(), (2, 8))
    np.testing.assert_array_equal(own[0], [0, 1])
    np.testing.assert_array_equal(own[1], [2, 3, 6, 7])
