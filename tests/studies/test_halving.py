"""Successive halving: who goes on, for how many epochs, and what is said of it."""

import contextlib
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mixer_dilated.errors import NonFiniteError
from mixer_dilated.studies import halving
from mixer_dilated.studies.observer import StudyObserver
from mixer_dilated.studies.sweep import Trial, grid, prepare, product
from mixer_dilated.studies.trials import trial_folder
from mixer_dilated.training.run_folder import lock_folder, write_summary
from tests.conftest import read_lines, refuses, run_cli
from tests.studies.conftest import SWEEP_FILE, small_sweep

METHODS = grid({'model.patches.size': (1, 2, 3), 'model.patches.dilation': (1, 2)})
DATASETS = [
    Trial({'dataset': name}, {'dataset.train_split': split})
    for name, split in (('first', 'train[:300]'), ('second', 'train[400:700]'))
]
GONE = Trial({'dataset': 'gone'}, {'dataset.name': 'folder:/nowhere'})
UNLIKE = [
    Trial({'method': m, **d.settings}, d.changes) for m, d in zip('ab', DATASETS, strict=True)
]
REFERENCE = 'size=2_dilation=1'
VALIDATION = {'num_epochs': 9, 'num_seeds': 4, 'dataset.val_split': 'train[300:400]'}


def finish(folder, trial, accuracy):
    """Makes what halving reads of a trial."""
    workdir = trial_folder(folder, trial)
    workdir.mkdir(parents=True, exist_ok=True)
    checked = {'files': {}, 'num_epochs': 1, 'skipped_steps': 0}
    write_summary(workdir, {**checked, 'val_accuracy': accuracy})


def halve(sweep, accuracies, folder, factor=2):
    """The studies that halving makes, (folder's name, sweep), of trials with given accuracies.

    A trial without one does not stay finite.
    """
    studies = []

    def run_study(sweep, folder, **others):
        studies.append((folder.name, sweep))
        trials = [trial for trial in prepare(sweep) if not trial.invalid]
        for trial in trials:
            if trial.name in accuracies:
                finish(folder, trial, accuracies[trial.name])
        if not accuracies.keys() >= {trial.name for trial in trials}:
            raise NonFiniteError('some')
        return others

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halving, 'run_study', run_study)
        others = {'command': 'run', 'observer': StudyObserver()}
        done = halving.successive_halving(sweep, folder, factor, **others)
    return studies, done['chosen']


def names_of(sweep):
    return [trial.name for trial in prepare(sweep)]


def test_the_most_accurate_go_on_for_more_epochs_and_at_the_end_with_all_seeds(tmp_path):
    sweep = small_sweep(METHODS, reference={'size': 2, 'dilation': 1}, **VALIDATION)
    accuracies = dict(zip(names_of(sweep), (0.3, 0.5, 0.1, 0.7, 0.6, 0.4), strict=True))
    studies, text = halve(sweep, accuracies, tmp_path)
    assert [name for name, _ in studies] == ['rung-1', 'rung-2', 'final']
    sweeps = [sweep for _, sweep in studies]
    assert [of.base.num_seeds for of in sweeps] == [1, 1, 4]
    configs = [[trial.setup.config for trial in prepare(of)] for of in sweeps]
    assert [{config.num_epochs for config in of} for of in configs] == [{4}, {9}, {9}]
    assert {config.eval_every for config in configs[0]} == {4}
    best = ['size=2_dilation=2', 'size=3_dilation=1', 'size=1_dilation=2']
    left = [{*names_of(of)} for of in sweeps]
    assert left == [{*accuracies}, {REFERENCE, *best}, {REFERENCE, *best[:2]}]
    assert 'Methods looked at: 5, in 2 rungs of 5 and 3' in text and '2 were kept' in text


@settings(max_examples=10)
@given(draw=st.data())
def test_over_several_data_sets_the_lowest_mean_ranks_go_on(draw, tmp_path_factory):
    sweep = small_sweep(product(METHODS, DATASETS), **VALIDATION)
    names = names_of(sweep)
    drawn = draw.draw(st.permutations(range(len(names))))
    accuracies = dict(zip(names, drawn, strict=True))
    studies, _ = halve(sweep, accuracies, tmp_path_factory.mktemp('rungs'), factor=3)
    ranks = [stats.rankdata([-accuracies[name] for name in names[k::2]]) for k in (0, 1)]
    best = np.argsort(np.mean(ranks, axis=0), kind='stable')[:2]
    assert {*names_of(studies[-1][1])} == {names[2 * k + part] for k in best for part in (0, 1)}


