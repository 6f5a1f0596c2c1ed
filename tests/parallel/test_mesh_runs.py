"""On every mesh the numbers of one device, with the collectives that it should have."""

import json
import os

import filelock
import numpy as np
import pytest

from mixer_dilated.inference.evaluation import evaluate_checkpoint
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import QUICK_COMPILER, run_python
from tests.parallel.mesh_runs import SEEDS, config_on

pytestmark = pytest.mark.slow

BATCH, TESTED, TOKENS, CHANNELS = 32, 50, 9, 8  # of small_config and mesh_runs
KERNELS = {2 * 2 * 8, 9 * 8, 8 * 8, 8 * 10}  # elements of kernels: stem, token, channel, head
EIGHT = '--xla_force_host_platform_device_count=8'
AXES = ('seed', 'data', 'model')


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    """Where `mesh_runs` has left its results on eight devices."""
    test_run = os.environ.get('PYTEST_XDIST_TESTRUNUID')  # of all workers
    base = tmp_path_factory.getbasetemp()
    folder = base.parent / f'meshes-{test_run}' if test_run else base / 'meshes'
    with filelock.FileLock(f'{folder}.lock'):
        if not (folder / 'results.json').exists():
            folder.mkdir()
            words = '-m', 'tests.parallel.mesh_runs', folder
            done = run_python(*words, env={'XLA_FLAGS': f'{QUICK_COMPILER} {EIGHT}'}, timeout=600)
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope='session')
def results(folder):
    return json.loads((folder / 'results.json').read_text())


@pytest.fixture(scope='session')
def meshes(results):
    """(sizes and fsdp, results) of each mesh."""
    return [(json.loads(mesh), of_mesh) for mesh, of_mesh in results['meshes'].items()]


def test_every_mesh_has_the_numbers_of_one_device(results, meshes):
    """Also where the batch is accumulated in parts."""
    # With `fsdp` where there is anything to split.
    assert len(meshes) == (10 + 6 if os.environ.get('MIXER_LONG') else 4 + 2)
    for sizes, of_mesh in meshes:
        assert of_mesh['difference'] < 1e-5, sizes
    assert results['parts']['difference'] < 1e-5


def test_a_batch_with_dropout_and_augmentation_is_split_over_eight_devices(results):
    assert results['random']['difference'] < 1e-5
    # Gradients of a batch that is split have to be added up; no device computes the whole batch.
    kinds = {collective['kind'] for collective in results['random']['training']}
    assert 'all-reduce' in kinds and 'all-gather' not in kinds and results['alone'] == []
    whole, share = results['temporary']
    assert share < 0.6 * whole


def connected_axes(collective: dict, sizes: dict) -> set[str]:
    """The axes of the mesh along which a collective connects devices."""
    places = np.stack(np.unravel_index(np.arange(8), [sizes[axis] for axis in AXES]), axis=-1)
    return {
        axis
        for group in collective['groups']
        for axis, varies in zip(AXES, np.ptp(places[group], axis=0) > 0, strict=True)
        if varies
    }


def seeds_at_once(sizes: dict) -> int:
    return SEEDS // sizes['seed'] if sizes['data'] in (2, 4) else 1


@pytest.mark.parametrize('program', ['training', 'evaluation'])
def test_only_what_a_mesh_needs_is_exchanged(meshes, program):
    for sizes, of_mesh in meshes:
        kinds = {collective['kind'] for collective in of_mesh[program]}
        for collective in of_mesh[program]:
            assert 'seed' not in connected_axes(collective, sizes), (sizes, collective)
        if sizes['fsdp']:
            # XLA chooses between gathers of parameters and products of one shard at a time.
            assert kinds & {'all-gather', 'collective-permute'}, sizes
            for collective in of_mesh[program]:  # parameters and gradients, no part of the batch
                if 'data' in connected_axes(collective, sizes):
                    limit = seeds_at_once(sizes) * max(KERNELS)
                    assert max(collective['sizes'], default=0) <= limit, (sizes, collective)
            continue
        assert kinds == ({'all-reduce'} if sizes['data'] * sizes['model'] > 1 else set()), sizes
        for collective in of_mesh[program]:
            check_sizes(collective, sizes, program)


def check_sizes(collective: dict, mesh: dict, program: str) -> None:
    """Sums over 'model' are of the MLPs' outputs, and of their gradients; sums over 'data' are of
    gradients."""
    axes, data = connected_axes(collective, mesh), mesh['data']
    sizes = {size // seeds_at_once(mesh) for size in collective['sizes']} - {0, 1}
    if axes == {'model'}:
        batch = BATCH if program == 'training' else -(-TESTED // data) * data
        assert sizes <= {TOKENS * batch // data * CHANNELS}
    elif axes == {'data'}:
        whole = KERNELS | {CHANNELS, 10, TOKENS}
        assert sizes <= {size // part for size in whole for part in (1, mesh['model'])}
    else:  # the norm of the gradient
        assert not sizes


def test_an_mlp_split_over_model_is_summed_twice_forward_and_twice_backward(meshes):
    for mesh, of_mesh in meshes:
        if mesh['model'] > 1:
            activations = TOKENS * BATCH // mesh['data'] * CHANNELS * seeds_at_once(mesh)
            sizes = [size for collective in of_mesh['training'] for size in collective['sizes']]
            assert sizes.count(activations) == 4, mesh


def test_each_device_holds_its_share_of_parameters_and_optimizer_state(meshes):
    for mesh, of_mesh in meshes:
        model, data = mesh['model'], mesh['data'] if mesh['fsdp'] else 1
        shapes = of_mesh['shapes_on_a_device']
        seeds = SEEDS // mesh['seed']
        for start in ('params', 'opt_state/1/0/trace'):
            block = f'{start}/MixerBlock_0/channel_mixing'
            assert shapes[f'{block}/Dense_0/kernel'] == [seeds, 8, 8 // model // data]
            assert shapes[f'{block}/Dense_0/bias'] == [seeds, 8 // model]
            assert shapes[f'{block}/Dense_1/kernel'] == [seeds, 8 // model // data, 8]
            assert shapes[f'{start}/stem/kernel'] == [seeds, 2, 2, 1, 8 // data]
            assert shapes[f'{start}/head/kernel'] == [seeds, 8 // data, 10]
            assert shapes[f'{start}/head/bias'] == [seeds, 10]


def test_a_checkpoint_is_read_on_one_four_and_other_devices_to_the_bit_and_goes_on(results):
    assert results['same_bits'] == [True, True, True]
    assert results['second_epoch'] < 1e-5


def test_a_run_of_eight_devices_is_evaluated_and_gone_on_with_on_one(results, folder):
    summary = results['summary']
    expected = [result['test_accuracy'] for result in summary['results']]
    evaluated = evaluate_checkpoint(folder / 'run')['results']
    assert [result['accuracy'] for result in evaluated] == expected
    # The very same run: there is nothing left to train.
    config = config_on({}, num_epochs=1)
    assert train_and_evaluate(config, folder / 'run')['checksum'] == summary['checksum']


def test_summary_prints_the_mesh_and_what_it_leaves_whole(results):
    printed = results['printed']
    assert 'mesh: seed 1 × data 4 × model 2; data splits parameters and' in printed
    whole = printed.split('since the devices do not divide them:\n')[1].splitlines()
    assert whole[0] == '  2 × MixerBlock/token_mixing/Dense_0/kernel'
    assert max(map(len, printed.splitlines())) <= 80
