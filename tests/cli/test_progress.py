"""What is printed while a run trains."""

import numpy as np
import pytest

from mixer_dilated.cli.main import main
from mixer_dilated.cli.progress import TerminalProgress, TerminalStudyProgress, classes_text
from mixer_dilated.studies.sweep import prepare
from mixer_dilated.training import train as train_module
from mixer_dilated.training.setup import create_setup
from tests.cli.conftest import CONFIG
from tests.conftest import small_config
from tests.studies.conftest import small_sweep


def test_an_epoch_without_an_evaluation_shows_no_test_accuracy(capsys, tmp_path):
    progress = TerminalProgress('run', tmp_path)
    progress.on_ready(create_setup(small_config(num_epochs=2)), 0, None)
    row = {'epoch': 1, 'train_accuracy': 0.5, 'test_accuracy': None}
    speed = {'seconds': 1.0, 'images_per_second': 10.0, 'input_share': 0.0}
    progress.on_epoch_end([row], speed)
    late = {**speed, 'input_share': 0.06}
    progress.on_epoch_end([{**row, 'epoch': 2, 'test_accuracy': 0.25}], late)
    _, first, second, hint = capsys.readouterr().out.splitlines()
    assert hint.startswith('  6% of it waited for images; ') and 'config.input.' in hint
    assert first.startswith('epoch 1/2  train 0.5000  10 images/s')
    assert second.startswith('epoch 2/2  train 0.5000  test 0.2500  10 images/s')


def test_classes_are_printed_with_the_fewest_and_most_images():
    names = ('cat', 'Pembroke_Welsh_Corgi_dog', 'fox')
    assert classes_text(names, np.array([9, 7, 5])) == (
        '3 classes: cat, Pembroke_Welsh_Corg…, fox; 5 (fox) to 9 (cat) training images'
    )
    assert classes_text(names[::2], np.array([4, 4])) == (
        '2 classes: cat, fox; 4 training images each'
    )


@pytest.mark.slow
def test_a_run_that_a_cluster_stops_ends_as_by_a_signal(monkeypatch, capsys, tmp_path):
    """Another process says so at the second look; no signal came here."""
    looks = iter([False, True])
    monkeypatch.setattr(train_module, 'any_host', lambda asked: next(looks))
    assert main([CONFIG, f'--workdir={tmp_path / "run"}'], 0.0) == 143
    out, err = capsys.readouterr()
    assert 'stopped after step 8, which is saved;\nthe same command with' in out
    assert err == '' and (tmp_path / 'run' / 'checkpoints' / '8').is_dir()


@pytest.mark.parametrize(
    ('split', 'shown'), [('', 'test 0.2500'), ('train[300:400]', 'val 0.7500')]
)
def test_trials_are_shown_by_what_methods_are_chosen_by(split, shown, capsys, tmp_path):
    progress = TerminalStudyProgress('s', tmp_path)
    trials = prepare(small_sweep(**{'dataset.val_split': split}))
    progress.on_start(trials)
    with progress.trial(trials[0], False):
        pass
    summary = {'results': [{'test_accuracy': 0.25, 'val_accuracy': 0.75}]}
    progress.on_trial_end(trials[0], summary, False)
    assert f'plain  {shown}  0 s' in capsys.readouterr().out
