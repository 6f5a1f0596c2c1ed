"""How processes that train together join: their clusters, and what goes wrong."""

import jax
import pytest

from mixer_dilated.cli import distributed


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        ('1:80] absl::Status: DEADLINE_EXCEEDED: x\n\nRPC', '5 minutes'),
        ('absl::Status: ALREADY_EXISTS: a newer incarnation\n', '--process_id'),
        ('UNKNOWN: Gloo context initialization failed: timed out', 'open all ports'),
        ('RuntimeError:  something\nelse', 'RuntimeError: something else'),
    ],
)
def test_an_error_of_jax_at_the_start_becomes_a_line(error, words):
    settings = {'coordinator_address': 'a:1'} if 'absl' in error else {}
    message = distributed._init_error(settings, error)
    assert words in message and '\n' not in message


NAMES = 'SLURM_STEP_NODELIST', 'SLURM_STEP_NUM_TASKS', 'TPU_WORKER_HOSTNAMES', 'TPU_SKIP_MDS_QUERY'


@pytest.mark.parametrize(
    ('environment', 'joins'),
    [
        ({'SLURM_STEP_NODELIST': 'n[1-2]', 'SLURM_STEP_NUM_TASKS': '2'}, True),
        ({'SLURM_STEP_NODELIST': 'n1', 'SLURM_STEP_NUM_TASKS': '1'}, False),
        ({'SLURM_NTASKS': '2'}, False),  # a batch script, outside of srun
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, True),
        ({'TPU_WORKER_HOSTNAMES': 'localhost'}, False),
        ({'TPU_SKIP_MDS_QUERY': '1'}, False),
        ({}, True),  # a Cloud TPU host, which JAX asks for the others
    ],
)
def test_processes_of_slurm_and_cloud_tpu_find_each_other(monkeypatch, environment, joins):
    for name in ('JAX_PLATFORMS', *NAMES):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '3')  # put back at the end
    libtpu = None if 'SLURM' in str(environment) else 'libtpu'
    monkeypatch.setattr(distributed.importlib.util, 'find_spec', lambda name: libtpu)
    calls = []
    monkeypatch.setattr(jax.distributed, 'initialize', lambda **settings: calls.append(settings))
    distributed.init_distributed()
    assert [settings.get('coordinator_address', '') for settings in calls] == [''] * joins
