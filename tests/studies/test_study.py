"""Studies: one folder from sweep to statistics, resumed trial by trial."""

import csv
import dataclasses
import json
import shutil
import subprocess
import time

import numpy as np
import pytest
from scipy import stats

from mixer_dilated.errors import BusyError
from mixer_dilated.studies.study import run_study
from mixer_dilated.studies.sweep import Trial
from mixer_dilated.training.run_folder import lock_folder
from tests.conftest import read_lines, refuses, run_python, start_python
from tests.studies.conftest import METHODS, SWEEP_FILE, Recorder, small_sweep, table1_sweep

pytestmark = pytest.mark.slow


def test_the_table_has_a_row_a_trial_and_seed_and_comparisons_are_paired(study):
    folder, statistics, recorder = study
    assert recorder.trained == ['method=plain', 'method=dilated', 'method=wide']
    rows = read_lines(folder / 'results.jsonl')
    assert [(row['method'], row['seed']) for row in rows] == [
        (method, seed) for method in ('plain', 'dilated', 'wide') for seed in range(3)
    ]
    for row in rows:
        summary = json.loads((folder / 'cells' / row['cell'] / 'summary.json').read_text())
        assert row['test_accuracy'] == summary['results'][row['seed']]['test_accuracy']
        assert row['flops_per_image'] == summary['flops_per_image']
        rounds = json.loads((folder / 'timing.json').read_text())[row['cell']]
        assert row['epoch_seconds'] == np.median(rounds) > 0
    with (folder / 'results.csv').open() as file:
        table = list(csv.DictReader(file))
    assert [row['test_accuracy'] for row in table] == [str(row['test_accuracy']) for row in rows]
    assert json.loads((folder / 'statistics.json').read_text()) == statistics
    accuracies = np.array([row['test_accuracy'] for row in rows]).reshape(3, 3)
    wide = statistics['comparisons']['method=wide']
    assert wide['reference'] == 'method=plain'
    np.testing.assert_allclose(wide['difference'], (accuracies[2] - accuracies[0]).mean())
    np.testing.assert_allclose(wide['p'], stats.ttest_rel(accuracies[2], accuracies[0]).pvalue)
    claims = [sentence for sentence in statistics['verdicts'] if "paper's claim" in sentence]
    assert len(claims) == 3 and any('control' in sentence for sentence in statistics['verdicts'])


def test_a_finished_study_trains_nothing_again_and_its_folder_is_of_no_other(study, tmp_path):
    folder, statistics, _ = study
    recorder = Recorder()
    before = (folder / 'timing.json').read_bytes()
    assert run_study(table1_sweep(), folder, command='run', observer=recorder) == statistics
    assert recorder.trained == [] and len(recorder.read) == 3
    assert (folder / 'timing.json').read_bytes() == before
    with refuses(folder, "'table1'", "'sweep'"):
        run_study(small_sweep(num_seeds=3), folder, command='run')
    with refuses(folder, 'seed: 0, 9'):
        run_study(table1_sweep(seed=9), folder, command='run')
    assert json.loads((folder / 'study.json').read_text())['config']['seed'] == 0
    (tmp_path / 'thesis.tex').write_text('precious')
    with refuses(f'--workdir={tmp_path}'):
        run_study(small_sweep(), tmp_path, command='run')


def test_times_of_a_trial_that_is_trained_anew_are_not_kept(study, tmp_path):
    folder = shutil.copytree(study[0], tmp_path / 'copy')
    before = json.loads((folder / 'timing.json').read_text())
    shutil.rmtree(folder / 'cells' / 'method=wide')
    recorder = Recorder()
    statistics = run_study(table1_sweep(), folder, command='run', observer=recorder)
    assert recorder.trained == ['method=wide'] and len(recorder.read) == 2
    after = json.loads((folder / 'timing.json').read_text())
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)  # rounds are paired: all anew
    assert statistics['cells'] == study[1]['cells']


def epochs_of(folder, trials=('method=plain', 'method=dilated')):
    rows = (read_lines(folder / 'cells' / trial / 'metrics.jsonl')[-1] for trial in trials)
    return [row['epoch'] for row in rows]


def test_trials_of_equal_time_have_the_epochs_that_fit_and_keep_them(tmp_path, timed):
    seconds, asked = timed
    sweep = dataclasses.replace(small_sweep(METHODS[:2]), train_seconds=1.3)
    folder = tmp_path / 'study'
    statistics = run_study(sweep, folder, command='run')
    assert epochs_of(folder) == [3, 1]
    # The machine is slower when a lost trial is trained again.
    seconds.update(dict.fromkeys(seconds, 5.0))
    files = [folder / 'cells' / trial / 'weights.npz' for trial in seconds]
    before = [path.read_bytes() for path in files]
    shutil.rmtree(folder / 'cells' / 'method=plain')
    assert run_study(sweep, folder, command='run') == statistics
    assert [path.read_bytes() for path in files] == before and len(asked) == 1
    # A trial that is changed is timed again, with those that it is compared with.
    wider = Trial(METHODS[0].settings, {**METHODS[0].changes, 'model.hidden_dim': 12})
    shutil.rmtree(folder / 'cells' / 'method=plain')
    changed = dataclasses.replace(sweep, trials=[wider, METHODS[1]])
    run_study(changed, folder, command='run')
    assert epochs_of(folder) == [1, 1] and len(asked) == 2


def test_a_study_of_equal_time_is_no_other_study(tmp_path, timed, study):
    sweep = dataclasses.replace(small_sweep(METHODS[:2]), train_seconds=1.3)
    folder = tmp_path / 'study'
    with lock_folder(folder), refuses(folder, error=BusyError):  # no epochs are known yet
        run_study(sweep, folder, command='run')
    run_study(sweep, folder, command='run')
    with refuses('train_seconds 1.3, here 2'):
        run_study(dataclasses.replace(sweep, train_seconds=2), folder, command='run')
    before = (study[0] / 'timing.json').read_bytes()
    with refuses('train_seconds None, here 5'):
        run_study(dataclasses.replace(table1_sweep(), train_seconds=5), study[0], command='run')
    assert (study[0] / 'timing.json').read_bytes() == before


def test_a_time_that_is_too_short_for_the_warm_up_is_refused_with_the_trial(tmp_path, timed):
    sweep = small_sweep(METHODS[:1], num_epochs=9, **{'optimizer.warmup_steps': 20})
    with refuses('plain: train_seconds gives it 1 epoch', 'warmup_steps = 20'):
        run_study(dataclasses.replace(sweep, train_seconds=0.5), tmp_path / 'study', command='run')


def test_a_sweep_killed_half_way_trains_no_finished_trial_again(tmp_path):
    (tmp_path / 'killed.py').write_text(SWEEP_FILE.replace('(1, 2)', '(1,)'))  # two trials
    folder = tmp_path / 'study'
    words = 'run.py', 'sweep', f'--sweep={tmp_path}/killed.py', f'--workdir={folder}'
    process = start_python(*words, stdout=subprocess.DEVNULL)
    first = folder / 'cells' / 'dilation=1_hidden_dim=8' / 'summary.json'
    while not first.exists() and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert first.exists() and not (folder / 'statistics.json').exists()
    finished = list(folder.glob('cells/*/summary.json'))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished}
    again = run_python(*words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count('was trained before') == len(finished) >= 1
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished} == before
    rows = read_lines(folder / 'results.jsonl')
    assert len(rows) == 4 and all(row['epoch_seconds'] for row in rows)
    assert (folder / 'report.html').exists()
