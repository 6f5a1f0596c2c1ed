"""`config.total_steps`: a run of so many steps, whatever an epoch has."""

import chex
import numpy as np
import pytest

from mixer_dilated.config import changed
from mixer_dilated.config_differences import changes_on_resume, differences_on_resume
from mixer_dilated.data.datasets import Digits
from mixer_dilated.errors import Preempted
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.training.runs import Recorder, check_same_bytes, content, restore_newest, rows_of

STEPS = {'total_steps': 13, 'num_epochs': 50}  # 9 steps an epoch


def test_the_last_epoch_is_cut_short_and_the_schedule_ends_there(tmp_path):
    config = small_config(**STEPS)
    summary = train_and_evaluate(config, tmp_path)
    rows = rows_of(tmp_path)
    assert [(row['epoch'], row['step']) for row in rows] == [(1, 9), (2, 13)]
    assert summary['num_epochs'] == 2
    programs = CompiledFunctions(create_setup(config))
    inputs = programs.in_memory(Digits().read('train[:300]'))
    state = programs.init_state()
    for step, count in ((0, 9), (9, 4)):
        metrics = programs.empty_metrics()
        for chunk in inputs.train_chunks(step, count, seconds=None):
            state, metrics = programs.train_chunk(state, metrics, chunk)
    chex.assert_trees_all_equal(content(restore_newest(config, tmp_path).state), content(state))
    np.testing.assert_allclose(rows[1]['train_loss'], np.asarray(metrics.loss)[0] / 4, rtol=1e-6)
    assert rows[1]['train_accuracy'] == int(metrics.correct[0]) / (4 * config.batch)


@pytest.mark.slow
def test_it_is_stopped_resumed_and_finished_like_any_run(tmp_path):
    config = small_config(**STEPS)
    whole = train_and_evaluate(config, tmp_path / 'whole')
    with pytest.raises(Preempted):
        train_and_evaluate(config, tmp_path / 'parts', progress=Recorder(stop_after=1))
    train_and_evaluate(config, tmp_path / 'parts')
    check_same_bytes(tmp_path / 'parts', tmp_path / 'whole')
    again = Recorder()
    assert train_and_evaluate(config, tmp_path / 'whole', progress=again) == whole
    assert again.resumed_after is None


def test_epochs_that_are_changed_alone_take_its_place():
    config = small_config(**STEPS)
    assert changed(config, {'num_epochs': 2}).total_steps == 0
    assert changed(config, {'num_epochs': 2, 'total_steps': 5}).total_steps == 5
    assert changed(config, {'batch': 16}).total_steps == 13


def test_a_run_of_steps_does_not_become_one_of_epochs():
    steps = small_config(**STEPS, **{'optimizer.decay_type': 'constant'})
    epochs = changed(steps, {'num_epochs': 60})
    assert not changes_on_resume(steps, epochs)
    assert any('total_steps' in text for text in differences_on_resume(steps, epochs))
    more = changed(epochs, {'num_epochs': 70})
    assert changes_on_resume(epochs, more) == {'num_epochs': 70}