def test_trials_that_are_invalid_or_do_not_stay_finite_do_not_compete(tmp_path):
    sweep = small_sweep(METHODS, **VALIDATION)
    accuracies = dict(zip(names_of(sweep)[:2], (0.1, 0.2), strict=True))
    studies, _ = halve(sweep, accuracies, tmp_path / 'two', factor=3)
    assert names_of(studies[-1][1]) == [*accuracies]
    with pytest.raises(NonFiniteError):
        halve(sweep, {}, tmp_path / 'none')
    wrong = {'method': 'wrong'}, {'model.patches.size': 9, 'model.patches.padding': 'VALID'}
    methods = [Trial({'method': 'a'}, {}), Trial({'method': 'b'}, {}), Trial(*wrong)]
    sweep = small_sweep(product(methods, DATASETS), **VALIDATION)
    accuracies = {f'method={m}_dataset={d}': 0.5 for m in 'ab' for d in ('first', 'second')}
    studies, text = halve(sweep, accuracies, tmp_path / 'wrong')
    assert 'Methods looked at: 2' in text and len(prepare(studies[0][1])) == 4
    final = prepare(studies[-1][1])  # whose report names them
    assert [bool(trial.invalid) for trial in final] == [False, False, True, True]


@pytest.mark.parametrize(
    ('methods', 'left'),
    [
        (METHODS, ['size=2_dilation=1', 'size=2_dilation=2']),
        ([METHODS[0], METHODS[1], METHODS[3], METHODS[5]], ['size=2_dilation=2']),
    ],
)
def test_what_no_method_that_is_left_is_compared_with_goes(tmp_path, methods, left):
    sweep = small_sweep(methods, reference={'dilation': 1}, **VALIDATION)
    accuracies = (0.1, 0.2, 0.3, 0.9, 0.5, 0.6)
    accuracies = dict(zip(names_of(small_sweep(METHODS)), accuracies, strict=True))
    final = halve(sweep, accuracies, tmp_path, factor=3)[0][-1][1]
    assert names_of(final) == left and bool(final.reference) == (len(left) > 1)


@pytest.mark.parametrize(
    ('words', 'changes', 'fields'),
    [
        (['dataset.val_split'], {'num_epochs': 2}, {}),
        (['total_steps = 7'], {**VALIDATION, 'total_steps': 7}, {}),
        (["kind = 'table1'"], VALIDATION, {'kind': 'table1'}),
        (['train_seconds = 3'], VALIDATION, {'train_seconds': 3}),
        (['warmup_steps', 'rung 1'], {**VALIDATION, 'optimizer.warmup_steps': 50}, {}),
        (['gone', '/nowhere'], VALIDATION, {'trials': product(METHODS, [DATASETS[0], GONE])}),
        (['every data set'], VALIDATION, {'trials': UNLIKE}),
    ],
    ids=str,
)
def test_what_cannot_be_halved_is_refused(tmp_path, words, changes, fields):
    sweep = dataclasses.replace(small_sweep(METHODS, **changes), **fields)
    with refuses('--halving', *words):
        halve(sweep, {}, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / 'summary.json').touch()
    with refuses(f'--workdir={tmp_path}', 'summary.json'):
        halve(small_sweep(METHODS, **VALIDATION), {}, tmp_path)


def test_a_process_that_helps_waits_for_the_one_that_leads_and_chooses_the_same(
    tmp_path, monkeypatch
):
    sweep = small_sweep(METHODS[:2], **VALIDATION)
    names, held, calls = names_of(sweep), contextlib.ExitStack(), []

    def run_study(sweep, folder, **others):
        calls.append(folder.name)
        if len(calls) == 1:  # another process leads the first rung, and has one trial to go
            folder.mkdir(parents=True)
            held.enter_context(lock_folder(folder))
            return None
        for trial in prepare(sweep):
            finish(folder, trial, float(trial.name == names[1]))
        return {'names': names_of(sweep)}

    observer = StudyObserver()
    observer.on_wait = lambda folders: held.close()
    monkeypatch.setattr(halving, 'run_study', run_study)
    done = halving.successive_halving(sweep, tmp_path, 2, command='run', observer=observer)
    assert calls == ['rung-1', 'rung-1', 'final'] and done == {'names': names[1:]}


@pytest.mark.slow
def test_the_same_command_resumes_the_rungs(tmp_path):
    (tmp_path / 'halved.py').write_text(SWEEP_FILE)
    words = 'sweep', f'--sweep={tmp_path}/halved.py', f'--workdir={tmp_path}/study', '--halving=2'
    first, again = run_cli(*words), run_cli(*words)
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    rows = [read_lines(path) for path in (tmp_path / 'study').glob('*/results.jsonl')]
    assert sorted(map(len, rows)) == [4, 6]
    assert again.stdout.count('was trained before') == 4 + 3
    assert first.stdout.splitlines()[-1] == again.stdout.splitlines()[-1]
    assert (tmp_path / 'study' / 'final' / 'report.html').is_file()
