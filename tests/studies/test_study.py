"""Studies: cells, resuming cell by cell, tables, statistics, sentences."""

import contextlib
import csv
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from scipy import stats

from mixer_dilated.data.corruption import CORRUPTIONS
from mixer_dilated.errors import NonFiniteError, UserError
from mixer_dilated.studies import cells as cells_file
from mixer_dilated.studies import study as study_file
from mixer_dilated.studies import timing
from mixer_dilated.studies.observer import StudyProgress
from mixer_dilated.studies.study import run_study, timed_together
from mixer_dilated.studies.sweep import Cell, Sweep, crossed, grid, prepare
from mixer_dilated.training.run_folder import lock_folder
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.state import create_model
from tests.conftest import ROOT, config_of, small_config

pytestmark = pytest.mark.slow

METHODS = (
    Cell({'method': 'plain'}, {'model.patches.dilation': 1}),
    Cell({'method': 'dilated'}, {'model.patches.dilation': 2}),
    Cell({'method': 'wide'}, {'model.patches.size': 3, 'model.patches.dilation': 1}),
)


def small_sweep(cells=METHODS, kind='sweep', reference=None, **changes):
    changes = {'num_epochs': 1, 'num_seeds': 2, **changes}
    return Sweep(
        title='Small',
        question='Does it work?',
        base=small_config(**changes),
        cells=cells,
        reference=reference,
        kind=kind,
        image_sizes=(16, 8) if kind == 'resolution' else (),
    )


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_grid_is_every_combination_and_crossed_joins_groups():
    cells = grid({'model.patches.size': (2, 3), 'batch': (8,)})
    assert [cell.settings for cell in cells] == [
        {'size': 2, 'batch': 8},
        {'size': 3, 'batch': 8},
    ]
    assert cells[1].changes == {'model.patches.size': 3, 'batch': 8}
    both = crossed(METHODS[:2], cells)
    assert [(cell.settings['method'], cell.settings['size']) for cell in both] == [
        ('plain', 2), ('plain', 3), ('dilated', 2), ('dilated', 3),
    ]  # fmt: skip
    assert both[3].changes == {
        'model.patches.dilation': 2, 'model.patches.size': 3, 'batch': 8,
    }  # fmt: skip


def test_an_axis_of_one_value_is_refused():
    for value in (2, 'SAME'):
        with pytest.raises(UserError, match=r'grid: model.patches.padding = .* several values'):
            grid({'model.patches.padding': value})


