"""A run that goes on with another number of devices."""

import contextlib

import jax
import pytest

from mixer_dilated.errors import Preempted
from mixer_dilated.parallel import mesh
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import QUICK_COMPILER, config_file, run_cli, small_config, warns
from tests.training.runs import RUN, Recorder, rows_of


@pytest.mark.parametrize(
    ('devices', 'changes', 'used'),
    [
        (3, {}, 2),  # the batch is 32
        (4, {}, 4),
        (5, {'accum_steps': 16}, 2),
        (7, {'num_seeds': 7}, 7),
        (4, {'mesh.model': 2, 'batch': 25}, 2),
        (3, {'mesh.data': 3}, 3),  # asked for, and refused with the batch
    ],
)
def test_as_many_devices_as_the_batch_divides_among_go_on(monkeypatch, devices, changes, used):
    monkeypatch.setattr(mesh, 'all_devices', lambda: [*range(devices)])
    config, context = small_config(**changes), contextlib.nullcontext()
    if used < devices:
        context = warns(f'config.batch = {config.batch}', f'resumes with {used}')
    with context:
        assert mesh.fit_devices(config) == [*range(used)]


@pytest.mark.slow
def test_a_run_of_one_device_ends_on_two_of_three(tmp_path):
    assert jax.device_count() == 1
    with pytest.raises(Preempted):
        train_and_evaluate(small_config(**RUN), tmp_path / 'run', progress=Recorder(3))
    flags = f'{QUICK_COMPILER} --xla_force_host_platform_device_count=3'
    words = config_file(tmp_path, **RUN), f'--workdir={tmp_path / "run"}'
    done = run_cli(*words, XLA_FLAGS=flags)
    assert 'resumes with 2' in done.stderr
    assert [row['epoch'] for row in rows_of(tmp_path / 'run')] == [1, 2, 3]
