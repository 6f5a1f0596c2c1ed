"""Folders of earlier versions: the same command goes on, whatever keys have come since."""

import json
import shutil

import numpy as np
import pytest

from mixer_dilated.config import flat, nested
from mixer_dilated.data.dataset_facts import abstract_dataset
from mixer_dilated.files import read_json, write_json
from mixer_dilated.inference.conversion import convert
from mixer_dilated.studies.study import _write_description
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import refuses, small_config, warns
from tests.data.array_sets import arrays, open_npz
from tests.training.runs import Recorder

SINCE = (
    'total_steps', 'loss', 'transfer.grid', 'model.head_bias_init', 'optimizer.end_lr',
    'optimizer.timescale', 'optimizer.momentum_dtype', 'optimizer.beta2', 'optimizer.eps',
    'augment.randaugment.operations',
)  # fmt: skip


def of_before(config: dict) -> dict:
    """A recorded config as the version before wrote it."""
    values = {path: value for path, value in flat(config).items() if path not in SINCE}
    assert len(values) == len(flat(config)) - len(SINCE)
    return nested({**values, 'transfer.stem': 'sample'})


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    config, folder = small_config(num_epochs=1), tmp_path_factory.mktemp('runs') / 'run'
    return config, folder, train_and_evaluate(config, folder)


def test_a_run_of_the_version_before_is_the_run_of_its_command(finished, tmp_path):
    config, folder, summary = finished
    folder = shutil.copytree(folder, tmp_path / 'run')
    write_json(folder / 'config.json', of_before(read_json(folder / 'config.json')))
    recorder = Recorder()
    assert train_and_evaluate(config, folder, progress=recorder) == summary
    assert recorder.resumed_after is None
    with refuses("loss: 'softmax', 'sigmoid'"):
        train_and_evaluate(small_config(num_epochs=1, loss='sigmoid'), folder)


def test_a_study_of_the_version_before_is_the_study_of_its_command(tmp_path):
    before = {'kind': 'sweep', 'axes': [], 'cells': [], 'config': small_config().to_dict()}
    description = {**before, 'train_seconds': None}
    before['config'] = of_before(description['config'])
    write_json(tmp_path / 'study.json', before)
    _write_description(tmp_path, description)
    assert read_json(tmp_path / 'study.json') == json.loads(json.dumps(description))


@pytest.mark.filterwarnings('ignore')
def test_a_run_goes_on_without_the_weights_that_it_began_with(finished, tmp_path):
    """Their GELU is in its config."""
    _, folder, _ = finished
    weights = tmp_path / 'w.npz'
    convert(folder, weights)  # an .npz is taken for one of tanh
    config = small_config(num_epochs=1, init_from=str(weights), **{'model.gelu': 'auto'})
    assert config.model.gelu == 'tanh'
    summary = train_and_evaluate(config, tmp_path / 'run')
    weights.unlink()
    without = small_config(num_epochs=1, init_from=str(weights), **{'model.gelu': 'exact'})
    with warns("config.model.gelu = 'tanh'"):
        assert train_and_evaluate(without, tmp_path / 'run') == summary


@pytest.mark.filterwarnings('ignore')
def test_a_plan_takes_the_properties_of_a_data_set_and_not_its_arrays(tmp_path):
    np.savez(tmp_path / 'a.npz', **arrays(train=40, test=20))
    dataset = {'name': f'npz:{tmp_path / "a.npz"}', 'train_split': 'train', 'test_split': 'test'}
    values = {'dataset': dataset, 'model': {'patches': {'size': 3, 'stride': 2}}}
    config = small_config(**flat(values))
    setup = create_setup(config, abstract_dataset(config.dataset))
    assert len(json.dumps(vars(setup.dataset))) < 1000


def test_trials_of_a_sweep_share_the_arrays_of_a_file(tmp_path):
    one = open_npz(tmp_path / 'a.npz', arrays())
    other = open_npz(tmp_path / 'a.npz')
    assert np.shares_memory(one.splits['train'].images, other.splits['train'].images)
    changed = open_npz(tmp_path / 'a.npz', arrays(train=15))
    assert changed.split_sizes['train'] == 15