def test_impossible_cells_keep_their_reason_and_wrong_keys_are_refused():
    cells = prepare(
        small_sweep(
            grid({'model.patches.size': (2, 8), 'model.patches.dilation': (1, 2)}),
            **{'model.patches.padding': 'VALID'},
        )
    )
    assert [bool(cell.impossible) for cell in cells] == [False, False, False, True]
    assert 'a window of 15 pixels does not fit' in cells[3].impossible
    assert cells[1].name == 'size=2_dilation=2' and cells[1].label == 'size 2, dilation 2'
    with pytest.raises(UserError, match=r'did you mean config.model.patches.dilation'):
        prepare(small_sweep(grid({'model.patches.dilatoin': (1, 2)})))
    with pytest.raises(UserError, match='no cell of the sweep can be trained'):
        prepare(
            small_sweep(grid({'model.patches.size': (9,)}), **{'model.patches.padding': 'VALID'})
        )


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'kind': 'contest'}, "kind = 'contest': allowed are table1, sweep"),
        ({'cells': ()}, 'at least one Cell'),
        ({'cells': ({'method': 'plain'},)}, 'at least one Cell of settings'),
        ({'cells': (METHODS[0], Cell({'size': 3}, {}))}, 'the same settings, in the same order'),
        ({'cells': (Cell({'seed': 1}, {}),)}, "a setting cannot be called 'seed'"),
        ({'cells': grid({'num_seeds': (1, 2)})}, 'config.num_seeds cannot differ between cells'),
        ({'cells': (Cell({'method': 'x' * 201}, {}),)}, 'a name of 208 characters'),
        ({'cells': (METHODS[0], METHODS[0])}, 'two cells of the sweep'),
        ({'reference': {'method': 'none'}}, 'no cell has these settings'),
        ({'reference': {'metod': 'plain'}}, "called 'metod'; those of the cells are method"),
        ({'cells': grid({'model.phases': (1, 'x')})}, 'config.model.phases = '),
        ({'cells': grid({'model.patches.dilation': (1, 0)})}, 'patches.dilation = 0: allowed'),
        ({'cells': grid({'batch': (8, 1.5)})}, 'config.batch = 1.5: allowed is an integer'),
        ({'kind': 'little_data'}, "needs? settings 'method', 'train_images'"),
        ({'title': 3}, 'title = 3: allowed is text'),
        ({'reference': 'plain'}, "reference = 'plain': allowed are settings"),
        ({'cells': (Cell({'method': 'a'}, None),)}, 'Cell of settings and changes'),
        ({'cells': (Cell('a', {}),)}, 'Cell of settings and changes'),
        ({'kind': 'resolution'}, r'image_sizes = \(\): allowed are different whole numbers'),
        ({'kind': 'resolution', 'image_sizes': 28}, 'image_sizes = 28: allowed'),
        ({'kind': 'resolution', 'image_sizes': (28, 28)}, r'image_sizes = \(28, 28\)'),
        ({'kind': 'resolution', 'image_sizes': (28, 0)}, r'image_sizes = \(28, 0\)'),
    ],
    ids=str,
)
def test_a_sweep_that_cannot_be_is_refused_with_what_is_allowed(changes, message):
    with pytest.raises(UserError, match=message):
        prepare(dataclasses.replace(small_sweep(), **changes))


@pytest.mark.parametrize('path', sorted((ROOT / 'configs' / 'sweeps').glob('*.py')), ids=str)
def test_every_sweep_file_can_be_prepared(path, mnist):
    sweep = config_of(path, 'get_sweep')
    sweep.base.dataset.data_dir = mnist
    cells = prepare(sweep)
    assert len({cell.name for cell in cells}) == len(cells) > 1
    assert all('window' in cell.impossible or 'phases' in cell.impossible
               for cell in cells if cell.impossible)  # fmt: skip


def test_the_methods_of_table_1_are_the_config_files(mnist):
    sweep = config_of(ROOT / 'configs/sweeps/table1.py', 'get_sweep')
    sweep.base.dataset.data_dir = mnist
    networks = [
        create_model(cell.setup.config, 10)
        for cell in prepare(sweep)
    ]  # fmt: skip
    files = ('mnist_baseline', 'mnist_dilated', 'mnist_plain7')
    from mixer_dilated.config import resolve

    configs = [resolve(config_of(ROOT / f'configs/{name}.py')) for name in files]
    assert networks == [create_model(config, 10) for config in configs]


class Recorder(StudyProgress):
    """Notes which cells were trained and which were there."""

    def __init__(self):
        self.trained, self.read = [], []

    def cell_done(self, cell, summary, finished):
        (self.read if finished else self.trained).append(cell.name)


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """A finished study of kind table1: its folder, statistics, and the cells it trained."""
    folder = tmp_path_factory.mktemp('studies') / 'table1'
    recorder = Recorder()
    sweep = small_sweep(kind='table1', reference={'method': 'plain'}, num_seeds=3)
    return folder, run_study(sweep, folder, command='run', progress=recorder), recorder


def test_the_table_has_a_row_a_cell_and_seed(study):
    folder, _, recorder = study
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


def test_comparisons_are_paired_by_seed(study):
    folder, statistics, _ = study
    assert json.loads((folder / 'statistics.json').read_text()) == statistics
    rows = read_lines(folder / 'results.jsonl')
    accuracies = np.array([row['test_accuracy'] for row in rows]).reshape(3, 3)
    found = statistics['comparisons']['method=wide']
    assert found['reference'] == 'method=plain'
    np.testing.assert_allclose(found['difference'], (accuracies[2] - accuracies[0]).mean())
    np.testing.assert_allclose(found['p'], stats.ttest_rel(accuracies[2], accuracies[0]).pvalue)
    claims = [sentence for sentence in statistics['verdicts'] if "paper's claim" in sentence]
    assert len(claims) == 3 and any('control' in sentence for sentence in statistics['verdicts'])


def test_a_finished_study_trains_nothing_again(study):
    folder, statistics, _ = study
    recorder = Recorder()
    before = (folder / 'timing.json').read_bytes()
    sweep = small_sweep(kind='table1', reference={'method': 'plain'}, num_seeds=3)
    assert run_study(sweep, folder, command='run', progress=recorder) == statistics
    assert recorder.trained == [] and len(recorder.read) == 3
    assert (folder / 'timing.json').read_bytes() == before


def test_a_folder_of_another_study_is_refused(study, tmp_path):
    folder, _, _ = study
    with pytest.raises(UserError, match=r"holds another study .kind 'table1', here 'sweep'"):
        run_study(small_sweep(num_seeds=3), folder, command='run')
    with pytest.raises(UserError, match=r'other settings .key: there, here.: seed: 0, 9'):
        run_study(small_sweep(kind='table1', num_seeds=3, seed=9), folder, command='run')
    assert json.loads((folder / 'study.json').read_text())['config']['seed'] == 0
    (tmp_path / 'thesis.tex').write_text('precious')
    with pytest.raises(UserError, match='not the folder of a study'):
        run_study(small_sweep(), tmp_path, command='run')


def test_times_of_a_cell_that_is_trained_anew_are_not_kept(study, tmp_path):
    folder = shutil.copytree(study[0], tmp_path / 'copy')
    before = json.loads((folder / 'timing.json').read_text())
    shutil.rmtree(folder / 'cells' / 'method=wide')
    recorder = Recorder()
    sweep = small_sweep(kind='table1', reference={'method': 'plain'}, num_seeds=3)
    statistics = run_study(sweep, folder, command='run', progress=recorder)
    assert recorder.trained == ['method=wide'] and len(recorder.read) == 2
    after = json.loads((folder / 'timing.json').read_text())
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)  # rounds are paired: all anew
    assert statistics['cells'] == study[1]['cells']


def test_a_cell_that_does_not_stay_finite_costs_the_others_nothing(tmp_path):
    cells = (Cell({'method': 'wild'}, {'optimizer.base_lr': 1e6}), METHODS[1])
    calm = {'optimizer.name': 'sgd', 'optimizer.base_lr': 0.1, 'num_seeds': 1}
    with (
        pytest.warns(UserWarning, match='^wild: epoch 1, step .* is not finite'),
        pytest.raises(NonFiniteError, match=r'1 of 2 cells .*\(wild\); the others are trained'),
    ):
        run_study(small_sweep(cells, **calm), tmp_path / 'study', command='')
    done = sorted(path.parent.name for path in tmp_path.glob('study/cells/*/summary.json'))
    assert done == ['method=dilated']
    with pytest.warns(UserWarning, match=r'of 9 steps left out'):
        run_study(small_sweep(cells, **calm, on_nonfinite='skip'), tmp_path / 'study', command='')


def test_resolution_is_studied_by_one_process(tmp_path):
    with lock_folder(tmp_path / 'study'), pytest.raises(UserError, match='another process works'):
        run_study(small_sweep(kind='resolution'), tmp_path / 'study', command='')


def test_a_process_beside_another_study_is_refused(study, tmp_path, monkeypatch):
    monkeypatch.setattr(cells_file, 'GRACE_SECONDS', 0)
    folder = shutil.copytree(study[0], tmp_path / 'copy')
    with (
        lock_folder(folder),
        pytest.raises(UserError, match=r'at another study .what differs: kind'),
    ):
        run_study(small_sweep(num_seeds=3), folder, command='')


@pytest.fixture
def begun(study, tmp_path, monkeypatch):
    """A copy of the study that lacks the results of two cells; and its sweep. No epoch is timed."""
    seconds = lambda tasks, rounds, progress: dict.fromkeys(tasks, [1.0] * rounds)  # noqa: E731
    monkeypatch.setattr(study_file, 'epoch_seconds', seconds)
    folder = shutil.copytree(study[0], tmp_path / 'copy')
    for name in ('cells/method=plain/summary.json', 'cells/method=wide/summary.json'):
        (folder / name).unlink()
    (folder / 'statistics.json').unlink()
    return folder, small_sweep(kind='table1', reference={'method': 'plain'}, num_seeds=3)


def assert_same_accuracies(statistics, expected):
    found, wanted = (
        {name: each['test_accuracy'] for name, each in of['cells'].items()}
        for of in (statistics, expected)
    )
    assert found == wanted


class Letting(Recorder):
    """Lets go of a lock where it is told of something."""

    def __init__(self, lock, event):
        super().__init__()
        self.held = contextlib.ExitStack()
        self.held.enter_context(lock)
        tell = getattr(self, event)
        setattr(self, event, lambda *args: (self.held.close(), tell(*args)))


def test_a_second_process_trains_what_none_has_begun(begun):
    folder, sweep = begun
    recorder = Recorder()
    with lock_folder(folder), lock_folder(folder / 'cells' / 'method=plain'):
        assert run_study(sweep, folder, command='', progress=recorder) is None
    assert recorder.trained == ['method=wide']
    assert not (folder / 'statistics.json').exists()


def test_the_first_process_waits_for_cells_of_others(begun, study):
    folder, sweep = begun
    recorder = Letting(lock_folder(folder / 'cells' / 'method=plain'), 'waits')
    statistics = run_study(sweep, folder, command='run', progress=recorder)
    assert recorder.read + recorder.trained == ['method=dilated', 'method=wide', 'method=plain']
    assert_same_accuracies(statistics, study[1])


def test_who_has_helped_compares_if_the_first_process_is_gone(begun, study):
    folder, sweep = begun
    recorder = Letting(lock_folder(folder), 'helps')
    statistics = run_study(sweep, folder, command='run', progress=recorder)
    assert recorder.trained == ['method=plain', 'method=wide'] and len(recorder.read) == 3
    assert_same_accuracies(statistics, study[1])


def test_epochs_of_streams_are_timed_on_a_few_batches(monkeypatch):
    monkeypatch.setattr(timing, 'NOISE_BYTES', 3 * 32 * 8 * 8)  # three batches of nine
    trained = []

    class Timed:
        def __init__(self, setup, examples):
            trained.append((setup.steps_per_epoch, setup.config.num_seeds, len(examples.labels)))

        def seconds(self):
            return 0.5

    monkeypatch.setattr(timing, 'TimedEpoch', Timed)
    streamed = create_setup(small_config(num_seeds=2, **{'input.mode': 'stream'}))
    found = timing.epoch_seconds({'streamed': streamed}, 2, StudyProgress())
    assert trained == [(3, 1, 96)] and found == {'streamed': [1.5, 1.5]}


def test_of_many_cells_those_are_timed_together_that_are_compared():
    cells = [types.SimpleNamespace(name=f'{kind}{i}') for i in range(3) for kind in 'abcd']
    references = {f'{kind}{i}': f'{kind}0' for kind in 'abcd' for i in (1, 2)}
    groups = timed_together(cells, references, at_once=7)
    assert [[cell.name for cell in group] for group in groups] == [
        ['a0', 'a1', 'a2', 'b0', 'b1', 'b2'],
        ['c0', 'c1', 'c2', 'd0', 'd1', 'd2'],
    ]
    of_one_reference = dict.fromkeys((cell.name for cell in cells), 'a0')
    assert list(map(len, timed_together(cells, of_one_reference, at_once=7))) == [7, 5]
    assert timed_together(cells, references, at_once=12) == [[*groups[0], *groups[1]]]


SWEEP_FILE = """
from mixer_dilated.studies.sweep import Sweep, grid
from tests.conftest import small_config

def get_sweep():
    base = small_config(num_epochs=2, num_seeds=2)
    cells = grid({'model.patches.dilation': (1,), 'model.hidden_dim': (8, 12)})
    return Sweep(title='Killed', question='Is it trained twice?', base=base, cells=cells)
"""


def test_a_sweep_killed_half_way_trains_no_finished_cell_again(tmp_path):
    (tmp_path / 'killed.py').write_text(SWEEP_FILE)
    folder = tmp_path / 'study'
    command = [sys.executable, 'run.py', 'sweep', f'--sweep={tmp_path}/killed.py',
               f'--workdir={folder}']  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    first = folder / 'cells' / 'dilation=1_hidden_dim=8' / 'summary.json'
    while not first.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.exists() and not (folder / 'statistics.json').exists()
    finished = list(folder.glob('cells/*/summary.json'))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished}
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count('was trained before') == len(finished) >= 1
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished} == before
    rows = read_lines(folder / 'results.jsonl')
    assert len(rows) == 4 and all(row['epoch_seconds'] for row in rows)
    assert (folder / 'report.html').exists()


def test_robustness_at_strength_zero_is_the_test_accuracy(tmp_path):
    sweep = small_sweep(METHODS[:2], kind='robustness', reference={'method': 'plain'})
    statistics = run_study(sweep, tmp_path / 'study', command='run')
    clean = {
        (row['cell'], row['seed']): row['test_accuracy']
        for row in read_lines(tmp_path / 'study' / 'results.jsonl')
    }
    rows = read_lines(tmp_path / 'study' / 'robustness.jsonl')
    strengths = sum(len(corruption.severities) for corruption in CORRUPTIONS.values())
    assert len(rows) == 2 * 2 * strengths
    for row in rows:
        if row['strength'] == 0:
            assert row['accuracy'] == clean[row['cell'], row['seed']]
    assert any('Occlusion of 12' in sentence for sentence in statistics['verdicts'])
    shutil.rmtree(tmp_path / 'study' / 'cells' / 'method=plain' / 'checkpoints')
    with pytest.raises(UserError, match=r'method=plain: no checkpoint there; remove this folder'):
        run_study(sweep, tmp_path / 'study', command='run')


def test_resolution_measures_every_side_and_fits_its_growth(tmp_path):
    sweep = small_sweep(
        METHODS[:2],
        kind='resolution',
        reference={'method': 'plain'},
        batch=8,
        **{'optimizer.warmup_steps': 20},  # more than the steps that are timed
    )
    statistics = run_study(sweep, tmp_path / 'study', command='run')
    rows = read_lines(tmp_path / 'study' / 'resolution.jsonl')
    assert [(row['cell'], row['image_size']) for row in rows] == [
        (cell, side) for side in (8, 16) for cell in ('method=plain', 'method=dilated')
    ]
    for row in rows:
        assert row['num_tokens'] == (-(-row['image_size'] // 3)) ** 2
        assert 0 < row['step_seconds_low'] <= row['step_seconds'] <= row['step_seconds_high']
        assert row['memory_bytes'] > 0
        assert row['step_seconds'] == np.median(row['round_seconds'])
    plain = [row for row in rows if row['cell'] == 'method=plain']
    slope = stats.linregress(
        np.log([row['image_size'] for row in plain]), np.log([row['num_tokens'] for row in plain])
    ).slope
    np.testing.assert_allclose(statistics['fits']['method=plain']['num_tokens']['exponent'], slope)
    assert statistics['verdicts'][0].count(' of the ') == 3
